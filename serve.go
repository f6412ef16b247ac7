package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	charm "github.com/charmbracelet/log"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"spotinference/billing"
	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server"
	"spotinference/server/engine"
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

The API key is read from SPOTINFERENCE_API_KEY or --api-key-file.`,
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
	f.String("listen", "127.0.0.1:8080", "address to serve on; beyond loopback only with an API key")
	f.String("engine", "", "llama or vllm, where the command's name does not tell")
	f.Bool("engine-tcp", false, "let the engine listen on a loopback port, where it cannot on a Unix socket (docker)")
	f.String("provider", "", "whose bill to read: "+strings.Join(billing.Names(), ", ")+"; none serves without a bill. Found from the environment where that is unambiguous")
	f.String("provider-url", "", "base of the provider's API, https or on loopback: a proxy, a simulator")
	f.String("instance", "", "the provider's id of this box; found by address or name where that is unambiguous")
	f.String("budget", "", "the most to spend a day, in the bill's currency; none: no cap, but the gate still closes when the bill cannot be seen")
	f.String("budget-tz", "UTC", "time zone in which the budget's day begins")
	f.Duration("max-sample-age", defaultMaxSampleAge, "the oldest bill that still counts as seen; past it nothing is served")
	f.Duration("sample-every", defaultSampleEvery, "how often to read the bill")
	f.Duration("drain", 30*time.Second, "how long running answers may take when asked to stop")
	f.Duration("start-timeout", 30*time.Minute, "how long the engine may take to get ready")
	f.String("api-key-file", "", "file that holds the API key, readable by its owner only")
	f.String("log-format", "text", "text or json")
	return c
}

// options are serve's settings, checked.
type options struct {
	listen      string
	ledger      string
	ownLedger   bool // --ledger was given
	command     []string
	kind        engine.Kind
	tcp         bool
	startWait   time.Duration
	provider    string // "none" for no bill
	billing     billing.Options
	sampleEvery time.Duration
	maxAge      time.Duration
	perDay      *ledger.Nanos
	location    *time.Location
	drain       time.Duration
	key         string
	json        bool
	demo        bool
	file        string
}

// serveOptions checks what can be checked without touching anything.
func serveOptions(s settings, words []string) (o options, err error) {
	if len(words) == 0 {
		words = s.command
	}
	o = options{
		listen: s.text("listen"), command: words, kind: engine.Kind(s.text("engine")), tcp: s.on("engine-tcp"),
		provider: s.text("provider"), demo: s.on("demo"), file: s.file,
		billing: billing.Options{URL: s.text("provider-url"), Instance: s.text("instance"), Getenv: os.Getenv},
	}
	if o.demo {
		if len(words) > 0 || o.provider != "" {
			hint := "leave out the engine's command and --provider, or leave out --demo"
			if s.file != "" {
				hint += "; " + s.file + " may name them"
			}
			return o, usagef(hint, "serve: the demo brings its own engine and provider")
		}
		if !s.flags.Changed("sample-every") {
			if err := s.flags.Set("sample-every", demoSampleEvery.String()); err != nil {
				return o, err
			}
		}
	} else if err := o.findMissing(); err != nil {
		return o, err
	}
	switch o.kind {
	case "", engine.Llama, engine.VLLM:
	default:
		return o, usagef("use llama or vllm", "serve: engine %q: not known", o.kind)
	}
	for flag, to := range map[string]*time.Duration{
		"sample-every": &o.sampleEvery, "max-sample-age": &o.maxAge, "drain": &o.drain, "start-timeout": &o.startWait,
	} {
		if *to, err = s.flags.GetDuration(flag); err != nil {
			return o, err
		}
		if *to < 0 || *to == 0 && flag != "drain" {
			return o, usagef("give a duration such as 1m", "serve: --%s %s: too short", flag, *to)
		}
	}
	if o.maxAge < o.sampleEvery {
		return o, usagef("the bill must be read at least that often", "serve: --max-sample-age %s is less than --sample-every %s", o.maxAge, o.sampleEvery)
	}
	if o.perDay, err = parseBudget(s.text("budget")); err != nil {
		return o, err
	}
	if o.perDay != nil && o.provider == "none" {
		return o, usagef("leave out --budget, or name the provider whose bill it counts", "serve: no budget holds with --provider none")
	}
	if o.location, err = time.LoadLocation(s.text("budget-tz")); err != nil || s.text("budget-tz") == "" {
		return o, usagef("use a name such as UTC or Europe/Berlin", "serve: time zone %q: not known", s.text("budget-tz"))
	}
	switch format := s.text("log-format"); format {
	case "text", "json":
		o.json = format == "json"
	default:
		return o, usagef("use text or json", "serve: log format %q: not known", format)
	}
	if o.key, err = readKey(s.text("api-key-file")); err != nil {
		return o, err
	}
	if o.ledger, err = ledgerPath(s); err != nil {
		return o, err
	}
	o.ownLedger = s.text("ledger") != ""
	return o, checkListen(o.listen, o.key != "")
}

// findMissing says all that is missing at once, and finds the provider where
// nobody named one.
func (o *options) findMissing() error {
	var missing []string
	if len(o.command) == 0 {
		missing = append(missing, "the engine's command")
	}
	if o.provider == "" {
		name, err := billing.Detect(os.Getenv)
		if err == nil {
			o.provider = name
		} else if len(o.command) > 0 {
			return usagef(hintFor(err), "serve: no --provider, and %w", err)
		} else {
			missing = append(missing, "--provider")
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return usagef("spotinference serve --provider hyperstack -- llama-server -m model.gguf, or try it without anything: spotinference serve --demo",
		"serve: missing: %s", strings.Join(missing, " and "))
}

func parseBudget(text string) (*ledger.Nanos, error) {
	if text == "" {
		return nil, nil
	}
	n, err := ledger.ParseNanos(text)
	if err != nil {
		return nil, usagef("give what a day may cost, such as --budget 40", "serve: budget %q: not an amount of money", text)
	}
	if n <= 0 {
		return nil, usagef("give what a day may cost, such as --budget 40", "serve: budget %q: must be more than nothing", text)
	}
	return &n, nil
}

// readKey reads the API key from its file, else from the environment; "" where
// neither has one.
func readKey(path string) (string, error) {
	key, set := os.LookupEnv(apiKeyEnv)
	switch {
	case set && path != "":
		return "", usagef("leave one of them out", "serve: two API keys: %s and --api-key-file", apiKeyEnv)
	case set && strings.TrimSpace(key) == "":
		return "", usagef("unset it, or give it a key", "serve: %s is empty", apiKeyEnv)
	case path == "":
		return strings.TrimSpace(key), nil
	}
	st, err := os.Stat(path)
	if err != nil {
		return "", usagef("name a file that can be read", "serve: read the API key: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return "", usagef("chmod 600 "+path, "serve: the API key file %s can be read by others (mode %04o)", path, st.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", usagef("name a file that can be read", "serve: read the API key: %w", err)
	}
	if key = strings.TrimSpace(string(text)); key == "" {
		return "", usagef("put the key into it, on one line", "serve: the API key file %s is empty", path)
	}
	return key, nil
}

// checkListen refuses an address that anybody could use without a key.
func checkListen(addr string, keyed bool) error {
	host, port, err := net.SplitHostPort(addr)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		return usagef("use an address such as 127.0.0.1:8080", "serve: listen on %q: not an address", addr)
	}
	ip := net.ParseIP(host)
	if loopback := host == "localhost" || ip != nil && ip.IsLoopback(); !loopback && !keyed {
		return usagef("set SPOTINFERENCE_API_KEY or --api-key-file, or listen on 127.0.0.1",
			"serve: listen on %q: anybody who reaches it could spend your money without a key", addr)
	}
	return nil
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
	var event func(kind, subject, detail string) // set before anything runs
	eng, err := engine.New(engine.Config{
		Command: o.command, Kind: o.kind, TCP: o.tcp, StartTimeout: o.startWait, Log: log, Stderr: stderr,
		OnTransition: func(t engine.Transition) { logEngine(log, event, t) },
	})
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
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer ln.Close()

	led, err := ledger.Open(ledger.Config{Path: o.ledger, Demo: o.demo, Afresh: o.demo, Log: log})
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
	event = func(kind, subject, detail string) {
		err := led.AddEvent(ledger.Event{At: time.Now(), Kind: kind, Subject: subject, Detail: detail})
		if err != nil && !errors.Is(err, ledger.ErrClosed) { // closed: stopped at once
			log.Error("write an event", "event", subject, "err", err)
		}
	}

	gate, err := budget.New(budget.Config{
		Ledger: led, PerDay: o.perDay, Location: o.location, MaxSampleAge: o.maxAge, Blind: provider == nil, Log: log,
		OnChange: func(r *budget.Refusal) { logGate(log, event, r) },
	})
	if err != nil {
		return err
	}
	metrics := server.NewMetrics(func() (time.Time, bool) {
		s, ok, err := led.Newest()
		return s.At, ok && err == nil
	})
	srv, err := server.New(server.Config{
		Engine: eng, Ledger: led, Gate: gate, Key: o.key, Drain: o.drain, Metrics: metrics, Log: log,
	})
	if err != nil {
		return err
	}
	var sampler *billing.Sampler
	if provider != nil {
		sampler, err = billing.NewSampler(billing.SamplerConfig{
			Provider: provider, Store: countFailures{led, metrics}, Every: o.sampleEvery, Log: log, OnSample: gate.Nudge,
		})
		if err != nil {
			return usagef(hintFor(err), "serve: %w", err)
		}
	}

	event("gateway", "started", "")
	log.Info("listening", "url", "http://"+ln.Addr().String(), "ledger", o.ledger, "provider", o.provider, "engine", eng.Kind())
	if provider == nil {
		log.Warn("serving without a bill: no spend is known, and no budget holds")
	}
	if o.demo && !o.json {
		demoHint(stderr, ln.Addr().String(), o)
	}

	g, ctx := errgroup.WithContext(soft)
	engineCtx, stopEngine := context.WithCancel(context.Background())
	backCtx, stopBack := context.WithCancel(context.Background())
	drained := make(chan struct{})
	g.Go(func() error { defer stopEngine(); defer close(drained); return srv.Run(ctx, hard, ln) })
	g.Go(func() error { defer stopBack(); return eng.Run(engineCtx) })
	g.Go(func() error { return gate.Run(backCtx) })
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

// lastSampleTime bounds the sample on the way out: a spot machine has seconds.
const lastSampleTime = 5 * time.Second

// ledgerAnchors finds where a bill's series began in the ledger.
type ledgerAnchors struct{ led *ledger.Ledger }

func (a *ledgerAnchors) Anchor(resource string) (time.Time, bool) {
	epoch, ok, err := a.led.Epoch(resource)
	if err != nil || !ok {
		return time.Time{}, false
	}
	at, err := billing.ParseEpoch(epoch)
	return at, err == nil
}

// countFailures shows dark minutes in the metrics as they are written.
type countFailures struct {
	*ledger.Ledger
	metrics *server.Metrics
}

func (c countFailures) AddSampleFailure(ctx context.Context, f ledger.SampleFailure) error {
	c.metrics.SampleFailed(f.Class)
	return c.Ledger.AddSampleFailure(ctx, f)
}

// logGate says in log and ledger that the gate opened or closed, and why.
func logGate(log *slog.Logger, event func(kind, subject, detail string), r *budget.Refusal) {
	if r == nil {
		log.Info("gate open")
		event("gate", "open", "")
		return
	}
	level := slog.LevelWarn
	if r.Reason == budget.ReasonNoSample {
		level = slog.LevelInfo // how every start begins
	}
	log.Log(context.Background(), level, "gate closed", "reason", r.Reason, "why", r.Detail)
	event("gate", "closed", jsonText(struct {
		Reason string `json:"reason"`
		Why    string `json:"why"`
	}{r.Reason, r.Detail}))
}

// logEngine says in log and ledger that the engine's state changed.
func logEngine(log *slog.Logger, event func(kind, subject, detail string), t engine.Transition) {
	args := []any{"was", t.From, "cause", t.Cause}
	phases := map[string]float64{}
	for _, p := range t.Phases {
		phases[p.Name] = p.Took.Seconds()
		args = append(args, p.Name, p.Took.Round(time.Millisecond))
	}
	level := slog.LevelInfo
	if t.To == engine.Crashed {
		level = slog.LevelWarn
	}
	log.Log(context.Background(), level, "engine "+string(t.To), args...)
	event("engine", string(t.From)+"→"+string(t.To), jsonText(struct {
		Cause  string             `json:"cause"`
		PID    int                `json:"pid,omitempty"`
		Phases map[string]float64 `json:"phases_seconds,omitempty"`
	}{t.Cause, t.PID, phases}))
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: an event that is not JSON: " + err.Error())
	}
	return string(b)
}
