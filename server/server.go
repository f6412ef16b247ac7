// Package server is the OpenAI API in front of one engine: keys, admission,
// the proxy that counts while it copies, errors, and metrics.
//
// It owns a request from its first byte to its last. A request flows one way:
//
//	key → gate → engine → forward → meter while copying → commit → last bytes
//
// The last bytes of an answer leave only after its row is in the ledger, on
// disk. The server refuses to know what anything costs: it asks the gate
// whether to serve, and tells the ledger what was served.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/ledger"
	"spotinference/server/engine"
)

// Engine is what the server needs of the supervised child. *engine.Engine has it.
type Engine interface {
	Dial(ctx context.Context) (net.Conn, error)
	Key() string
	Kind() engine.Kind
	Status() engine.Status
}

// Ledger is where requests are written. *ledger.Ledger has it.
type Ledger interface {
	AddRequest(ledger.Request) error
	SaveOpen([]ledger.OpenRequest) error
}

// Gate says whether a new request may start. *budget.Gate has it.
type Gate interface {
	Allow() error
	Refresh() // evaluate now: the ledger has failed
}

// Config is what a server is made of. Engine, Ledger and Gate are required.
type Config struct {
	Engine Engine
	Ledger Ledger
	Gate   Gate

	// Key is the one API key; "" asks for none, which only a loopback listener may.
	Key string

	// Drain is how long running answers may go on after the server was asked
	// to stop; then they are cut, with an error that says so.
	Drain time.Duration

	// MaxBody bounds a request's body, in bytes; 64 MiB where zero.
	MaxBody int

	Metrics *Metrics // required
	Now     func() time.Time
	Log     *slog.Logger // slog.Default() where nil
}

const (
	defaultMaxBody = 64 << 20
	maxHead        = 32 << 10 // request line and headers

	// Idle clients keep a connection, slow ones are not waited for.
	idleTimeout = 2 * time.Minute
	readTimeout = time.Minute

	// cutGrace is what cut answers have to say goodbye in.
	cutGrace = 5 * time.Second
)

// Server serves one listener. It is made by New and used once.
type Server struct {
	cfg      Config
	http     *fasthttp.Server
	upstream *upstream
	calls    *calls
	key      keyCheck
	loopback bool // set by Run before it serves
	stopping chan struct{}
}

// New checks cfg and starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Engine == nil || cfg.Ledger == nil || cfg.Gate == nil || cfg.Metrics == nil {
		return nil, errors.New("server: engine, ledger, gate and metrics are required")
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = defaultMaxBody
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Server{
		cfg:      cfg,
		upstream: newUpstream(cfg.Engine),
		calls:    newCalls(),
		key:      newKeyCheck(cfg.Key),
		stopping: make(chan struct{}),
	}
	s.http = &fasthttp.Server{
		Handler:               s.handle,
		ErrorHandler:          s.refuseConn,
		NoDefaultServerHeader: true,
		NoDefaultContentType:  true,
		NoDefaultDate:         true,
		ReadBufferSize:        maxHead,
		MaxRequestBodySize:    cfg.MaxBody,
		ReadTimeout:           readTimeout,
		IdleTimeout:           idleTimeout,
		CloseOnShutdown:       true,
		Logger:                quietLogger{},
	}
	cfg.Metrics.watch(s)
	return s, nil
}

// Run serves ln until ctx ends, then drains: the listener closes, running
// answers have Config.Drain to end and are cut after that. hard ends the
// patience at once. Run returns when no request runs any more; each has its row.
func (s *Server) Run(ctx, hard context.Context, ln net.Listener) error {
	s.loopback = isLoopback(ln.Addr())
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(ln) }()

	watching, stopWatching := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() { defer close(watched); s.watch(watching) }()
	defer func() { stopWatching(); <-watched }()

	select {
	case err := <-served:
		s.calls.cut(errShutdown)
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	close(s.stopping)
	if n := s.calls.len(); n > 0 {
		s.cfg.Log.Info("draining", "requests", n, "for", s.cfg.Drain)
	}
	patience, cancel := context.WithTimeout(hard, s.cfg.Drain)
	err := s.http.ShutdownWithContext(patience)
	cancel()
	if err != nil {
		s.cfg.Log.Warn("cutting the answers that are still running", "requests", s.calls.len())
		s.calls.cut(errShutdown)
		last, cancel := context.WithTimeout(context.Background(), cutGrace)
		err = s.http.ShutdownWithContext(last)
		cancel()
	}
	s.upstream.close()
	if err != nil {
		return fmt.Errorf("stop serving: %w", err)
	}
	return <-served
}

// isLoopback reports whether only this machine can reach addr.
func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}

// watch does what is done to all running requests: it looks for clients that
// have left, and saves the open requests once a second.
func (s *Server) watch(ctx context.Context) {
	const look = 200 * time.Millisecond // and an engine must know within 250
	t := time.NewTicker(look)
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		s.calls.dropGone()
		if n%int(time.Second/look) == 0 {
			if err := s.cfg.Ledger.SaveOpen(s.calls.open()); err != nil {
				s.ledgerFailed(err)
			}
		}
	}
}

// ledgerFailed closes the gate: what cannot be recorded is not served.
func (s *Server) ledgerFailed(err error) {
	s.cfg.Log.Error("write the ledger", "err", err)
	s.cfg.Metrics.ledgerErrors.Inc()
	s.cfg.Gate.Refresh()
}

// quietLogger drops what fasthttp would print of each broken connection; what
// matters of it is counted and answered in refuseConn.
type quietLogger struct{}

func (quietLogger) Printf(string, ...any) {}
