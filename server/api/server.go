// Package api is the OpenAI API in front of one engine: keys, admission,
// the proxy that counts while it copies, errors, and metrics.
//
// It owns a request from its first byte to its last. A request flows one way:
//
//	key → gate → engine → forward → meter while copying → commit → last bytes
//
// The last bytes of an answer leave only after its row is in the ledger, on
// disk. The server refuses to know what anything costs: it asks the gate
// whether to serve, and writes to the ledger what was served. It refuses to know how
// connections are accepted, too: see package listener.
package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/internal/loopback"
	"spotinference/ledger"
	"spotinference/server/queue"
	"spotinference/server/refusal"
)

// Ledger is where requests are written. *ledger.Ledger has it.
type Ledger interface {
	AddRequest(ledger.Request) error
	SaveOpen([]ledger.OpenRequest) error
}

// Gate says whether a new request may start. *budget.Gate has it.
type Gate interface {
	Allow() error
	Trip(cause error) // closes at once, and waits for nothing: the ledger has failed
}

// Config is what a server is made of. Engine, Ledger and Gate are required.
type Config struct {
	Engine queue.Backend
	Ledger Ledger
	Gate   Gate

	// Key is an API key that may do everything, beside those of Keys. Where there is
	// neither, none is asked for, which only a loopback listener may.
	Key string

	// Keys are those that the ledger has, revoked ones among them. See PutKey.
	Keys []ledger.Key

	// QuotaStatus is the status of what is refused since a budget is spent, 402 or 429;
	// refusal.DefaultQuotaStatus where zero.
	QuotaStatus int

	// Drain is how long running answers may go on after the server was asked
	// to stop; then they are cut, with an error that says so.
	Drain time.Duration

	// CloseGrace is how long running answers may go on after the gate has closed; then
	// they are cut. See Hooks.Closed.
	CloseGrace time.Duration

	// StallTimeout is how long an engine may make no progress on an answer until
	// it is cut, with an error that says so; 0: for ever.
	StallTimeout time.Duration

	// CompleteResponses adds what the stream of a response lacks with llama-server and
	// OpenAI's clients need: see [meter.Meter.Complete].
	CompleteResponses bool

	// Audit gets the engine's own counters every AuditEvery, a minute where zero;
	// nil: they are not sampled.
	Audit      Audit
	AuditEvery time.Duration

	// Heartbeat is how long a stream is silent until its client gets a heartbeat: a
	// comment, or where it had no event for HeartbeatEvent an event that says nothing. 10
	// seconds and 2 minutes where zero.
	Heartbeat, HeartbeatEvent time.Duration

	// WakeHold is how long a request that does not stream waits for the engine to wake
	// until its client is told to ask again; as long as any request where zero.
	WakeHold time.Duration

	// MaxBody bounds a request's body, in bytes; 64 MiB where zero.
	MaxBody int

	// BodyMemory bounds what all requests' bodies take together, in bytes: 1 GiB where zero,
	// and at least MinBodyMemory. A body that it could not hold alone is too large.
	BodyMemory int64

	// Origins are the web origins whose pages may use the API ("*": all); none
	// where empty. See CheckOrigin.
	Origins []string

	Metrics *Metrics // required
	Now     func() time.Time
	Log     *slog.Logger // slog.Default() where nil
}

const (
	defaultMaxBody = 64 << 20
	maxHead        = 32 << 10 // request line and headers

	// Slow clients are not waited for: headTimeout for the head of a request,
	// bodyTimeout for a body (64 MiB of images take a while), writeTimeout for
	// each piece of an answer. A connection must be closed before the write
	// deadline of its last answer is over, or that would hit the next request.
	headTimeout  = time.Minute
	bodyTimeout  = 5 * time.Minute
	writeTimeout = time.Minute
	idleTimeout  = 50 * time.Second

	// cutGrace is how long answers that were cut may take to end.
	cutGrace = 5 * time.Second
)

// Hooks are called by a server. A nil one is not called.
type Hooks struct {
	// Closed is called when the gate has closed and Config.CloseGrace is over, once a
	// closing, when nothing is in the engine any more; ctx ends when the gate opens
	// again, or with Run, which waits for Closed to return.
	Closed func(ctx context.Context, reason string)
}

// MaxRequest bounds the bytes of a head, or of a body and its framing, for bodies of up
// to maxBody bytes: chunks may be as large as what they hold. 0 stands for
// Config.MaxBody's default.
func MaxRequest(maxBody int) int64 { return 2*int64(cmp.Or(maxBody, defaultMaxBody)) + maxHead }

// Server serves one listener. It is made by New and used once.
type Server struct {
	cfg      Config
	http     *fasthttp.Server
	upstream *upstream
	calls    *calls
	bodies   *bodyMemory
	buffers  sync.Pool // of *buffers
	router   router
	keys     *keyring
	origins  origins
	loopback bool                  // set by Run before it serves
	models   atomic.Pointer[reply] // the newest list, for while the engine sleeps
	stopping chan struct{}
	audit    audit
}

// New checks cfg and starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Engine == nil || cfg.Ledger == nil || cfg.Gate == nil || cfg.Metrics == nil {
		return nil, errors.New("server: engine, ledger, gate and metrics are required")
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = defaultHeartbeat
	}
	if cfg.HeartbeatEvent == 0 {
		cfg.HeartbeatEvent = defaultHeartbeatEvent
	}
	if cfg.QuotaStatus == 0 {
		cfg.QuotaStatus = refusal.DefaultQuotaStatus
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = defaultMaxBody
	}
	if cfg.BodyMemory == 0 {
		cfg.BodyMemory = defaultBodyMemory
	}
	if cfg.BodyMemory < MinBodyMemory {
		return nil, fmt.Errorf("server: %d bytes for bodies, less than %d", cfg.BodyMemory, MinBodyMemory)
	}
	if cfg.AuditEvery == 0 {
		cfg.AuditEvery = time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	for _, o := range cfg.Origins {
		if err := CheckOrigin(o); err != nil {
			return nil, fmt.Errorf("server: %w", err)
		}
	}
	s := &Server{
		cfg:      cfg,
		upstream: newUpstream(cfg.Engine),
		calls:    newCalls(),
		bodies:   newBodyMemory(cfg.BodyMemory),
		router:   newRouter(),
		keys:     newKeyring(cfg),
		origins:  newOrigins(cfg.Origins),
		stopping: make(chan struct{}),
	}
	s.http = &fasthttp.Server{
		Handler:                      s.handle,
		ErrorHandler:                 s.refuseUnread,
		HeaderReceived:               s.checkRequest,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		DisablePreParseMultipartForm: true,
		ReadBufferSize:               maxHead,
		ReduceMemoryUsage:            true, // no such buffer while an answer runs, for one more read a request
		MaxRequestBodySize:           cfg.MaxBody,
		ReadTimeout:                  headTimeout,
		WriteTimeout:                 writeTimeout,
		IdleTimeout:                  idleTimeout,
		CloseOnShutdown:              true,
		Logger:                       quietLogger{},
	}
	// fasthttp's own switch: it keeps no larger buffer for the next request, of a body that
	// was not read to its end, say.
	fasthttp.SetBodySizePoolLimit(keptBody, keptBody)
	cfg.Metrics.addServer(s)
	return s, nil
}

// Run serves ln, whose connections may be [Conn]s, until ctx ends, then drains: the
// listener closes, running answers have Config.Drain to end and are cut after that. hard
// ends the patience at once. Run closes ln, and returns when no request runs any more;
// each has its row then, or it returns an error.
func (s *Server) Run(ctx, hard context.Context, ln net.Listener, h Hooks) error {
	s.loopback = loopback.Addr(ln.Addr())
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(ln) }()

	watching, stopWatching := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.watchClients(watching) })
	wg.Go(func() { s.bodies.watch(watching) })
	wg.Go(func() { s.saveOpen(watching) })
	wg.Go(func() { s.watchStalls(watching) })
	wg.Go(func() { s.watchCounters(watching) })
	wg.Go(func() { s.watchGate(watching, h) })
	defer func() {
		stopWatching()
		wg.Wait()
		if s.cfg.Audit != nil {
			s.SampleCounters(hard) // its counters end with us
		}
	}()

	patience := s.cfg.Drain
	var failed error
	select {
	case err := <-served:
		failed, patience = fmt.Errorf("serve %s: %w", ln.Addr(), cmp.Or(err, net.ErrClosed)), 0
	case <-ctx.Done():
		// Also where Serve has not begun to accept: then it ends at once.
		ln.Close()
		<-served
	}
	close(s.stopping)
	return errors.Join(failed, s.drain(hard, patience))
}

// drain waits for the running requests, then cuts them.
func (s *Server) drain(hard context.Context, patience time.Duration) error {
	defer s.upstream.close()
	if n := s.calls.len(); n > 0 {
		s.cfg.Log.Info("draining", "requests", n, "for", patience)
	}
	// Shutdown is called once: it waits for every connection, for as long as it
	// is let, and a second call would not wait.
	waiting, stopWaiting := context.WithCancel(context.Background())
	defer stopWaiting()
	down := make(chan error, 1)
	go func() { down <- s.http.ShutdownWithContext(waiting) }()

	patient, cancel := context.WithTimeout(hard, patience)
	defer cancel()
	select {
	case err := <-down:
		return err
	case <-patient.Done():
	}
	if n := s.calls.len(); n > 0 {
		s.cfg.Log.Warn("cutting the answers that are still running", "requests", n)
	}
	s.calls.cut(refusal.New(refusal.ShuttingDown))
	select {
	case err := <-down:
		return err
	case <-time.After(cutGrace):
	}
	stopWaiting()
	<-down
	if n := s.calls.len(); n > 0 {
		return fmt.Errorf("stop serving: %d requests did not end within %s of being cut", n, cutGrace)
	}
	return nil // connections that have no request
}

// watchClients cuts the calls whose client has disconnected; their engine must know
// within 250 ms.
func (s *Server) watchClients(ctx context.Context) {
	every(ctx, 200*time.Millisecond, s.calls.cutDisconnected)
}

// saveOpen saves the open requests once a second.
func (s *Server) saveOpen(ctx context.Context) {
	every(ctx, time.Second, func() {
		if err := s.cfg.Ledger.SaveOpen(s.calls.open()); err != nil {
			s.ledgerFailed(err)
		}
	})
}

func every(ctx context.Context, d time.Duration, do func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			do()
		}
	}
}

// ledgerFailed closes the gate: what cannot be recorded is not served.
func (s *Server) ledgerFailed(err error) {
	s.cfg.Log.Error("write the ledger", "err", err)
	s.cfg.Metrics.ledgerErrors.Inc()
	s.cfg.Gate.Trip(err)
}

// quietLogger drops what fasthttp would print of each broken connection; what
// matters of it is counted and answered in refuseUnread.
type quietLogger struct{}

func (quietLogger) Printf(string, ...any) {}
