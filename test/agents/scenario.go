package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"spotinference/billing/sim"
)

// scenario is a way in which serve treats agents, and what they should make of it.
type scenario struct {
	name       string
	title      string // of its column
	long       bool   // only with -long
	realEngine bool   // runs by itself, one agent at a time
	variants   bool   // also asks the other set-ups of an agent
	own        bool   // each agent has a serve of its own
	bound      time.Duration
	start      func(context.Context, *world, string) (*stage, error) // in a folder of its own
	want       want
	ownWords   []string // agents that tell of this in words of their own
}

// want is what an agent should do.
type want struct {
	status    int  // it is answered with this
	ends      bool // then it ends within endsWithin, and has printed our sentence
	keepsOn   bool // while it tries, no try comes later than longestGap after the one before
	answered  bool // it prints the answer
	stays     bool // it waits for the answer to its first request, and does not ask again
	reasonsOK bool // it prints the answer, or ends with our sentence
}

const (
	endsWithin = 15 * time.Second
	longestGap = 75 * time.Second
	// usualBound is how long after its first try an agent is stopped that has not ended.
	usualBound = 100 * time.Second
)

// stage is what the agents of a scenario find.
type stage struct {
	target   string   // URL without /v1
	gateway  *gateway // nil where the engine is asked directly
	model    string
	key      func(context.Context, agent) (string, error)
	onStream func() // see recorder
	stop     func()
}

// scenarios are those that are run, in the order of the table.
var scenarios = []scenario{
	{name: "served", title: "served", variants: true, start: served, want: want{answered: true}},
	{name: "key-wrong", title: "key wrong (401)", start: keyWrong, want: want{status: 401, ends: true}, ownWords: []string{"claude"}},
	{name: "key-revoked", title: "key revoked (401)", start: keyRevoked, want: want{status: 401, ends: true}, ownWords: []string{"claude"}},
	{name: "budget-spent", title: "budget spent (402)", start: budgetSpent, want: want{status: 402, ends: true}},
	{name: "bill-refused", title: "provider refuses its key (402)", start: billRefused, want: want{status: 402, ends: true}},
	{name: "bill-dark", title: "bill dark (503)", start: billDark, want: want{status: 503, keepsOn: true}},
	{name: "rate-limit", title: "rate limit (429)", start: rateLimit, bound: 150 * time.Second, want: want{status: 429, answered: true}},
	{name: "model-not-allowed", title: "model not allowed (404)", start: modelNotAllowed, want: want{status: 404, ends: true}, ownWords: []string{"claude"}},
	{name: "context-too-long", title: "context too long (400)", start: contextTooLong, want: want{status: 400, ends: true}, ownWords: []string{"codex", "pi"}},
	{name: "engine-killed", title: "engine killed mid-stream", own: true, start: engineKilled, want: want{keepsOn: true, reasonsOK: true}},
	{name: "engine-cuts", title: "each stream cut", start: engineCuts, want: want{keepsOn: true}},

	{name: "engine-starts", title: "engine starts for 60 s", long: true, own: true, bound: 4 * time.Minute, start: engineStarts, want: want{keepsOn: true, reasonsOK: true}},
	{name: "engine-asleep", title: "engine wakes for 330 s", long: true, bound: 11 * time.Minute, start: engineAsleep, want: want{answered: true, stays: true}},
	{name: "hi-direct", title: "llama-server itself", long: true, realEngine: true, variants: true, bound: 5 * time.Minute, start: hiDirect},
	{name: "hi", title: "llama-server through serve", long: true, realEngine: true, variants: true, bound: 5 * time.Minute, start: hiThrough, want: want{answered: true}},
}

// simModel is the name of the simulated engine's model.
const simModel = "sim"

// simEngine is the end of serve's command line: the simulated engine.
func (w *world) simEngine(flags ...string) []string {
	return append([]string{"--engine", "llama", "--", w.bin, "sim-engine", "-m", "sim.gguf", "--alias", simModel, "-c", strconv.Itoa(contextWindow),
		"-np", "8", "--tokens", "12"}, flags...)
}

// stage starts a serve and makes a stage of it, with the main key.
func (w *world) stage(ctx context.Context, dir string, args []string) (*stage, error) {
	g, err := startGateway(ctx, w.bin, dir, nil, args...)
	if err != nil {
		return nil, err
	}
	return &stage{target: g.url, gateway: g, model: simModel, stop: g.stop, key: func(context.Context, agent) (string, error) { return mainKey, nil }}, nil
}

// ready is a stage that serves.
func (w *world) ready(ctx context.Context, dir string, args []string) (*stage, error) {
	st, err := w.stage(ctx, dir, args)
	if err != nil {
		return nil, err
	}
	return st, st.gateway.ready()
}

func withoutBill(args []string) []string { return append([]string{"--provider", "none"}, args...) }

func served(ctx context.Context, w *world, dir string) (*stage, error) {
	return w.ready(ctx, dir, withoutBill(w.simEngine()))
}

func keyWrong(ctx context.Context, w *world, dir string) (*stage, error) {
	st, err := served(ctx, w, dir)
	if err != nil {
		return nil, err
	}
	st.key = func(context.Context, agent) (string, error) { return "sk-wrong-0123456789abcdef", nil }
	return st, nil
}

func keyRevoked(ctx context.Context, w *world, dir string) (*stage, error) {
	st, err := served(ctx, w, dir)
	if err != nil {
		return nil, err
	}
	key, err := st.gateway.command(ctx, "key", "create", "--name", "left")
	if err != nil {
		return nil, err
	}
	if _, err := st.gateway.command(ctx, "key", "revoke", "left"); err != nil {
		return nil, err
	}
	st.key = func(context.Context, agent) (string, error) { return key, nil }
	return st, nil
}

// rateLimit gives each agent a key whose requests of this minute were had.
func rateLimit(ctx context.Context, w *world, dir string) (*stage, error) {
	st, err := served(ctx, w, dir)
	if err != nil {
		return nil, err
	}
	st.key = func(ctx context.Context, a agent) (string, error) {
		const perMinute = 2
		key, err := st.gateway.command(ctx, "key", "create", "--name", a.name, "--rpm", strconv.Itoa(perMinute))
		if err != nil {
			return "", err
		}
		for range perMinute {
			if err := st.gateway.ask(ctx, key); err != nil {
				return "", fmt.Errorf("spend the key's minute: %w", err)
			}
		}
		return key, nil
	}
	return st, nil
}

func modelNotAllowed(ctx context.Context, w *world, dir string) (*stage, error) {
	st, err := served(ctx, w, dir)
	if err != nil {
		return nil, err
	}
	key, err := st.gateway.command(ctx, "key", "create", "--name", "other", "--models", "another-model")
	if err != nil {
		return nil, err
	}
	st.key = func(context.Context, agent) (string, error) { return key, nil }
	return st, nil
}

func contextTooLong(ctx context.Context, w *world, dir string) (*stage, error) {
	return w.ready(ctx, dir, withoutBill(w.simEngine("-c", "100")))
}

// bill is what the billing command prints, at an amount of USD.
func bill(amount string) string {
	return fmt.Sprintf(`{"version":1,"account":"1","currency":"USD","step_seconds":1,"lag_seconds":600,"truth":"resource","lines":[
{"resource":"vm","kind":"instance","running":true,"rate_per_hour":"3","bill":%q,"epoch":"1"}]}
`, amount)
}

// billed is a stage whose bill is a file of dir.
func (w *world) billed(ctx context.Context, dir string) (*stage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "bill"), []byte(bill("1")), 0o600); err != nil {
		return nil, err
	}
	return w.ready(ctx, dir, append([]string{"--provider", "exec", "--billing-command", "cat bill", "--sample-every", "1s", "--max-sample-age", "3s",
		"--budget", "1", "--budget-headroom", "0.25", "--close-grace", "0s"}, w.simEngine()...))
}

func budgetSpent(ctx context.Context, w *world, dir string) (*stage, error) {
	st, err := w.billed(ctx, dir)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "bill"), []byte(bill("1.75")), 0o600); err != nil {
		return nil, err
	}
	return st, st.gateway.closed("exhausted")
}

func billDark(ctx context.Context, w *world, dir string) (*stage, error) {
	st, err := w.billed(ctx, dir)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(dir, "bill")); err != nil {
		return nil, err
	}
	return st, st.gateway.closed("failed")
}

// billRefused has the provider refuse its key, as one does that was withdrawn.
func billRefused(ctx context.Context, w *world, dir string) (*stage, error) {
	cloud, err := sim.New(sim.Config{Key: "provider-key-0001"})
	if err != nil {
		return nil, err
	}
	if err := cloud.Listen("127.0.0.1:0"); err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- cloud.Run(running) }()
	account := cloud.Account("hyperstack", "")
	g, err := startGateway(ctx, w.bin, dir, []string{"HYPERSTACK_API_KEY=" + account.Env["HYPERSTACK_API_KEY"]},
		append([]string{"--provider", "hyperstack", "--provider-url", account.URL, "--instance", account.Instance, "--sample-every", "1s", "--max-sample-age", "3s"},
			w.simEngine()...)...)
	if err == nil {
		err = g.ready()
	}
	if err == nil {
		err = cloud.SetFault(sim.Fault{Mode: sim.Unauthorized})
	}
	if err == nil {
		err = g.closed("failed")
	}
	if err != nil {
		cancel()
		<-done
		return nil, err
	}
	return &stage{target: g.url, gateway: g, model: simModel, key: func(context.Context, agent) (string, error) { return mainKey, nil },
		stop: func() { g.stop(); cancel(); <-done }}, nil
}

// engineKilled kills the engine when the agent's first stream has begun.
func engineKilled(ctx context.Context, w *world, dir string) (*stage, error) {
	st, err := w.ready(ctx, dir, withoutBill(w.simEngine("--delay", "300ms")))
	if err != nil {
		return nil, err
	}
	st.onStream = func() {
		for _, p := range processes() {
			if len(p.argv) > 1 && p.argv[0] == w.bin && p.argv[1] == "sim-engine" && p.has("TMPDIR="+dir) {
				_ = syscall.Kill(p.pid, syscall.SIGKILL) // it may be gone
			}
		}
	}
	return st, nil
}

func engineCuts(ctx context.Context, w *world, dir string) (*stage, error) {
	return w.ready(ctx, dir, withoutBill(w.simEngine("--drop-after", "6", "--delay", "50ms")))
}

// engineStarts is an engine that the last agent, too, finds at its start for 60 seconds.
func engineStarts(ctx context.Context, w *world, dir string) (*stage, error) {
	return w.stage(ctx, dir, withoutBill(w.simEngine("--load", "90s")))
}

// engineAsleep is an engine that has been suspended, and whose next start takes so long
// that the last agent, too, waits for 330 seconds.
func engineAsleep(ctx context.Context, w *world, dir string) (*stage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	load := filepath.Join(dir, "load")
	if err := os.WriteFile(load, []byte("0s"), 0o600); err != nil {
		return nil, err
	}
	engine := filepath.Join(dir, "engine.sh")
	if err := writeScript(engine, fmt.Sprintf("exec '%s' sim-engine --load \"$(cat '%s')\" \"$@\"\n", w.bin, load)); err != nil {
		return nil, err
	}
	st, err := w.ready(ctx, dir, withoutBill([]string{"--engine", "llama", "--", engine, "-m", "sim.gguf", "--alias", simModel, "-c", strconv.Itoa(contextWindow),
		"-np", "8", "--tokens", "12"}))
	if err != nil {
		return nil, err
	}
	if _, err := st.gateway.command(ctx, "suspend"); err != nil {
		return nil, err
	}
	return st, os.WriteFile(load, []byte("390s"), 0o600)
}

// writeScript writes a shell script that can be executed.
func writeScript(path, text string) error {
	return os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700)
}
