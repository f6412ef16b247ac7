package sim

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
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

	// What llama-server and vLLM must be told to do, and don't otherwise.
	metrics       bool // llama: /metrics
	embeddings    bool // llama: /v1/embeddings
	reranking     bool // llama: /v1/rerank
	promptDetails bool // vllm: cached tokens in usage
	forceUsage    bool // vllm: usage on every chunk of every stream
	sleepMode     bool // vllm: /sleep works
	devMode       bool // vllm: /sleep exists
	ctxSize       int
	slots         int

	load       time.Duration // until ready
	prefill    time.Duration // before the first token
	linger     time.Duration // llama: the period at which it notices that a client left
	gpu        string        // lock file that stands for the GPU's memory
	escape     bool          // vllm: the engine core leaves the session and the parent
	core       bool          // this process is vllm's engine core
	ignoreTerm bool
	exitAt     int // exit with this status at start, if not negative
	exitOn     int // exit when the Nth inference request comes in, if not zero
	exitCode   int // the status of exitOn
	flood      int // lines of log at start
	crashSleep bool
	wake       time.Duration // vllm: how long /wake_up and the reload take
	hangOn     string        // path that is never answered
	failOn     string        // path that is answered with 500
	garbage    string        // vllm: answer to every request once it has slept
	elsewhere  bool          // listens where it was not told to
	chatter    bool          // writes lines of log without end
	readyAt    string        // file that the time at which it got ready is written to, in ns since 1970

	faults faults // what every request suffers
}

// faults are how one answer is made and goes wrong. A request may carry its own as
// the object "sim", which real engines ignore.
type faults struct {
	Tokens     int     `json:"tokens"`      // length of an answer that nothing cuts
	DelayMS    float64 `json:"delay_ms"`    // between tokens
	Cached     int     `json:"cached"`      // prompt tokens found in the cache
	DropAfter  int     `json:"drop_after"`  // tokens before the connection breaks
	ErrorAfter int     `json:"error_after"` // tokens before an error event
	Hang       bool    `json:"hang"`        // never leaves prefill
	Say        string  `json:"say"`         // the first token, instead of what would be
	BigEvent   bool    `json:"big_event"`   // one token is 64 KiB long
	NullEvent  bool    `json:"null_event"`  // a stream begins with "data: null", as newer llama-server does for prompt arrays
}

// parseOptions reads args as the engine's. A flag that it does not know is skipped,
// and so is every word that is no flag: the real engines have hundreds.
func parseOptions(args []string) (options, error) {
	o := options{devMode: os.Getenv("VLLM_SERVER_DEV_MODE") == "1"}
	var delay time.Duration
	fs := flag.NewFlagSet("sim-engine", flag.ContinueOnError)
	fs.StringVar(&o.flavour, "flavour", "llama", "engine to imitate: llama or vllm")
	fs.StringVar(&o.host, "host", "127.0.0.1", "address, or a path that ends in .sock")
	fs.StringVar(&o.port, "port", "0", "port")
	fs.StringVar(&o.uds, "uds", "", "vllm: Unix socket")
	fs.StringVar(&o.key, "api-key", "", "key; LLAMA_API_KEY or VLLM_API_KEY by default")
	fs.StringVar(&o.model, "model", "", "model")
	fs.StringVar(&o.model, "m", "", "model")
	alias := fs.String("alias", "", "name of the model")
	fs.StringVar(alias, "a", "", "name of the model")
	fs.StringVar(alias, "served-model-name", "", "vllm: name of the model")
	fs.BoolVar(&o.metrics, "metrics", false, "llama: serve /metrics")
	fs.BoolVar(&o.embeddings, "embeddings", false, "llama: serve embeddings")
	fs.BoolVar(&o.embeddings, "embedding", false, "llama: serve embeddings")
	fs.BoolVar(&o.reranking, "reranking", false, "llama: serve reranking")
	fs.BoolVar(&o.reranking, "rerank", false, "llama: serve reranking")
	fs.BoolVar(&o.promptDetails, "enable-prompt-tokens-details", false, "vllm: cached tokens in usage")
	fs.BoolVar(&o.forceUsage, "enable-force-include-usage", false, "vllm: usage on every chunk")
	fs.BoolVar(&o.sleepMode, "enable-sleep-mode", false, "vllm: allow sleep")
	fs.IntVar(&o.ctxSize, "ctx-size", 4096, "context, in tokens")
	fs.IntVar(&o.ctxSize, "c", 4096, "context, in tokens")
	fs.IntVar(&o.ctxSize, "max-model-len", 4096, "vllm: context, in tokens")
	fs.IntVar(&o.slots, "parallel", 4, "llama: slots")
	fs.IntVar(&o.slots, "np", 4, "llama: slots")

	fs.DurationVar(&o.load, "load", 0, "time to load the model")
	fs.DurationVar(&o.prefill, "prefill", 0, "time before the first token")
	fs.DurationVar(&delay, "delay", 0, "time between tokens")
	fs.DurationVar(&o.linger, "linger", time.Second, "llama: period of looking for clients that left")
	fs.IntVar(&o.faults.Tokens, "tokens", 48, "length of an answer, in tokens")
	fs.IntVar(&o.faults.Cached, "cached", 0, "cached prompt tokens, at most all but one")
	fs.IntVar(&o.faults.DropAfter, "drop-after", 0, "break the connection after so many tokens")
	fs.IntVar(&o.faults.ErrorAfter, "error-after", 0, "fail after so many tokens")
	fs.BoolVar(&o.faults.Hang, "hang", false, "never answer a request")
	fs.BoolVar(&o.faults.BigEvent, "big-event", false, "make one token 64 KiB long")
	fs.BoolVar(&o.faults.NullEvent, "null-event", false, "begin streams with data: null")
	fs.StringVar(&o.gpu, "gpu", "", "lock file that stands for the GPU's memory")
	fs.BoolVar(&o.escape, "escape", false, "vllm: the engine core leaves session and parent")
	fs.BoolVar(&o.core, "engine-core", false, "run as vllm's engine core")
	fs.BoolVar(&o.ignoreTerm, "ignore-term", false, "ignore SIGTERM")
	fs.IntVar(&o.exitAt, "exit-at-start", -1, "exit at once with this status")
	fs.IntVar(&o.exitOn, "exit-on", 0, "exit when the Nth inference request comes in")
	fs.IntVar(&o.exitCode, "exit-code", 1, "status of -exit-on")
	fs.IntVar(&o.flood, "flood", 0, "lines of log to write at start")
	fs.BoolVar(&o.crashSleep, "crash-on-request-while-asleep", false, "vllm: die as some releases did")

	fs.DurationVar(&o.wake, "wake-time", 0, "vllm: how long /wake_up and reload_weights take, each")
	fs.StringVar(&o.hangOn, "hang-on", "", "never answer this path")
	fs.StringVar(&o.failOn, "fail-on", "", "answer this path with status 500")
	fs.StringVar(&o.garbage, "garbage", "", "vllm: answer every request with this once it has slept")
	fs.BoolVar(&o.elsewhere, "elsewhere", false, "listen on another port than the one asked for")
	fs.BoolVar(&o.chatter, "chatter", false, "write lines of log without end")
	fs.StringVar(&o.readyAt, "ready-at", "", "write the time at which it is ready to this file, in nanoseconds since 1970")

	var words []string
	for i := 0; i < len(args); i++ {
		name, value, inline := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if !strings.HasPrefix(args[i], "-") {
			words = append(words, args[i])
			continue
		}
		f := fs.Lookup(strings.ReplaceAll(name, "_", "-"))
		if f == nil {
			continue
		}
		if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() && !inline {
			value = "true"
		} else if !inline {
			if i++; i == len(args) {
				return o, fmt.Errorf("flag %s needs a value", name)
			}
			value = args[i]
		}
		if err := f.Value.Set(value); err != nil {
			return o, fmt.Errorf("flag %s: %w", name, err)
		}
	}
	if o.flavour != "llama" && o.flavour != "vllm" {
		return o, fmt.Errorf("unknown flavour %q", o.flavour)
	}
	o.faults.DelayMS = float64(delay) / float64(time.Millisecond)
	if o.model == "" && len(words) > 1 && words[0] == "serve" {
		o.model = words[1]
	}
	if *alias != "" {
		o.model = *alias
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
