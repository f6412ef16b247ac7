package sim

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are the command line. They do not change after parseOptions.
type options struct {
	flavour string // "llama" or "vllm"
	host    string
	port    string
	uds     string
	key     string // "" asks for none
	model   string // the name that answers carry
	alias   string // what model is then called, where it is not ""

	// What llama-server and vLLM must be told to do, and don't otherwise.
	metrics       bool
	embeddings    bool
	reranking     bool
	promptDetails bool // cached tokens in usage
	forceUsage    bool // usage on every chunk of every stream
	sleepMode     bool // /sleep works
	devMode       bool // /sleep exists
	ctxSize       int
	slots         int

	load         time.Duration
	prefill      time.Duration
	linger       time.Duration
	gpu          string
	escape       bool
	core         bool
	ignoreTerm   bool
	exitAtStart  int // not negative: the status
	exitOn       int // not 0: the Nth request
	exitCode     int
	flood        int
	crashAsleep  bool
	wakeTime     time.Duration
	hangOn       string
	failOn       string
	garbage      string
	wrongAddress bool
	chatter      bool
	readyAt      string

	faults faults // what every request suffers
}

// faults are how one answer is made and goes wrong. A request may carry its own as
// the object "sim", which real engines ignore.
type faults struct {
	Tokens     int          `json:"tokens"`      // length of an answer that nothing cuts
	DelayMS    milliseconds `json:"delay_ms"`    // between tokens
	Cached     int          `json:"cached"`      // prompt tokens found in the cache
	DropAfter  int          `json:"drop_after"`  // tokens before the connection breaks
	ErrorAfter int          `json:"error_after"` // tokens before an error event
	Hang       bool         `json:"hang"`        // never leaves prefill
	Say        string       `json:"say"`         // the first token, instead of what would be
	BigEvent   bool         `json:"big_event"`   // one token is 64 KiB long
	NullEvent  bool         `json:"null_event"`  // a stream begins with "data: null", as newer llama-server does for prompt arrays
}

type milliseconds float64

func (ms milliseconds) duration() time.Duration {
	return time.Duration(float64(ms) * float64(time.Millisecond))
}

// option is one option of the command line: optionTable is the reference of what the
// simulator takes.
type option struct {
	names string // of the same option, separated by spaces
	// field is where the value goes: *string, *int, *bool, *time.Duration or
	// *milliseconds, which is written as a duration. A *bool takes no value.
	field func(*options) any
	usage string
}

var optionTable = []option{
	{"flavour", func(o *options) any { return &o.flavour }, "engine to imitate: llama, the default, or vllm"},

	// The engines' own.
	{"host", func(o *options) any { return &o.host }, "address; llama: or a path that ends in .sock; 127.0.0.1 by default"},
	{"port", func(o *options) any { return &o.port }, "port; any by default"},
	{"uds", func(o *options) any { return &o.uds }, "vllm: Unix socket"},
	{"api-key", func(o *options) any { return &o.key }, "key; LLAMA_API_KEY or VLLM_API_KEY by default"},
	{"model m", func(o *options) any { return &o.model }, "model; vllm: or the word after serve"},
	{"alias a served-model-name", func(o *options) any { return &o.alias }, "name of the model in answers"},
	{"metrics", func(o *options) any { return &o.metrics }, "llama: serve /metrics"},
	{"embeddings embedding", func(o *options) any { return &o.embeddings }, "llama: serve /v1/embeddings"},
	{"reranking rerank", func(o *options) any { return &o.reranking }, "llama: serve /v1/rerank"},
	{"enable-prompt-tokens-details", func(o *options) any { return &o.promptDetails }, "vllm: cached tokens in usage"},
	{"enable-force-include-usage", func(o *options) any { return &o.forceUsage }, "vllm: usage on every chunk of every stream"},
	{"enable-sleep-mode", func(o *options) any { return &o.sleepMode }, "vllm: /sleep works; VLLM_SERVER_DEV_MODE=1 makes it exist"},
	{"ctx-size c max-model-len", func(o *options) any { return &o.ctxSize }, "context, in tokens; 4096 by default"},
	{"parallel np", func(o *options) any { return &o.slots }, "llama: slots; 4 by default"},

	// How long it takes and what it makes.
	{"load", func(o *options) any { return &o.load }, "time until it is ready"},
	{"prefill", func(o *options) any { return &o.prefill }, "time before the first token"},
	{"delay", func(o *options) any { return &o.faults.DelayMS }, "time between tokens"},
	{"linger", func(o *options) any { return &o.linger }, "llama: period of looking for clients that left; 1s by default"},
	{"wake-time", func(o *options) any { return &o.wakeTime }, "vllm: how long /wake_up and reload_weights take, each"},
	{"tokens", func(o *options) any { return &o.faults.Tokens }, "length of an answer, in tokens; 48 by default"},
	{"cached", func(o *options) any { return &o.faults.Cached }, "cached prompt tokens, at most all but one"},
	{"gpu", func(o *options) any { return &o.gpu }, "lock file that stands for the GPU's memory"},
	{"ready-at", func(o *options) any { return &o.readyAt }, "write the time at which it is ready to this file, in nanoseconds since 1970"},

	// Answers that go wrong.
	{"drop-after", func(o *options) any { return &o.faults.DropAfter }, "break the connection after so many tokens"},
	{"error-after", func(o *options) any { return &o.faults.ErrorAfter }, "fail after so many tokens"},
	{"hang", func(o *options) any { return &o.faults.Hang }, "never answer a request"},
	{"big-event", func(o *options) any { return &o.faults.BigEvent }, "make one token 64 KiB long"},
	{"null-event", func(o *options) any { return &o.faults.NullEvent }, "begin streams with data: null"},
	{"hang-on", func(o *options) any { return &o.hangOn }, "never answer this path"},
	{"fail-on", func(o *options) any { return &o.failOn }, "answer this path with status 500"},
	{"garbage", func(o *options) any { return &o.garbage }, "vllm: answer every request with this once it has slept"},

	// Processes that go wrong.
	{"engine-core", func(o *options) any { return &o.core }, "run as vllm's engine core"},
	{"escape", func(o *options) any { return &o.escape }, "vllm: the engine core leaves session and parent"},
	{"ignore-term", func(o *options) any { return &o.ignoreTerm }, "ignore SIGTERM"},
	{"exit-at-start", func(o *options) any { return &o.exitAtStart }, "exit at once with this status"},
	{"exit-on", func(o *options) any { return &o.exitOn }, "exit when the Nth inference request comes in"},
	{"exit-code", func(o *options) any { return &o.exitCode }, "status of -exit-on; 1 by default"},
	{"crash-on-request-while-asleep", func(o *options) any { return &o.crashAsleep }, "vllm: die as some releases did"},
	{"flood", func(o *options) any { return &o.flood }, "lines of log to write at start"},
	{"chatter", func(o *options) any { return &o.chatter }, "write lines of log without end"},
	{"elsewhere", func(o *options) any { return &o.wrongAddress }, "listen on another port than the one asked for"},
}

// findOption returns the option of that name, as both engines write it: a dash may be an
// underscore.
func findOption(name string) (option, bool) {
	name = strings.ReplaceAll(name, "_", "-")
	i := slices.IndexFunc(optionTable, func(opt option) bool { return slices.Contains(strings.Fields(opt.names), name) })
	if i < 0 {
		return option{}, false
	}
	return optionTable[i], true
}

// parseOptions reads args as the engine's. An option that the table does not have is
// skipped, and so is every word that is none: the real engines have hundreds.
func parseOptions(args []string) (options, error) {
	o := options{
		flavour: "llama", host: "127.0.0.1", port: "0", devMode: os.Getenv("VLLM_SERVER_DEV_MODE") == "1",
		ctxSize: 4096, slots: 4, linger: time.Second, exitAtStart: -1, exitCode: 1, faults: faults{Tokens: 48},
	}
	var words []string
	for i := 0; i < len(args); i++ {
		name, value, inline := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if !strings.HasPrefix(args[i], "-") {
			words = append(words, args[i])
			continue
		}
		opt, ok := findOption(name)
		if !ok {
			continue
		}
		field := opt.field(&o)
		if _, isSwitch := field.(*bool); isSwitch && !inline {
			value = "true"
		} else if !inline {
			if i++; i == len(args) {
				return o, fmt.Errorf("flag %s needs a value", name)
			}
			value = args[i]
		}
		if err := assign(field, value); err != nil {
			return o, fmt.Errorf("flag %s: %w", name, err)
		}
	}
	return o.complete(words)
}

// assign parses value into what field points to.
func assign(field any, value string) (err error) {
	switch p := field.(type) {
	case *string:
		*p = value
	case *int:
		var n int64
		n, err = strconv.ParseInt(value, 0, strconv.IntSize)
		*p = int(n)
	case *bool:
		*p, err = strconv.ParseBool(value)
	case *time.Duration:
		*p, err = time.ParseDuration(value)
	case *milliseconds:
		var d time.Duration
		d, err = time.ParseDuration(value)
		*p = milliseconds(float64(d) / float64(time.Millisecond))
	default:
		panic(fmt.Sprintf("BUG: an option of type %T", field))
	}
	return err
}

// complete returns o with what follows from other options, the environment and the words
// that are no options.
func (o options) complete(words []string) (options, error) {
	if o.flavour != "llama" && o.flavour != "vllm" {
		return o, fmt.Errorf("unknown flavour %q", o.flavour)
	}
	if o.model == "" && len(words) > 1 && words[0] == "serve" {
		o.model = words[1]
	}
	if o.alias != "" {
		o.model = o.alias
	}
	if o.model == "" {
		o.model = "sim"
	}
	if o.key == "" && o.flavour == "vllm" {
		o.key = os.Getenv("VLLM_API_KEY")
	} else if o.key == "" {
		o.key = os.Getenv("LLAMA_API_KEY")
	}
	if o.uds == "" && o.flavour == "llama" && filepath.Ext(o.host) == ".sock" {
		o.uds = o.host
	}
	return o, nil
}

func (o *options) vllm() bool { return o.flavour == "vllm" }
