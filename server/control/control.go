// Package control is how other commands speak to a serve that runs: named calls
// with JSON in and out, over a Unix socket that only its owner may use.
//
// It carries calls and refuses to know what they do.
//
//	ln, err := control.Listen(control.Path(ledgerPath))
//	go control.Serve(ctx, ln, control.Calls{"wake": func(ctx context.Context, in json.RawMessage) (any, error) { ... }})
//
//	err := control.Call(ctx, control.Path(ledgerPath), "wake", nil, nil)
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/internal/hint"
	"spotinference/internal/socket"
)

// ErrNobody is returned by Call where no serve listens.
var ErrNobody = errors.New("no serve runs with this ledger")

// maxCall bounds a call and its answer.
const maxCall = 1 << 20

// sendTime is how long a caller may take to send the head of a call, or its body.
const sendTime = 5 * time.Second

// Path is where the serve that writes a ledger listens.
func Path(ledger string) string { return ledger + ".sock" }

// Listen listens at path. The caller must own what lies there: it holds the ledger's
// lock, so that a socket found is one that a dead serve left.
func Listen(path string) (net.Listener, error) {
	ln, err := socket.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	return listener{ln}, nil
}

// listener accepts calls of our own user and of root alone, whatever the file's mode
// has become.
type listener struct{ *socket.Listener }

func (l listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peer(c); err == nil && (uid == 0 || int(uid) == os.Geteuid()) {
			return c, nil
		}
		c.Close()
	}
}

func peer(c *net.UnixConn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}

// ErrStranger is returned by Call where another user listens.
var ErrStranger = hint.Errorf("put the ledger into a directory that no other user can write: mkdir -m 700 DIR/spotinference",
	"another user listens at the control socket: it is not the serve of this ledger")

// dial connects to the serve at path: to one of our own user, of root's, or of the owner of
// the directory, whose ledger it is. Anybody else could answer what they like.
func dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	uid, err := peer(c.(*net.UnixConn))
	if err == nil && uid != 0 && int(uid) != os.Geteuid() {
		var dir unix.Stat_t
		if err = unix.Stat(filepath.Dir(path), &dir); err == nil && dir.Uid != uid {
			err = fmt.Errorf("user %d: %w", uid, ErrStranger)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Calls are what can be asked for, by name. A call's context ends when its caller
// leaves. What it returns is the answer; an error's hint goes with it.
type Calls map[string]func(ctx context.Context, in json.RawMessage) (any, error)

// failure is how an error travels.
type failure struct {
	Message string `json:"error"`
	Hint    string `json:"hint,omitempty"`
}

// Serve answers calls until ctx ends, and closes ln. Calls that still run then are
// told to end through their context.
func Serve(ctx context.Context, ln net.Listener, calls Calls) error {
	s := &http.Server{
		Handler:           calls,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: sendTime,
		IdleTimeout:       sendTime,
		MaxHeaderBytes:    8 << 10,
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	defer ln.Close()
	if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// ServeHTTP answers POST /NAME.
func (c Calls) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	call := c[strings.TrimPrefix(r.URL.Path, "/")]
	if call == nil || r.Method != http.MethodPost {
		answer(http.StatusNotFound, failure{Message: fmt.Sprintf("serve knows no call %q", r.URL.Path), Hint: "use the same binary as serve does"})
		return
	}
	// Who hangs in the middle of a call is not waited for; its answer may take long.
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Now().Add(sendTime)) // it cannot fail here
	in, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCall))
	if err != nil {
		answer(http.StatusBadRequest, failure{Message: "read a call: " + err.Error()})
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	out, err := call(r.Context(), in)
	if err != nil {
		answer(http.StatusConflict, failure{Message: err.Error(), Hint: hint.Of(err)})
		return
	}
	answer(http.StatusOK, out)
}

// Call asks the serve that listens at path. It fills out, a pointer, where that is
// not nil. ErrNobody is returned where there is none; what serve itself refuses is an
// error with its hint.
func Call(ctx context.Context, path, name string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("call %s: %w", name, err)
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, path) },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://serve/"+name, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("call %s: %w", name, err)
	}
	resp, err := transport.RoundTrip(req)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return ErrNobody
	}
	if err != nil {
		return fmt.Errorf("call %s: %w", name, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxCall+1))
	if err == nil && len(answer) > maxCall {
		err = errors.New("the answer is too large")
	}
	if err != nil {
		return fmt.Errorf("call %s: %w", name, err)
	}
	if resp.StatusCode != http.StatusOK {
		var f failure
		if json.Unmarshal(answer, &f) != nil || f.Message == "" {
			return fmt.Errorf("call %s: status %d", name, resp.StatusCode)
		}
		return &Refused{hint.Wrap(errors.New(f.Message), f.Hint)}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("call %s: %w", name, err)
	}
	return nil
}

// Refused is what serve said no with, with its hint.
type Refused struct{ error }

func (e *Refused) Unwrap() error { return e.error }
