package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"spotinference/billing"
	"spotinference/internal/hint"
	"spotinference/internal/provider"
	"spotinference/ledger"
	"spotinference/server"
	"spotinference/server/api"
	"spotinference/server/engine"
	"spotinference/server/listener"
	"spotinference/server/queue"
	"spotinference/server/refusal"
)

// serveOptions are the flags of serve, in the groups of its help.
type serveOptions struct {
	listen, tlsCert, tlsKey, tlsCache string
	tlsDomains                        []string
	maxBodyMemory                     int

	keyFile  string
	origins  []string
	demoLoad string

	engine, engineUser         string
	engineTCP, engineSharesPID bool
	startTimeout, stallTimeout time.Duration
	completeResponses          bool

	suspend                     string
	sleepLevel                  int
	idle, wakeTimeout, wakeHold time.Duration
	wakeQueue                   int

	providerOptions
	sampleEvery, maxSampleAge time.Duration
	lowBalance                string

	budgetOptions
	quotaStatus int
	onClose     string
	onCloseEnv  []string

	drain     time.Duration
	logFormat string
}

func (o *serveOptions) addFlags(f flags) {
	in := f.in("Address and TLS")
	in.text(&o.listen, "listen", "127.0.0.1:8080", "address to serve on, beyond loopback only with an API key; or unix: and a path, for our own user only")
	in.text(&o.tlsCert, "tls-cert", "", "serve TLS with this certificate, its own first and then those that signed it, in PEM; read again when it changes")
	in.text(&o.tlsKey, "tls-key", "", "the key of --tls-cert, readable by its owner only")
	in.list(&o.tlsDomains, "tls-domain", "serve TLS with certificates that Let's Encrypt makes for this name, which must reach us on port 443; again or with commas for more")
	in.text(&o.tlsCache, "tls-cache", "", "directory for the certificates of --tls-domain and their keys (default beside the ledger)")

	in.number(&o.maxBodyMemory, "max-body-memory", 0, 0, 1<<20, "MiB", "how much memory the bodies of all requests may take together, 16 or more; what does not fit is refused; 0: a quarter of the machine's, or of the control group's limit, and 4096 at most")

	in = f.in("API keys and web pages")
	in.text(&o.keyFile, "api-key-file", "", "file that holds the API key, readable by its owner only")
	in.list(&o.origins, "cors-origin", "web origin whose pages may use the API, such as https://app.example; again or with commas for more, * for all")

	in = f.in("Engine")
	in.text(&o.engine, "engine", "", "llama or vllm, where the command's name does not tell")
	in.text(&o.engineUser, "engine-user", "", "run the engine as this user, by name or number; only root can")
	in.on(&o.engineTCP, "engine-tcp", "let the engine listen on a loopback port, where it cannot on a Unix socket (docker)")
	in.on(&o.engineSharesPID, "engine-shares-pids", "give the engine no pid namespace of its own, which it gets where serve is root and may make one; for an engine that shares the GPU's memory with other processes (CUDA IPC, MPS)")
	in.duration(&o.startTimeout, "start-timeout", 30*time.Minute, "how long the engine's start may show no progress")
	in.duration(&o.stallTimeout, "stall-timeout", 10*time.Minute, "how long the engine may make no progress on an answer until it is cut; a long prefill or queue is progress")

	in.off(&o.completeResponses, "complete-responses", "add what llama-server leaves out of a Responses stream and OpenAI's clients need; false leaves the stream as the engine wrote it")

	in = f.in("Suspending and waking the engine")
	in.duration(&o.idle, "idle", 15*time.Minute, "how long without a request until the engine is suspended")
	in.text(&o.suspend, "suspend", "auto", "how: sleep (vllm's own), checkpoint (the driver's), stop, never; auto: the quickest to wake of those that work here")
	in.number(&o.sleepLevel, "sleep-level", 1, 1, 2, "level", "of vllm's sleep: 1 keeps the weights in the host's memory, 2 reads them again")
	in.duration(&o.wakeTimeout, "wake-timeout", 10*time.Minute, "how long a request may wait for the engine")
	in.grace(&o.wakeHold, "wake-hold", 0, "how long a request that does not stream waits for the engine until its client is told to ask again; 45s behind a proxy that cuts at 100s; 0: as long as --wake-timeout")
	in.number(&o.wakeQueue, "wake-queue", 256, 1, 1<<20, "requests", "how many requests may wait for the engine")

	in = f.in("The provider's bill")
	o.providerOptions.addFlags(in)
	in.text(&o.demoLoad, "demo-load", "on", "on or off: whether the demo sends itself a request every "+server.DemoLoadEvery.String()+", which keeps its engine awake")
	in.duration(&o.sampleEvery, "sample-every", time.Minute, "how often to read the bill")
	in.duration(&o.maxSampleAge, "max-sample-age", defaultMaxSampleAge, "the oldest bill that still counts as seen; past it nothing is served")
	in.amount(&o.lowBalance, "low-balance", "", "warn when the account's balance falls below this; what a day costs at the sampled rates where it is left out, and 0 warns below zero only")

	in = f.in("The budget")
	o.budgetOptions.addFlags(in)
	in.number(&o.quotaStatus, "quota-status", refusal.DefaultQuotaStatus, 402, 429, "status", "of a refusal for a spent budget: 402, or 429 for clients that know a rate limit only, many of which try again for minutes then")
	in.text(&o.onClose, "on-close", "", "command to run once the gate has closed and its grace is over, to stop the machine: its words, no shell is asked; $GATE_REASON says why")
	in.list(&o.onCloseEnv, "on-close-env", "credential that --on-close may see, such as HYPERSTACK_API_KEY; again or with commas for more")

	in = f.in("Stopping and logging")
	in.grace(&o.drain, "drain", 30*time.Second, "how long running answers may take when asked to stop")
	in.text(&o.logFormat, "log-format", "text", "text or json")
}

func newServe(g *global) *cobra.Command {
	var o serveOptions
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
		// Before settings are read, which may hold a key.
		PreRunE: func(*cobra.Command, []string) error { return harden() },
		RunE:    g.runWords(func(_ context.Context, words []string) error { return runServe(g, o, words) }),
	}
	c.Flags().SetInterspersed(false) // a forgotten -- is seen at the command, not at its first flag
	o.addFlags(flagsOf(c))
	return exits(c, "0  it was asked to stop, and did")
}

func runServe(g *global, o serveOptions, words []string) error {
	cfg, err := o.config(g, words)
	if err != nil {
		return err
	}
	if g.settingsFile != "" {
		cfg.Log.Info("settings", "file", g.settingsFile)
	}
	if g.demo && o.logFormat == "text" {
		cfg.OnListening = func(at server.Address) { g.demoHint(at, cfg) }
	}
	soft, hard, stop := stopSignals()
	defer stop()
	err = server.Run(soft, hard, cfg)
	if refused := (*server.ConfigError)(nil); errors.As(err, &refused) {
		return usageError{fmt.Errorf("serve: %w", err)}
	}
	return err
}

// config checks what can be checked without touching anything. What a part of the
// gateway checks itself is left to it.
func (o serveOptions) config(g *global, words []string) (c server.Config, err error) {
	if len(words) == 0 {
		words = g.command
	}
	c = server.Config{
		Demo: g.demo, BodyMemory: int64(o.maxBodyMemory) << 20, StallTimeout: o.stallTimeout, CompleteResponses: o.completeResponses, WakeHold: o.wakeHold, QuotaStatus: o.quotaStatus, Drain: o.drain, Origins: o.origins,
		SampleEvery: o.sampleEvery, MaxSampleAge: o.maxSampleAge, OnCloseEnv: o.onCloseEnv,
		Now: g.now, Log: newLog(g.stderr, o.logFormat == "json"), Stderr: g.stderr,
	}
	if o.logFormat != "text" && o.logFormat != "json" {
		return c, usagef("use text or json", "serve: log format %q: not known", o.logFormat)
	}
	if o.demoLoad != "on" && o.demoLoad != "off" {
		return c, usagef("use on or off", "serve: --demo-load %q: not known", o.demoLoad)
	}
	c.DemoLoad = o.demoLoad == "on"
	if n := c.BodyMemory; n > 0 && n < api.MinBodyMemory {
		return c, usagef("give it 16 or more", "serve: --max-body-memory %d: too little for a request's body", o.maxBodyMemory)
	}
	if o.quotaStatus != 402 && o.quotaStatus != 429 {
		return c, usagef("use 402 or 429", "serve: --quota-status %d: not a status of a spent budget", o.quotaStatus)
	}
	if o.wakeHold > o.wakeTimeout {
		return c, usagef("leave --wake-hold out, or give a longer --wake-timeout", "serve: --wake-hold %s is longer than --wake-timeout %s", o.wakeHold, o.wakeTimeout)
	}
	if err := o.source(g, words, &c); err != nil {
		return c, err
	}
	if c.Engine, err = o.engineConfig(c.Engine); err != nil {
		return c, err
	}
	if c.MaxSampleAge < c.SampleEvery {
		return c, usagef("the bill must be read at least that often", "serve: --max-sample-age %s is less than --sample-every %s", c.MaxSampleAge, c.SampleEvery)
	}
	if err := o.money(&c); err != nil {
		return c, err
	}
	if c.OnClose, err = o.onCloseCommand(); err != nil {
		return c, err
	}
	if c.Key, err = readKey(o.keyFile); err != nil {
		return c, err
	}
	for _, origin := range c.Origins {
		if err := api.CheckOrigin(origin); err != nil {
			return c, usagef("write it as browsers do: https://app.example, http://localhost:3000", "serve: --cors-origin: %w", err)
		}
	}
	if c.Ledger, err = g.ledgerPath(); err != nil {
		return c, err
	}
	if c.Listener, err = o.listener(c.Ledger); err != nil {
		return c, err
	}
	// A ledger may hold keys, unless it is not there yet or about to be made afresh;
	// the server asks again when it has seen.
	_, noLedger := os.Stat(c.Ledger)
	if err := c.CheckOpen(noLedger == nil && !g.demo); err != nil {
		return c, usagef("", "serve: %w", err)
	}
	return c, nil
}

// source is what is served and whose bill it is on: the demo's, or the flags'.
func (o serveOptions) source(g *global, words []string, c *server.Config) (err error) {
	if c.Billing, err = o.billing(); err != nil {
		return err
	}
	if !slices.Contains(server.DemoProviders(), o.demoProvider) {
		return usagef("use one of "+strings.Join(server.DemoProviders(), ", "), "serve: demo provider %q: not known", o.demoProvider)
	}
	if g.demo {
		if len(words) > 0 || o.provider != "" {
			help := "leave out the engine's command and --provider, or leave out --demo"
			if g.settingsFile != "" {
				help += "; " + g.settingsFile + " may name them"
			}
			return usagef(help, "serve: the demo brings its own engine and provider")
		}
		c.Provider = o.demoProvider
		if !g.given["sample-every"] {
			c.SampleEvery = server.DemoSampleEvery
		}
		return nil
	}
	c.Engine.Command = words
	c.Provider, err = o.findMissing(words)
	return err
}

// findMissing says all that is missing at once, and finds the provider where nobody
// named one.
func (o serveOptions) findMissing(words []string) (provider string, err error) {
	var missing []string
	if len(words) == 0 {
		missing = append(missing, "the engine's command")
	}
	provider = o.provider
	if provider == "" {
		name, err := billing.Detect(os.Getenv)
		switch {
		case err == nil:
			provider = name
		case len(words) > 0:
			return "", usagef("", "serve: no --provider, and %w", err)
		default:
			missing = append(missing, "--provider")
		}
	}
	if len(missing) > 0 {
		return "", usagef("spotinference serve --provider hyperstack -- llama-server -m model.gguf, or try it without anything: spotinference serve --demo",
			"serve: missing: %s", strings.Join(missing, " and "))
	}
	return provider, nil
}

// engineConfig adds the flags to what is known of the engine.
func (o serveOptions) engineConfig(c engine.Config) (engine.Config, error) {
	c.Kind, c.TCP, c.SharePIDs, c.StartTimeout = queue.Kind(o.engine), o.engineTCP, o.engineSharesPID, o.startTimeout
	c.Suspend, c.SleepLevel, c.Idle = engine.Method(o.suspend), o.sleepLevel, o.idle
	c.WakeTimeout, c.WakeQueue = o.wakeTimeout, o.wakeQueue
	switch c.Kind {
	case "", queue.Llama, queue.VLLM:
	default:
		return c, usagef("use llama or vllm", "serve: engine %q: not known", c.Kind)
	}
	if o.engineUser != "" {
		user, err := engine.LookupUser(o.engineUser)
		if err != nil {
			return c, usagef("", "serve: %w", err)
		}
		c.User = user
	}
	return c, nil
}

// money reads the amounts.
func (o serveOptions) money(c *server.Config) (err error) {
	if c.Budget, err = o.terms("serve"); err != nil {
		return err
	}
	if o.lowBalance != "" {
		low, err := ledger.ParseNanos(o.lowBalance)
		if err != nil || low < 0 {
			return usagef("give an amount such as --low-balance 50", "serve: low balance %q: not an amount of money", o.lowBalance)
		}
		c.LowBalance = &low
	}
	if c.Budget.Limits != nil && c.Provider == server.NoProvider {
		return usagef("leave out --budget, or name the provider whose bill it counts", "serve: no budget holds with --provider none")
	}
	return nil
}

// onCloseCommand is --on-close as words. Its program is looked for now: when it is
// needed nobody looks.
func (o serveOptions) onCloseCommand() ([]string, error) {
	if o.onClose == "" {
		if len(o.onCloseEnv) > 0 {
			return nil, usagef("leave it out, or give --on-close", "serve: --on-close-env without --on-close")
		}
		return nil, nil
	}
	words, err := billing.SplitCommand("on close", o.onClose)
	if err != nil {
		return nil, usagef("", "serve: %w", err)
	}
	if _, err := exec.LookPath(words[0]); err != nil {
		return nil, usagef("name a program that is there", "serve: --on-close: %w", err)
	}
	return words, nil
}

func (o serveOptions) listener(ledger string) (l listener.Config, err error) {
	l = listener.Config{Address: o.listen, CertFile: o.tlsCert, KeyFile: o.tlsKey, Domains: o.tlsDomains, CacheDir: o.tlsCache}
	if len(l.Domains) > 0 && l.CacheDir == "" {
		l.CacheDir = ledger + ".acme"
	}
	if err := l.Check(); err != nil {
		return l, usagef("", "serve: %w", err)
	}
	return l, nil
}

// readKey reads the API key from its file, else from the environment; "" where neither
// has one.
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
	text, err := provider.ReadSecretFile(path)
	if open := new(provider.NotPrivateError); errors.As(err, &open) {
		return "", usagef(hint.Of(err), "serve: the API key file %s can be read by others (mode %04o)", path, open.Mode)
	}
	if err != nil {
		return "", usagef(cmp.Or(hint.Of(err), "name a file that can be read"), "serve: read the API key: %w", err)
	}
	if key = strings.TrimSpace(text); key == "" {
		return "", usagef("put the key into it, on one line", "serve: the API key file %s is empty", path)
	}
	return key, nil
}

// demoHint shows what to type next, to be copied as it stands.
func (g *global) demoHint(at server.Address, c server.Config) {
	key, where := "", ""
	if c.Key != "" {
		key = ` -H "Authorization: Bearer $SPOTINFERENCE_API_KEY"`
	}
	if g.ledger != "" {
		where = " --ledger " + g.ledger
	}
	fmt.Fprintf(g.stderr, `
  %s/v1/chat/completions%s -d '{"messages":[{"role":"user","content":"What does a token cost?"}]}'
  spotinference report cost --demo --window 10m%s

`, at.Curl, key, where)
}
