package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	charm "github.com/charmbracelet/log"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"spotinference/billing"
	"spotinference/budget"
	"spotinference/gpu"
	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/engine"
	"spotinference/server/listener"
)

const defaultSampleEvery = time.Minute

func newServe() *cobra.Command {
	c := &cobra.Command{
		Use:   "serve [flags] [-- COMMAND ARGS...]",
		Short: "Run an engine and serve the OpenAI API in front of it",
		Long: `Runs COMMAND, a llama-server or vllm command as you would start it yourself,
and serves the OpenAI API in front of it. Every flag is also an environment
variable, SPOTINFERENCE_ and its name (--sample-every: SPOTINFERENCE_SAMPLE_EVERY),
and a key of the settings file, where command = [...] stands for COMMAND.

API keys are made with spotinference key create; one more, without limits, is read
from SPOTINFERENCE_API_KEY or --api-key-file. Without any, none is asked for.`,
		Example: `  spotinference serve --demo
  spotinference serve --provider hyperstack --budget 40 -- llama-server -m model.gguf -ngl 99
  spotinference serve --provider none -- vllm serve Qwen/Qwen3-32B-AWQ`,
		Args: func(cmd *cobra.Command, words []string) error {
			if at := cmd.ArgsLenAtDash(); at > 0 || at < 0 && len(words) > 0 {
				return usagef("the engine's command goes after --", "serve: unexpected %q", words[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			if err := shield(); err != nil {
				return err
			}
			s, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			opts, err := serveOptions(s, words)
			if err != nil {
				return err
			}
			soft, hard, stop := stopSignals()
			defer stop()
			return runServe(soft, hard, opts, cmd.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // a forgotten -- is seen at the command, not at its first flag
	f.String("listen", "127.0.0.1:8080", "address to serve on, beyond loopback only with an API key; or unix: and a path, for our own user only")
	f.String("tls-cert", "", "serve TLS with this certificate, its own first and then those that signed it, in PEM; read again when it changes")
	f.String("tls-key", "", "the key of --tls-cert, readable by its owner only")
	f.StringSlice("tls-domain", nil, "serve TLS with certificates that Let's Encrypt makes for this name, which must reach us on port 443; again or with commas for more")
	f.String("tls-cache", "", "directory for the certificates of --tls-domain and their keys (default beside the ledger)")
	f.String("engine", "", "llama or vllm, where the command's name does not tell")
	f.String("engine-user", "", "run the engine as this user, by name or number; only root can")
	f.Bool("engine-tcp", false, "let the engine listen on a loopback port, where it cannot on a Unix socket (docker)")
	f.String("provider", "", "whose bill to read: "+strings.Join(billing.Names(), ", ")+"; none serves without a bill. Found from the environment where that is unambiguous")
	f.String("provider-url", "", "base of the provider's API, https or on loopback: a proxy, a simulator")
	f.String("billing-command", "", "with --provider exec: the command that prints the bill, as billing check --schema says; its words, no shell is asked")
	f.String("instance", "", "the provider's id of this box; found by address or name where that is unambiguous")
	addBudget(f)
	f.String("on-close", "", "command to run once the gate has closed and its grace is over, to stop the machine: its words, no shell is asked; $GATE_REASON says why")
	f.StringSlice("on-close-env", nil, "credential that --on-close may see, such as HYPERSTACK_API_KEY; again or with commas for more")
	f.String("low-balance", "", "warn when the account's balance falls below this; what a day costs at the sampled rates where it is left out, and 0 warns below zero only")
	f.Duration("max-sample-age", defaultMaxSampleAge, "the oldest bill that still counts as seen; past it nothing is served")
	f.Duration("sample-every", defaultSampleEvery, "how often to read the bill")
	f.Duration("drain", 30*time.Second, "how long running answers may take when asked to stop")
	f.String("demo-provider", "hyperstack", "whose API the demo's provider speaks: "+strings.Join(demoProviders(), ", "))
	f.Duration("stall-timeout", 10*time.Minute, "how long the engine may make no progress on an answer until it is cut; a long prefill or queue is progress")
	f.Duration("start-timeout", 30*time.Minute, "how long the engine's start may show no progress")
	f.Duration("idle", 15*time.Minute, "how long without a request until the engine is suspended")
	f.String("suspend", "auto", "how: sleep (vllm's own), checkpoint (the driver's), stop, never; auto: the quickest to wake of those that work here")
	f.Int("sleep-level", 1, "of vllm's sleep: 1 keeps the weights in the host's memory, 2 reads them again")
	f.Duration("wake-timeout", 10*time.Minute, "how long a request may wait for the engine")
	f.Int("wake-queue", 256, "how many requests may wait for the engine")
	f.String("api-key-file", "", "file that holds the API key, readable by its owner only")
	f.StringSlice("cors-origin", nil, "web origin whose pages may use the API, such as https://app.example; again or with commas for more, * for all")
	f.String("log-format", "text", "text or json")
	return c
}

// stopSignals returns a context that ends at the first SIGINT or SIGTERM, and
// one that ends at the second. A third one kills.
func stopSignals() (soft, hard context.Context, stop func()) {
	soft, drain := context.WithCancel(context.Background())
	hard, now := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	done := make(chan struct{})
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	go func() {
		for _, f := range []func(){drain, func() { signal.Stop(c); now() }} {
			select {
			case <-c:
				f()
			case <-done:
				return
			}
		}
	}()
	return soft, hard, func() { signal.Stop(c); close(done); drain(); now() }
}

func newLog(w io.Writer, asJSON bool) *slog.Logger {
	if asJSON {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(charm.NewWithOptions(w, charm.Options{ReportTimestamp: true, TimeFormat: time.TimeOnly, Prefix: "spotinference"}))
}

// runServe wires the parts and waits for them. Order matters on the way out:
// the server drains, the engine stops, the bill is read once more, and the
// ledger closes last. hard cuts all of that short, but for the ledger.
func runServe(soft, hard context.Context, o options, stderr io.Writer) (err error) {
	log := newLog(stderr, o.json)
	if o.file != "" {
		log.Info("settings", "file", o.file)
	}
	if o.demo {
		stopDemo, err := startDemo(&o, log)
		if err != nil {
			return err
		}
		defer stopDemo()
	}

	// What is wrong with the command, the address or the provider's key is said
	// before the ledger is touched.
	var note func(ledger.Event) // set before anything runs
	var srv *api.Server         // and so is this
	var cards *gpu.Monitor      // and this; the demo has none, whose figures are all simulated
	var eng *engine.Engine
	engineConfig := engine.Config{
		Command: o.command, Kind: o.kind, TCP: o.tcp, User: o.engineUser, StartTimeout: o.startWait, Log: log, Stderr: stderr,
		Suspend: o.suspend, SleepLevel: o.sleepLevel, Idle: o.idle, WakeTimeout: o.wakeTimeout, WakeQueue: o.wakeQueue,
		OnTransition: func(t engine.Transition) {
			logEngine(log, note, eng.Identity(), t)
			if t.To == engine.Suspending {
				lastCounters(srv)
			}
		},
	}
	var checkpointer *gpu.Checkpointer
	if !o.demo {
		engineConfig.GPUMemory = func(ctx context.Context, pids []int) (int64, error) { return cards.Held(ctx, pids) }
		if checkpointer = newCheckpointer(soft, o.suspend, func() gpu.Snapshot { return cards.Latest() }); checkpointer != nil {
			engineConfig.Checkpointer = checkpointer
		}
	}
	eng, err = engine.New(engineConfig)
	if err != nil {
		return usagef(hintFor(err), "serve: %w", err)
	}
	var provider billing.Provider
	anchors := &ledgerAnchors{}
	if o.provider != "none" {
		o.billing.Anchors = anchors
		if provider, err = billing.New(o.provider, o.billing); err != nil {
			return usagef(hintFor(err), "serve: %w", err)
		}
	}
	if why, hint := (billing.Disks{Getenv: os.Getenv}).Dying(o.ledger); why != "" && !o.demo {
		log.Warn("the ledger may be lost with the machine: "+why, "ledger", o.ledger, "hint", hint)
	}
	o.listener.MaxRequest, o.listener.Log = api.MaxRequest(0), log
	in, err := listener.New(o.listener)
	if err != nil {
		return usagef(hintFor(err), "serve: %w", err)
	}
	if err := in.Listen(); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer in.Close()

	led, err := ledger.Open(ledger.Config{Path: o.ledger, Demo: o.demo, Afresh: o.demo, Now: clock, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, led.Close()) }() // last out
	anchors.led = led
	if n := led.Lost(); n > 0 {
		log.Warn("requests were lost when the last serve died", "requests", n)
	}
	if err := led.SetProvider(o.provider); err != nil {
		return err
	}
	keys, err := led.Keys()
	if err != nil {
		return err
	}
	if err := o.checkAccess(len(keys) > 0); err != nil {
		return err
	}
	note = func(e ledger.Event) {
		if err := led.AddEvent(e); err != nil && !errors.Is(err, ledger.ErrClosed) { // closed: stopped at once
			log.Error("write an event", "event", e.Subject, "err", err)
		}
	}
	event := func(kind, subject, detail string) {
		note(ledger.Event{At: clock(), Kind: kind, Subject: subject, Detail: detail})
	}
	if err := learn(eng, led); err != nil {
		log.Warn("how long the engine took to wake before is not known", "err", err)
	}

	gate, err := budget.New(budget.Config{
		Ledger: led, Terms: o.terms, MaxSampleAge: o.maxAge, Blind: provider == nil, Now: clock,
		OnChange: (&gateLog{led: led, log: log}).changed,
	})
	if err != nil {
		return err
	}
	metrics := api.NewMetrics(func() (time.Time, bool) {
		s, ok, err := led.Newest()
		return s.At, ok && err == nil
	})
	metrics.AddRuntime()
	after := &closer{eng: eng, command: o.onClose, keep: o.onCloseEnv, event: event, log: log, hard: hard}
	srv, err = api.New(api.Config{
		Engine: eng, Ledger: led, Gate: gate, Key: o.key, Keys: keys, Drain: o.drain, StallTimeout: o.stallAfter, Metrics: metrics, Now: clock, Log: log,
		Audit: led, AuditEvery: o.sampleEvery, Origins: o.origins, CloseGrace: o.terms.CloseGrace,
	})
	if err != nil {
		return err
	}
	budgets := newKeyBudgets(led, o.terms.Location, provider == nil, srv.SetKeySpend, log)
	if slices.ContainsFunc(keys, func(k ledger.Key) bool { return k.PerDay != nil && k.Live(clock()) }) {
		budgets.Want()
		if provider == nil {
			log.Warn("without a bill no key with a budget is served", "hint", "make keys without --budget")
		}
	}
	var sampler *billing.Sampler
	if provider != nil {
		newest, _, err := led.Newest()
		if err != nil {
			return err
		}
		watch, err := newWatch(provider, o.lowBalance, led, metrics, event, log)
		if err != nil {
			return err
		}
		warned := false // owned by who samples, one at a time
		sampled := func() {
			gate.Nudge()
			budgets.Nudge()
			if warned {
				return
			}
			gate.Refresh()
			if st, ok := gate.State(); ok && st.Rate != nil {
				warned = true
				warnBudget(log, st, o.onClose != nil)
			}
		}
		sampler, err = billing.NewSampler(billing.SamplerConfig{
			Provider: calibrate(provider, led.Reader, o.sampleEvery), Store: countFailures{led, metrics}, Every: o.sampleEvery, Now: clock, Log: log, OnSample: sampled,
			Watch: watch, Newest: newest.At, DayStart: func(t time.Time) time.Time { return budget.DayStart(t, o.terms.Location) },
		})
		if err != nil {
			return usagef(hintFor(err), "serve: %w", err)
		}
		after.sampler = sampler
	}

	if !o.demo {
		cards = newCards(led, metrics, log, event)
	}

	event("gateway", "started", "")
	log.Info("listening", "url", in.URL(), "ledger", o.ledger, "provider", o.provider, "engine", eng.Kind())
	if provider == nil {
		log.Warn("serving without a bill: no spend is known, and no budget holds")
	}
	if o.demo && !o.json {
		demoHint(stderr, in.Curl(), o)
	}

	g, ctx := errgroup.WithContext(soft)
	engineCtx, stopEngine := context.WithCancel(context.Background())
	backCtx, stopBack := context.WithCancel(context.Background())
	drained := make(chan struct{})
	g.Go(func() error {
		defer stopEngine()
		defer close(drained)
		return srv.Run(ctx, hard, in, api.Hooks{Closed: after.closed})
	})
	g.Go(func() error {
		return in.Run(backCtx, listener.Hooks{Refused: metrics.Refused, HandshakeFailed: metrics.HandshakeFailed, Answer: srv.Answer})
	})
	g.Go(func() error { defer stopBack(); return eng.Run(engineCtx) })
	g.Go(func() error { return gate.Run(backCtx) })
	if cards != nil {
		g.Go(func() error { return cards.Run(backCtx) })
	}
	if checkpointer != nil {
		g.Go(func() error { return keepCheckpointer(backCtx, checkpointer, log) })
	}
	g.Go(func() error { return budgets.Run(backCtx) })
	asked := calls(eng, gate, led, cards)
	maps.Copy(asked, keyCalls(led, srv, budgets, provider == nil))
	g.Go(func() error { return serveControl(backCtx, o.ledger, asked, log) })
	if sampler != nil {
		g.Go(func() error { return sampler.Run(backCtx) })
	}

	ended := make(chan error, 1)
	go func() { ended <- g.Wait() }()
	select {
	case err = <-ended:
	case <-hard.Done():
		// The answers were cut and have their rows; the engine's guard ends the
		// engine when we are gone.
		<-drained
		log.Warn("stopped at once")
		return nil
	}
	if sampler != nil {
		last, cancel := context.WithTimeout(hard, lastSampleTime)
		defer cancel()
		if err := sampler.Last(last); err != nil {
			log.Warn("the bill could not be read once more", "err", err)
		}
	}
	event("gateway", "stopped", "")
	if err == nil {
		log.Info("stopped")
	}
	return err
}

// lastCounters reads the engine's counters before they may end with it.
func lastCounters(srv *api.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	srv.SampleCounters(ctx)
}

// lastSampleTime bounds the sample on the way out: a spot machine has seconds.
const lastSampleTime = 5 * time.Second

// ledgerAnchors finds where a bill's series began in the ledger.
type ledgerAnchors struct{ led *ledger.Ledger }

func (a *ledgerAnchors) Newest(resource string) (epoch string, bill *ledger.Nanos, ok bool) {
	epoch, ok, err := a.led.Epoch(resource)
	if err != nil || !ok {
		return "", nil, false
	}
	s, ok, err := a.led.Newest()
	if err != nil || !ok {
		return epoch, nil, true
	}
	for _, l := range s.Lines {
		if l.Resource == resource && l.Epoch == epoch {
			bill = l.Bill
		}
	}
	return epoch, bill, true
}

func (a *ledgerAnchors) Open(provider string) ([]string, error) { return a.led.Open(provider) }

// newWatch looks at what the provider's account has left, or is nil where the provider
// does not tell.
func newWatch(p billing.Provider, low *ledger.Nanos, led *ledger.Ledger, m *api.Metrics, event func(kind, subject, detail string), log *slog.Logger) (*billing.Watch, error) {
	w, ok := p.(billing.Witness)
	if !ok {
		return nil, nil
	}
	return billing.NewWatch(billing.WatchConfig{
		Witness: w, Low: low, Now: clock, Log: log,
		OnResidual: func(r ledger.Residual) {
			m.Residual()
			if err := led.AddResidual(clock(), r); err != nil && !errors.Is(err, ledger.ErrClosed) {
				log.Error("write an event", "event", "residual", "err", err)
			}
		},
		OnFunds: func(f billing.Funds) {
			m.LowBalance(f.Low)
			if f.Turned {
				event("billing", map[bool]string{true: "balance_low", false: "balance_ok"}[f.Low], jsonText(struct {
					Left      string `json:"left"`
					Threshold string `json:"threshold"`
					Currency  string `json:"currency"`
				}{f.Left.String(), f.Threshold.String(), f.Currency}))
			}
		},
	})
}

// countFailures shows dark minutes in the metrics as they are written.
type countFailures struct {
	*ledger.Ledger
	metrics *api.Metrics
}

func (c countFailures) AddSampleFailure(ctx context.Context, f ledger.SampleFailure) error {
	c.metrics.SampleFailed(f.Class)
	return c.Ledger.AddSampleFailure(ctx, f)
}

// gateLog says in log and ledger that the gate opened or closed, and why. What the
// ledger could not take, since it was what failed, is written when it can.
type gateLog struct {
	led    *ledger.Ledger
	log    *slog.Logger
	unsaid []ledger.Event // owned by who evaluates the gate, one at a time
}

// unsaidMost bounds what is kept: a ledger that fails for long fails in one way.
const unsaidMost = 100

func (g *gateLog) changed(r *budget.Refusal) {
	e := ledger.Event{At: clock(), Kind: "gate", Subject: "open"}
	if r == nil {
		g.log.Info("gate open")
	} else {
		level := slog.LevelWarn
		if r.Reason == budget.ReasonNoSample {
			level = slog.LevelInfo // how every start begins
		}
		g.log.Log(context.Background(), level, "gate closed", "reason", r.Reason, "why", r.Detail)
		e.Subject = "closed"
		e.Detail = jsonText(struct {
			Reason string `json:"reason"`
			Why    string `json:"why"`
		}{r.Reason, r.Detail})
	}
	if len(g.unsaid) < unsaidMost {
		g.unsaid = append(g.unsaid, e)
	}
	for len(g.unsaid) > 0 {
		err := g.led.AddEvent(g.unsaid[0])
		if err != nil {
			if !errors.Is(err, ledger.ErrClosed) { // closed: stopped at once
				g.log.Error("write an event", "event", e.Subject, "err", err)
			}
			return
		}
		g.unsaid = g.unsaid[1:]
	}
}

// logEngine says in log and ledger that the engine's state changed. identity names
// the engine.
func logEngine(log *slog.Logger, note func(ledger.Event), identity string, t engine.Transition) {
	args := []any{"was", t.From, "cause", t.Cause}
	c := ledger.EngineChange{
		At: t.At, From: string(t.From), To: string(t.To), Engine: identity, Cause: t.Cause, PID: t.PID, Method: string(t.Method),
		Waiters: int64(t.Waiters), Left: int64(t.Gone.Left), Late: int64(t.Gone.Late), Phases: map[string]ledger.Seconds{},
	}
	for _, p := range t.Phases {
		c.Phases[p.Name] = ledger.Seconds(p.Took)
		args = append(args, p.Name, p.Took.Round(time.Millisecond))
	}
	if t.Canary != (engine.Usage{}) {
		c.Canary = &ledger.CanaryTokens{Prompt: t.Canary.PromptTokens, Completion: t.Canary.CompletionTokens}
	}
	if t.Method != "" {
		args = append(args, "by", t.Method)
	}
	level := slog.LevelInfo
	if t.To == engine.Crashed {
		level = slog.LevelWarn
	}
	log.Log(context.Background(), level, "engine "+string(t.To), args...)
	note(c.Event())
}

// learn tells the engine how its own wakes went before this serve. A first start was
// by no method, and is what a stopped engine takes to come back.
func learn(eng *engine.Engine, led *ledger.Ledger) error {
	wakes, err := led.EngineWakes(eng.Identity())
	if err != nil {
		return err
	}
	for _, w := range wakes {
		var took time.Duration
		for _, p := range w.Phases {
			took += time.Duration(p)
		}
		eng.Learn(engine.Method(cmp.Or(w.Method, string(engine.Stop))), took)
	}
	return nil
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: an event that is not JSON: " + err.Error())
	}
	return string(b)
}
