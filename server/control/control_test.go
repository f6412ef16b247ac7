package control_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/internal/hint"
	"spotinference/server/control"
)

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
		"refuse": func(context.Context, json.RawMessage) (any, error) {
			return nil, hint.Wrap(errors.New("not today"), "try the door")
		},
		"big": func(context.Context, json.RawMessage) (any, error) { return strings.Repeat("x", 2<<20), nil },
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
	if !errors.As(err, &refused) || refused.Error() != "not today" || hint.Of(refused) != "try the door" {
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

// TestACallThatIsNotSentToItsEnd: who hangs in the middle of a call is let go of; who
// waits long for an answer is not.
func TestACallThatIsNotSentToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- control.Serve(ctx, &one{conn: theirs, closed: make(chan struct{})}, control.Calls{"wait": func(ctx context.Context, _ json.RawMessage) (any, error) {
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-time.After(time.Hour):
					return "done", nil
				}
			}})
		}()
		if _, err := io.WriteString(ours, "POST /wait HTTP/1.1\r\nHost: serve\r\nContent-Length: 4\r\n\r\nnull"); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(ours)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("a long call: %v, %v", resp, err)
		}
		io.Copy(io.Discard, resp.Body)
		if _, err := io.WriteString(ours, "POST /wait HTTP/1.1\r\nHost: serve\r\nContent-Length: 4\r\n\r\nnu"); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if resp, err = http.ReadResponse(r, nil); err != nil || resp.StatusCode != 400 {
			t.Errorf("half a call: %v, %v", resp, err)
		}
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("half a call was waited for for %s", took)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// one is a listener that has one connection.
type one struct {
	conn   net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *one) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *one) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *one) Addr() net.Addr { return &net.UnixAddr{} }

// TestAnotherUserListens: who can write the directory can listen there before serve does,
// and must not be believed that a key was revoked.
func TestAnotherUserListens(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can listen as another user")
	}
	const nobody = 65534
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for parent := filepath.Dir(dir); parent != "/"; parent = filepath.Dir(parent) {
		st, err := os.Stat(parent)
		if err == nil && st.Mode()&0o001 == 0 {
			err = os.Chmod(parent, st.Mode().Perm()|0o011)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	path := control.Path(filepath.Join(dir, "ledger.db"))
	listening := make(chan net.Listener)
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread ends as nobody
		if _, _, no := syscall.RawSyscall(syscall.SYS_SETRESUID, nobody, nobody, nobody); no != 0 {
			t.Error(no)
		}
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Error(err)
		}
		listening <- ln
	}()
	ln := <-listening
	if ln == nil {
		return
	}
	defer ln.Close()
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `"revoked"`) }))
	var got string
	err := control.Call(t.Context(), path, "key-revoke", nil, &got)
	if !errors.Is(err, control.ErrStranger) || got != "" || !strings.Contains(hint.Of(err), "mkdir -m 700") {
		t.Errorf("Call = %q, %v, hint %q, want %v", got, err, hint.Of(err), control.ErrStranger)
	}
	// In the user's own directory it is theirs to say.
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if err := control.Call(t.Context(), path, "key-revoke", nil, &got); err != nil || got != "revoked" {
		t.Errorf("of the directory's owner: %q, %v", got, err)
	}
}
