// Package server is what serve runs: an engine, the APIs in front of it, the provider's
// bill beside it, and the gate between the two, all of it written to one ledger.
//
//	err := server.Run(ctx, hard, server.Config{...})
//
// It wires the parts, each of which is a package of its own, and waits for them. It
// decides nothing about a request, a sample or a wake, and it never sees a flag: cli
// gives it values.
package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"spotinference/billing"
	"spotinference/budget"
	"spotinference/gpu"
	"spotinference/internal/hint"
	"spotinference/internal/socket"
	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/control"
	"spotinference/server/engine"
	"spotinference/server/listener"
)

// gateway is one Run: its parts, in the order in which they are made. A part is used by
// those that come after it; what it tells others goes through the gateway's methods,
// none of which is called before all parts are there.
type gateway struct {
	cfg          Config
	gpus         *gpu.Monitor      // nil in the demo
	checkpointer *gpu.Checkpointer // nil where nobody wants it
	engine       *engine.Engine
	listener     *listener.Listener
	led          *ledger.Ledger
	record       record
	gate         *budget.Gate
	metrics      *api.Metrics
	closer       *closer
	api          *api.Server
	keyBudgets   *keyBudgets
	sampler      *billing.Sampler // nil without a bill

	ended     chan error // why Run is to return; see end
	keyChange sync.Mutex // the API is told of keys in the order of the ledger
	warned    bool       // of the budget; owned by who samples
	counted   bool       // from when on was told; owned by who samples
}

// blind tells whether no bill is read.
func (g *gateway) blind() bool { return g.cfg.Provider == NoProvider }

// Run serves until ctx ends, and returns nil then. Order matters on the way out: the API
// drains, the engine stops, the bill is read once more, and the ledger closes last.
// hard cuts all of that short, but for the ledger. A Config that cannot be used is a
// *ConfigError.
func Run(ctx, hard context.Context, cfg Config) (err error) {
	g := &gateway{cfg: cfg, ended: make(chan error, 1)}
	if cfg.Demo {
		stop, err := StartDemo(&g.cfg)
		if err != nil {
			return err
		}
		defer stop()
	}
	// What is wrong with the command, the address or the provider's key is said before
	// the ledger is touched.
	g.gpus = g.newGPUs()
	g.checkpointer = g.newCheckpointer(ctx)
	if g.engine, err = g.newEngine(); err != nil {
		return err
	}
	if _, err := g.openProvider(nil); err != nil {
		return err
	}
	g.warnOfDisk()
	if err := g.listen(); err != nil {
		return err
	}
	defer g.listener.Close()

	if err := g.openLedger(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.led.Close()) }() // last out
	keys, err := g.led.Keys()
	if err != nil {
		return err
	}
	if err := g.cfg.CheckOpen(len(keys) > 0); err != nil {
		return err
	}
	provider, err := g.openProvider(&billing.LedgerHistory{Ledger: g.led.Reader})
	if err != nil {
		return err
	}
	if g.gate, err = g.newGate(); err != nil {
		return err
	}
	g.metrics = g.newMetrics()
	g.closer = g.newCloser(hard)
	if g.api, err = g.newAPI(keys); err != nil {
		return err
	}
	g.keyBudgets = g.newKeyBudgets(keys)
	if g.sampler, err = g.newSampler(provider); err != nil {
		return err
	}
	g.closer.sampler = g.sampler
	g.announce()
	return g.run(ctx, hard)
}

// run runs the parts until ctx ends or one of them fails.
func (g *gateway) run(ctx, hard context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	engineCtx, stopEngine := context.WithCancel(context.Background())
	backCtx, stopBack := context.WithCancel(context.Background())
	drained := make(chan struct{})
	group.Go(func() error {
		defer stopEngine()
		defer close(drained)
		return g.api.Run(ctx, hard, g.listener, api.Hooks{Closed: g.closer.closed})
	})
	group.Go(func() error { return g.runUntilEnded(ctx) })
	if g.cfg.Demo && g.cfg.DemoLoad {
		group.Go(func() error { return g.loadDemo(ctx, hard) })
	}
	group.Go(func() error { defer stopBack(); return g.runEngine(engineCtx) })
	for _, part := range g.background() {
		group.Go(func() error { return part(backCtx) })
	}

	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	select {
	case err := <-ended:
		g.lastSample(hard)
		g.record.event(ledger.GatewayStopped{})
		if err == nil {
			g.cfg.Log.Info("stopped")
		}
		return err
	case <-hard.Done():
		// The answers were cut and have their rows; the engine's guard ends the
		// engine when we are gone.
		<-drained
		g.cfg.Log.Warn("stopped at once")
		return nil
	}
}

// background are the parts that run until the engine has ended.
func (g *gateway) background() []func(context.Context) error {
	parts := []func(context.Context) error{g.runListener, g.gate.Run, g.keyBudgets.Run, g.serveControl}
	if g.gpus != nil {
		parts = append(parts, g.runGPUs)
	}
	if g.checkpointer != nil {
		parts = append(parts, g.keepCheckpointer)
	}
	if g.sampler != nil {
		parts = append(parts, g.sampler.Run)
	}
	return parts
}

// listen begins to listen; clients wait until runListener lets them in.
func (g *gateway) listen() (err error) {
	c := g.cfg.Listener
	c.MaxRequest, c.Now, c.Log = api.MaxRequest(0), g.cfg.Now, g.cfg.Log
	if g.listener, err = listener.New(c); err != nil {
		return &ConfigError{err}
	}
	if err := g.listener.Listen(); err != nil {
		err = fmt.Errorf("serve: %w", err)
		if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, socket.ErrInUse) {
			return hint.Wrap(err, "stop what listens there, or name another address with --listen")
		}
		return err
	}
	return nil
}

func (g *gateway) runListener(ctx context.Context) error {
	return g.listener.Run(ctx, listener.Hooks{Refused: g.metrics.Refused, HandshakeFailed: g.metrics.HandshakeFailed, Answer: g.api.Answer})
}

// openLedger opens the ledger, and says what an earlier run left in it.
func (g *gateway) openLedger() (err error) {
	c := g.cfg
	g.led, err = ledger.Open(ledger.Config{Path: c.Ledger, Demo: c.Demo, Afresh: c.Demo, Now: c.Now, Log: c.Log})
	if err != nil {
		return err
	}
	g.record = record{g.led, c.Log, c.Now}
	if n := g.led.Lost(); n > 0 {
		c.Log.Warn("requests were lost when the last serve died", "requests", n)
	}
	if err := g.led.SetProvider(c.Provider); err != nil {
		return errors.Join(err, g.led.Close())
	}
	if err := learnWakes(g.engine, g.led); err != nil {
		c.Log.Warn("how long the engine took to wake before is not known", "err", err)
	}
	return nil
}

func (g *gateway) newGate() (*budget.Gate, error) {
	limits := budget.LimitsText(g.cfg.Budget.Limits)
	opened, err := g.led.GateOpenedUnder(limits)
	if err != nil {
		return nil, err
	}
	told := &gateRecord{record: g.record, limits: limits}
	return budget.New(budget.Config{
		Ledger: g.led, Terms: g.cfg.Budget, MaxSampleAge: g.cfg.MaxSampleAge, Opened: opened, Provider: g.cfg.Provider, Blind: g.blind(), Now: g.cfg.Now,
		OnChange: func(r *budget.Refusal) {
			told.changed(r)
			if r != nil && r.Reason == budget.ReasonHeadroom {
				g.end(headroomError(r))
			}
		},
	})
}

// headroomError ends a serve that would never serve. Nothing was spent that the budget
// does not allow, so that the machine is left as it is.
func headroomError(r *budget.Refusal) error {
	return &ConfigError{hint.Errorf("raise --budget, or give --budget-headroom an amount below it; --on-close did not run", "%s", r.Detail)}
}

// end makes Run return err.
func (g *gateway) end(err error) {
	select {
	case g.ended <- err:
	default: // it ends already
	}
}

// runUntilEnded ends the parts when one of them asked for it.
func (g *gateway) runUntilEnded(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-g.ended:
		return err
	}
}

func (g *gateway) newMetrics() *api.Metrics {
	m := api.NewMetrics(func() (time.Time, bool) {
		s, ok, err := g.led.Newest()
		return s.At, ok && err == nil
	})
	m.AddRuntime()
	if g.gpus != nil {
		m.Add(g.writeGPUMetrics)
	}
	return m
}

// leastAudit is the least time between two samples of the engine's counters: llama-server,
// when it is asked more than once a second, does not see that a client has left.
const leastAudit = 2 * time.Second

func (g *gateway) newAPI(keys []ledger.Key) (*api.Server, error) {
	c := g.cfg
	return api.New(api.Config{
		Engine: g.engine, Ledger: g.led, Gate: g.gate, Key: c.Key, Keys: keys, Origins: c.Origins,
		Drain: c.Drain, StallTimeout: c.StallTimeout, WakeHold: c.WakeHold, BodyMemory: g.bodyMemory(), QuotaStatus: c.QuotaStatus, CloseGrace: c.Budget.CloseGrace,
		CompleteResponses: c.CompleteResponses,
		Audit:             g.led, AuditEvery: max(c.SampleEvery, leastAudit), Metrics: g.metrics, Now: c.Now, Log: c.Log,
	})
}

// bodyMemory is what all requests' bodies may take: what was asked for, or a quarter of the
// memory. A collection may lie behind by as much, and an engine on the CPU wants the rest.
func (g *gateway) bodyMemory() int64 {
	const most = 4 << 30
	if n := g.cfg.BodyMemory; n > 0 {
		return n
	}
	memory, err := gpu.HostMemory()
	if err != nil {
		g.cfg.Log.Warn("how much memory there is cannot be seen: request bodies get 1 GiB", "err", err, "hint", "set --max-body-memory")
		return 0
	}
	return min(max(memory/4, api.MinBodyMemory), most)
}

func (g *gateway) newCloser(hard context.Context) *closer {
	return &closer{
		eng: g.engine, command: g.cfg.OnClose, keep: g.cfg.OnCloseEnv, event: g.record.event, failed: g.metrics.OnCloseFailed,
		now: g.cfg.Now, log: g.cfg.Log, hard: hard,
	}
}

func (g *gateway) newKeyBudgets(keys []ledger.Key) *keyBudgets {
	b := newKeyBudgets(g.led, g.cfg.Budget.Location, g.blind(), g.api.SetKeySpend, g.cfg.Now, g.cfg.Log)
	if slices.ContainsFunc(keys, func(k ledger.Key) bool { return k.PerDay != nil && k.Live(g.cfg.Now()) }) {
		b.Enable()
		if g.blind() {
			g.cfg.Log.Warn("without a bill no key with a budget is served", "hint", "make keys without --budget")
		}
	}
	return b
}

// announce says that clients can come in.
func (g *gateway) announce() {
	g.record.event(ledger.GatewayStarted{})
	g.cfg.Log.Info("listening", "url", g.listener.URL(), "ledger", g.cfg.Ledger, "provider", g.cfg.Provider, "engine", g.engine.Kind())
	if g.blind() {
		g.cfg.Log.Warn("serving without a bill: no spend is known, and no budget holds")
	}
	if g.cfg.OnListening != nil {
		g.cfg.OnListening(Address{URL: g.listener.URL(), Curl: g.listener.Curl()})
	}
}

// warnOfDisk says where the ledger would be lost with the machine. A demo's is made
// afresh anyway.
func (g *gateway) warnOfDisk() {
	if g.cfg.Demo {
		return
	}
	if why, help := (billing.Disks{Getenv: os.Getenv}).Dying(g.cfg.Ledger); why != "" {
		g.cfg.Log.Warn("the ledger may be lost with the machine: "+why, "ledger", g.cfg.Ledger, "hint", help)
	}
}

// serveControl answers other commands until ctx ends. Where the socket cannot be made,
// serving goes on without it.
func (g *gateway) serveControl(ctx context.Context) error {
	ln, err := control.Listen(control.Path(g.cfg.Ledger))
	if err != nil {
		g.cfg.Log.Warn("no other command can reach this serve", "err", err, "hint", "give --ledger a shorter path on a local disk")
		<-ctx.Done()
		return nil
	}
	return control.Serve(ctx, ln, g.calls())
}
