package engine_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/ledger"
	"spotinference/server/engine"
)

// TestOutOfReach: an engine that lives and cannot be connected to is started again, whether
// a request finds it out or nobody asks, and whatever became of its socket.
func TestOutOfReach(t *testing.T) {
	t.Parallel()
	const gone, deaf = "cannot be reached: its socket is gone", "cannot be reached: nothing listens where it was told to"
	for _, c := range []struct {
		name string
		do   func(socket string) error
		asks bool // a request comes
		want string
	}{
		{"the socket is removed, and a request comes", os.Remove, true, gone},
		{"the socket is removed, and nobody asks", os.Remove, false, gone},
		{"its directory is removed", func(socket string) error { return os.RemoveAll(filepath.Dir(socket)) }, true, gone},
		{"another file is there", func(socket string) error {
			os.Remove(socket)
			return os.WriteFile(socket, nil, 0o600)
		}, true, deaf},
		{"another file is there, and nobody asks", func(socket string) error {
			os.Remove(socket)
			return os.WriteFile(socket, nil, 0o600)
		}, false, deaf},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			gpu := filepath.Join(t.TempDir(), "gpu")
			r := start(t, engine.Config{Command: llamaCommand(t, "-gpu", gpu), Backoff: 10 * time.Millisecond})
			first := r.waitState(ledger.Ready)
			conn, err := r.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			socket := conn.RemoteAddr().String()
			conn.Close()
			if err := c.do(socket); err != nil {
				t.Fatal(err)
			}
			if c.asks {
				if _, err := r.Dial(t.Context()); err == nil {
					t.Fatal("it can be reached")
				}
			}
			waitFor(t, "the second start", func() bool { s := r.Status(); return s.State == ledger.Ready && s.PID != first.PID })
			if tr := r.last(ledger.Crashed); tr.Cause != c.want || tr.PID != first.PID {
				t.Errorf("%+v, want %s", tr, c.want)
			}
			if s := r.Status(); s.LastExit != c.want || s.Restarts != 1 || alive(first.PID) {
				t.Errorf("%+v", s)
			}
			if code, body := r.get("/v1/models"); code != 200 {
				t.Errorf("models = %d %s", code, body)
			}
		})
	}
}

// TestBusyIsWithinReach: an engine that takes no further connection is not out of reach.
func TestBusyIsWithinReach(t *testing.T) {
	t.Parallel()
	r := start(t, engine.Config{Command: llamaCommand(t)})
	s := r.waitState(ledger.Ready)
	if err := unix.Kill(s.PID, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 10_000 { // until its queue of connections is full
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		conn, err := r.Dial(ctx)
		cancel()
		if err != nil {
			break
		}
		defer conn.Close()
	}
	time.Sleep(6 * time.Second) // one look
	unix.Kill(s.PID, unix.SIGCONT)
	if now := r.Status(); now.State != ledger.Ready || now.PID != s.PID {
		t.Errorf("%+v", now)
	}
}
