package api

import (
	"errors"
	"log/slog"
	"net"
	"testing"

	"golang.org/x/sys/unix"
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

func TestAMomentWithoutDescriptorsPasses(t *testing.T) {
	l := &listener{log: slog.New(slog.DiscardHandler), Listener: &accepts{errs: []error{
		&net.OpError{Op: "accept", Err: unix.EMFILE}, &net.OpError{Op: "accept", Err: unix.ECONNABORTED}, nil, net.ErrClosed}}}
	if _, err := l.Accept(); err != nil {
		t.Errorf("Accept = %v, want the connection after the errors", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v, want the end", err)
	}
}
