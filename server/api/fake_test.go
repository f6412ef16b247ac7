package api_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/listener"
	"spotinference/server/queue"
)

// fakeEngine answers with a handler of the test, over a real Unix socket, or a pipe.
type fakeEngine struct {
	kind            queue.Kind
	sock            string
	pipes           *pipes // nil: over sock
	mu              sync.Mutex
	state           ledger.EngineState // guarded by mu
	dials           int                // guarded by mu
	asked           int                // to be entered; guarded by mu
	inside, waiting int                // guarded by mu
	wakes           chan error         // what Enter is told that waits

	started time.Time // of its process; guarded by mu
}

func newFakeEngine(t *testing.T, kind queue.Kind, h http.HandlerFunc, inMemory bool) *fakeEngine {
	t.Helper()
	e := &fakeEngine{kind: kind, state: ledger.Ready, wakes: make(chan error)}
	var ln net.Listener
	if inMemory {
		e.pipes = newPipes()
		ln = e.pipes
	} else {
		e.sock = t.TempDir() + "/e.sock"
		var err error
		if ln, err = net.Listen("unix", e.sock); err != nil {
			t.Fatal(err)
		}
	}
	srv := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return e
}

func (e *fakeEngine) Dial(ctx context.Context) (net.Conn, error) {
	e.mu.Lock()
	e.dials++
	e.mu.Unlock()
	if e.pipes != nil {
		return e.pipes.dial()
	}
	return new(net.Dialer).DialContext(ctx, "unix", e.sock)
}
func (e *fakeEngine) Key() string      { return "engine-key" }
func (e *fakeEngine) Kind() queue.Kind { return e.kind }
func (e *fakeEngine) Status() queue.Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return queue.Status{State: e.state, StartedAt: e.started, Admits: e.state != ledger.Starting && e.state != ledger.Stopped && e.state != ledger.Crashed}
}

// Enter waits while the engine is suspended or on the way, for as long as wakes is
// not closed.
func (e *fakeEngine) Admit(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	switch e.state {
	case ledger.Suspended, ledger.Waking:
		e.waiting++
		e.mu.Unlock()
		var err error
		select {
		case err = <-e.wakes:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		e.mu.Lock()
		e.waiting--
		if err != nil {
			return err
		}
	case ledger.Ready:
	default:
		return queue.ErrNotReady
	}
	e.inside++
	return nil
}

// TryEnter is Enter that does not wait.
func (e *fakeEngine) TryAdmit() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	if e.state != ledger.Ready {
		return false
	}
	e.inside++
	return true
}

func (e *fakeEngine) Release(bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inside--
}

// dialled is how many connections were made to it.
func (e *fakeEngine) dialled() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dials
}

// load says how many are inside, and how many wait.
func (e *fakeEngine) load() (inside, waiting int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.inside, e.waiting
}

func (e *fakeEngine) set(s ledger.EngineState) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state = s
}

var errDisk = errors.New("disk full")

// fakeLedger remembers rows. Where held is set, a write waits until it is closed.
type fakeLedger struct {
	mu   sync.Mutex
	rows []ledger.Request
	open []ledger.OpenRequest
	fail bool
	held chan struct{}
	busy bool // a write waits for held
}

func (l *fakeLedger) AddRequest(r ledger.Request) error {
	l.mu.Lock()
	held := l.held
	l.busy = true
	l.mu.Unlock()
	if held != nil {
		<-held
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail {
		return errDisk
	}
	l.rows = append(l.rows, r)
	return nil
}

// breaks makes every write of a row fail.
func (l *fakeLedger) breaks() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = true
}

// hold makes every write of a row wait until release is called.
func (l *fakeLedger) hold() (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := make(chan struct{})
	l.held = held
	return sync.OnceFunc(func() { close(held) })
}

func (l *fakeLedger) SaveOpen(open []ledger.OpenRequest) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = open
	return nil
}

func (l *fakeLedger) writing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.busy
}

func (l *fakeLedger) all() []ledger.Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]ledger.Request(nil), l.rows...)
}

// fakeGate is open unless err is set.
type fakeGate struct {
	mu      sync.Mutex
	err     error
	tripped int
	asked   atomic.Int64
}

func (g *fakeGate) Allow() error {
	g.asked.Add(1)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *fakeGate) Trip(error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tripped++
}

// wasTripped reports whether the server closed the gate.
func (g *fakeGate) wasTripped() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tripped > 0
}

// world is a server over fakes, on a real socket.
type world struct {
	t      *testing.T
	server *api.Server
	engine *fakeEngine
	ledger *fakeLedger
	gate   *fakeGate
	url    string
	addr   string
	client *http.Client
	stop   func() error // drains; safe twice
	hard   context.CancelFunc
}

func newWorld(t *testing.T, kind queue.Kind, h http.HandlerFunc, change func(*api.Config)) *world {
	t.Helper()
	return newWorldOf(t, kind, h, setting{config: change})
}

// setting is what a world has that others have not.
type setting struct {
	config func(*api.Config) // changes it; nil: no change
	listen listener.Config   // where it listens: any port of this machine's, where nothing is said
	hooks  api.Hooks

	inMemory bool // client, server and engine are connected by pipes: see inBubble
}

var _ api.Conn = (*listener.Conn)(nil)

// newWorldOf is newWorld with a setting.
func newWorldOf(t *testing.T, kind queue.Kind, h http.HandlerFunc, set setting) *world {
	t.Helper()
	w := &world{t: t, engine: newFakeEngine(t, kind, h, set.inMemory), ledger: &fakeLedger{}, gate: &fakeGate{}, client: &http.Client{Transport: &http.Transport{}}}
	if set.inMemory {
		p, ok := set.listen.Listener.(*pipes)
		if !ok {
			p = newPipes()
			set.listen.Listener = p
		}
		w.client.Transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return p.dial() }}
	}
	cfg := api.Config{Engine: w.engine, Ledger: w.ledger, Gate: w.gate, Drain: 10 * time.Second,
		Metrics: api.NewMetrics(func() (time.Time, bool) { return time.Time{}, false }),
		Log:     slog.New(slog.NewTextHandler(io.Discard, nil))}
	if set.config != nil {
		set.config(&cfg)
	}
	s, err := api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.server = s
	ln := listen(t, s, cfg, set.listen)
	w.addr = ln.Addr().String()
	w.url = "http://" + w.addr
	ctx, cancel := context.WithCancel(context.Background())
	hard, now := context.WithCancel(context.Background())
	w.hard = now
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, hard, ln, set.hooks) }()
	w.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		w.client.CloseIdleConnections()
		now()
		if err := w.stop(); err != nil {
			t.Errorf("Run = %v", err)
		}
		if inside, waiting := w.engine.load(); inside != 0 || waiting != 0 {
			t.Errorf("left behind in the engine: %d, and %d that wait for it", inside, waiting)
		}
	})
	return w
}

// listen listens for s as serve does, until the test ends.
func listen(t testing.TB, s *api.Server, cfg api.Config, at listener.Config) *listener.Listener {
	t.Helper()
	if at.Address == "" {
		at.Address = "127.0.0.1:0"
	}
	at.MaxRequest, at.Log = api.MaxRequest(cfg.MaxBody), cfg.Log
	ln, err := listener.New(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ln.Run(ctx, listener.Hooks{Refused: cfg.Metrics.Refused, HandshakeFailed: cfg.Metrics.HandshakeFailed, Answer: s.Answer})
	}()
	t.Cleanup(func() { stop(); ln.Close(); <-done })
	return ln
}

func (w *world) do(method, path, body string, headers ...string) (*http.Response, string) {
	w.t.Helper()
	resp := w.begin(method, path, body, headers...)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, string(b)
}

// begin sends a request and returns when the head of the answer is there.
func (w *world) begin(method, path, body string, headers ...string) *http.Response {
	w.t.Helper()
	req, err := http.NewRequest(method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

// row waits for the one row that there must be.
func (w *world) row() ledger.Request {
	w.t.Helper()
	var rows []ledger.Request
	eventually(w.t, "one row", func() bool { rows = w.ledger.all(); return len(rows) > 0 })
	if len(rows) != 1 {
		w.t.Fatalf("%d rows: %+v", len(rows), rows)
	}
	return rows[0]
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
