package listener_test

import (
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"spotinference/server/listener"
)

// accepts plays a list of Accept's answers.
type accepts struct {
	net.Listener
	errs []error
}

func (a *accepts) Accept() (net.Conn, error) {
	err := a.errs[0]
	a.errs = a.errs[1:]
	return nil, err
}

func (a *accepts) Addr() net.Addr { return &net.UnixAddr{Net: "accepts"} }
func (a *accepts) Close() error   { return nil }

func TestAMomentWithoutDescriptorsPasses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, err := listener.New(listener.Config{MaxRequest: 1, Log: slog.New(slog.DiscardHandler), Listener: &accepts{errs: []error{
			&net.OpError{Op: "accept", Err: unix.EMFILE}, &net.OpError{Op: "accept", Err: unix.ECONNABORTED}, nil, net.ErrClosed}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Listen(); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go l.Run(t.Context(), listener.Hooks{})
		if _, err := l.Accept(); err != nil {
			t.Errorf("Accept = %v, want the connection after the errors", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept = %v, want the end", err)
		}
	})
}

// TestCloseBeforeRun: a serve that fails while it starts has a listener and no server.
func TestCloseBeforeRun(t *testing.T) {
	t.Parallel()
	l, err := listener.New(listener.Config{Address: "127.0.0.1:0", MaxRequest: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Listen(); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() { _, err := l.Accept(); accepted <- err }()
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v, want the end", err)
	}
}
