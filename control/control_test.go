package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spotinference/control"
)

type hinted struct{ error }

func (hinted) Hint() string { return "try the door" }

// serve runs calls at a socket of their own.
func serve(t *testing.T, calls control.Calls) string {
	t.Helper()
	path := control.Path(filepath.Join(t.TempDir(), "ledger.db"))
	ln, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, ln, calls) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return path
}

func TestCall(t *testing.T) {
	path := serve(t, control.Calls{
		"double": func(_ context.Context, in json.RawMessage) (any, error) {
			var n int
			err := json.Unmarshal(in, &n)
			return 2 * n, err
		},
		"refuse": func(context.Context, json.RawMessage) (any, error) { return nil, hinted{errors.New("not today")} },
		"big":    func(context.Context, json.RawMessage) (any, error) { return strings.Repeat("x", 2<<20), nil },
	})
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", st.Mode(), err)
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Errorf("%v lie beside the socket", files)
	}
	var n int
	if err := control.Call(t.Context(), path, "double", 21, &n); err != nil || n != 42 {
		t.Errorf("double = %d, %v", n, err)
	}
	err := control.Call(t.Context(), path, "refuse", nil, nil)
	var refused *control.Refused
	if !errors.As(err, &refused) || refused.Error() != "not today" || refused.Hint() != "try the door" {
		t.Errorf("refuse = %v", err)
	}
	if err := control.Call(t.Context(), path, "nothing", nil, nil); err == nil || !strings.Contains(err.Error(), "knows no call") {
		t.Errorf("an unknown call = %v", err)
	}
	if err := control.Call(t.Context(), path, "double", "two", &n); err == nil {
		t.Error("a call with bad input was answered")
	}
	if err := control.Call(t.Context(), path, "double", strings.Repeat("1", 2<<20), &n); err == nil {
		t.Error("a call of 2 MiB was answered")
	}
	if err := control.Call(t.Context(), path, "big", nil, nil); err == nil {
		t.Error("an answer of 2 MiB was taken")
	}
}

// TestCallEndsWithItsCaller: what a caller has left waits for nobody.
func TestCallEndsWithItsCaller(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	path := serve(t, control.Calls{"wait": func(ctx context.Context, _ json.RawMessage) (any, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	if err := control.Call(ctx, path, "wait", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Call = %v, want canceled", err)
	}
	<-ended
}

func TestNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := control.Call(t.Context(), path, "wake", nil, nil); !errors.Is(err, control.ErrNobody) {
		t.Errorf("Call without a socket = %v, want ErrNobody", err)
	}
	// A serve that was killed leaves its socket; the next one takes its place.
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	if err := control.Call(t.Context(), path, "wake", nil, nil); !errors.Is(err, control.ErrNobody) {
		t.Errorf("Call to a dead socket = %v, want ErrNobody", err)
	}
	again, err := control.Listen(path)
	if err != nil {
		t.Fatalf("Listen over a dead socket = %v", err)
	}
	again.Close()
}

func TestListenRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Listen(path); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("Listen over a file = %v", err)
	}
	if _, err := control.Listen("/" + strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "201 bytes") {
		t.Errorf("Listen at a long path = %v", err)
	}
}
