package cli

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"spotinference/billing"
	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/engine"
	"spotinference/server/listener"
)

// options are serve's settings, checked.
type options struct {
	listener     listener.Config
	ledger       string
	ownLedger    bool // --ledger was given
	command      []string
	kind         engine.Kind
	tcp          bool
	engineUser   *engine.User // nil: ours
	startWait    time.Duration
	stallAfter   time.Duration
	suspend      engine.Method
	sleepLevel   int
	idle         time.Duration
	wakeTimeout  time.Duration
	wakeQueue    int
	provider     string // "none" for no bill
	billing      billing.Options
	sampleEvery  time.Duration
	maxAge       time.Duration
	terms        budget.Terms
	onClose      []string
	onCloseEnv   []string
	lowBalance   *ledger.Nanos // nil: what a day costs
	drain        time.Duration
	key          string
	origins      []string
	json         bool
	demo         bool
	demoProvider string
	file         string
}

// billingOptions are the settings that say whose bill it is.
func billingOptions(s settings) (o billing.Options, err error) {
	o = billing.Options{URL: s.text("provider-url"), Instance: s.text("instance"), Getenv: os.Getenv}
	if text := s.text("billing-command"); text != "" {
		if o.Command, err = billing.SplitCommand("billing command", text); err != nil {
			return o, usagef(hintFor(err), "%w", err)
		}
	}
	return o, nil
}

// serveOptions checks what can be checked without touching anything.
func serveOptions(s settings, words []string) (o options, err error) {
	if len(words) == 0 {
		words = s.command
	}
	o = options{
		command: words, kind: engine.Kind(s.text("engine")), tcp: s.on("engine-tcp"),
		provider: s.text("provider"), demo: s.on("demo"), demoProvider: s.text("demo-provider"), file: s.file,
	}
	if o.billing, err = billingOptions(s); err != nil {
		return o, err
	}
	if !slices.Contains(demoProviders(), o.demoProvider) {
		return o, usagef("use one of "+strings.Join(demoProviders(), ", "), "serve: demo provider %q: not known", o.demoProvider)
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
	if name := s.text("engine-user"); name != "" {
		if o.engineUser, err = engine.LookupUser(name); err != nil {
			return o, usagef(hintFor(err), "serve: %w", err)
		}
	}
	for flag, to := range map[string]*time.Duration{
		"sample-every": &o.sampleEvery, "max-sample-age": &o.maxAge, "drain": &o.drain, "start-timeout": &o.startWait,
		"stall-timeout": &o.stallAfter,
		"idle":          &o.idle, "wake-timeout": &o.wakeTimeout,
	} {
		if *to, err = s.flags.GetDuration(flag); err != nil {
			return o, err
		}
		if *to < 0 || *to == 0 && flag != "drain" {
			return o, usagef("give a duration such as 1m", "serve: --%s %s: too short", flag, *to)
		}
	}
	o.suspend = engine.Method(s.text("suspend"))
	for _, n := range []struct {
		flag        string
		to          *int
		least, most int
	}{{"sleep-level", &o.sleepLevel, 1, 2}, {"wake-queue", &o.wakeQueue, 1, 1 << 20}} {
		if *n.to, err = s.flags.GetInt(n.flag); err != nil {
			return o, err
		}
		if *n.to < n.least || *n.to > n.most {
			return o, usagef(fmt.Sprintf("give a number from %d to %d", n.least, n.most), "serve: --%s %d: out of range", n.flag, *n.to)
		}
	}
	if o.maxAge < o.sampleEvery {
		return o, usagef("the bill must be read at least that often", "serve: --max-sample-age %s is less than --sample-every %s", o.maxAge, o.sampleEvery)
	}
	if o.terms, err = budgetTerms(s, "serve"); err != nil {
		return o, err
	}
	if text := s.text("low-balance"); text != "" {
		low, err := ledger.ParseNanos(text)
		if err != nil || low < 0 {
			return o, usagef("give an amount such as --low-balance 50", "serve: low balance %q: not an amount of money", text)
		}
		o.lowBalance = &low
	}
	if o.terms.Limits != nil && o.provider == "none" {
		return o, usagef("leave out --budget, or name the provider whose bill it counts", "serve: no budget holds with --provider none")
	}
	if text := s.text("on-close"); text != "" {
		if o.onClose, err = billing.SplitCommand("on close", text); err != nil {
			return o, usagef(hintFor(err), "serve: %w", err)
		}
		if err := checkOnClose(o.onClose); err != nil {
			return o, usagef("name a program that is there", "serve: %w", err)
		}
	}
	if o.onCloseEnv, err = s.flags.GetStringSlice("on-close-env"); err != nil {
		return o, err
	}
	if len(o.onCloseEnv) > 0 && o.onClose == nil {
		return o, usagef("leave it out, or give --on-close", "serve: --on-close-env without --on-close")
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
	if o.origins, err = s.flags.GetStringSlice("cors-origin"); err != nil {
		return o, err
	}
	for _, origin := range o.origins {
		if err := api.CheckOrigin(origin); err != nil {
			return o, usagef("write it as browsers do: https://app.example, http://localhost:3000", "serve: --cors-origin: %w", err)
		}
	}
	if o.ledger, err = ledgerPath(s); err != nil {
		return o, err
	}
	o.ownLedger = s.text("ledger") != ""
	if o.listener, err = listenerConfig(s, o.ledger); err != nil {
		return o, err
	}
	// A ledger may hold keys, unless it is not there yet or about to be made afresh;
	// runServe asks again when it has seen.
	_, noLedger := os.Stat(o.ledger)
	return o, o.checkAccess(noLedger == nil && !o.demo)
}

// checkAccess refuses what anybody could use without a key. keyed: the ledger has keys.
func (o options) checkAccess(keyed bool) error {
	keyed = keyed || o.key != ""
	if err := checkOrigins(o.origins, keyed); err != nil {
		return err
	}
	if o.listener.Exposed() && !keyed {
		return usagef("make a key with spotinference key create, or set SPOTINFERENCE_API_KEY or --api-key-file, or listen on 127.0.0.1",
			"serve: listen on %q: anybody who reaches it could spend your money without a key", o.listener.Address)
	}
	return nil
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

// checkOrigins refuses a gateway that every page could spend on.
func checkOrigins(origins []string, keyed bool) error {
	if slices.Contains(origins, api.AnyOrigin) && !keyed {
		return usagef("make a key with spotinference key create, or set SPOTINFERENCE_API_KEY or --api-key-file, or name the origins",
			"serve: --cors-origin *: any page that is open on this machine could spend your money without a key")
	}
	return nil
}
