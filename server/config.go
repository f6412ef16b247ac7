package server

import (
	"io"
	"log/slog"
	"slices"
	"time"

	billingapi "spotinference/billing/api"
	"spotinference/budget"
	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/engine"
	"spotinference/server/listener"
)

// NoProvider is the Provider of a gateway that reads no bill.
const NoProvider = "none"

// Config is what a gateway is made of: plain values, from wherever they came. What a
// part checks itself is checked when Run makes it, before anything is started.
type Config struct {
	// Ledger is the path of the ledger that this gateway writes. It is made where there
	// is none.
	Ledger string

	// Demo stands in for the engine and the provider, and makes its ledger afresh.
	// Engine.Command, Engine.Kind and Billing are filled in by it; Provider says which
	// of DemoProviders it simulates.
	Demo bool

	// DemoLoad has the demo send itself a request now and then, so that its first figures
	// are those of a machine that is used.
	DemoLoad bool

	// Listener is where clients connect. Its bound on requests, its clock and its log are
	// filled in by Run.
	Listener listener.Config

	// Key is an API key that may do everything, beside those of the ledger; "": none.
	// Where there is neither, no key is asked for, which only a loopback listener may.
	Key string

	// Origins are the web origins whose pages may use the API; "*" is all.
	Origins []string

	// Engine is the engine to supervise. What follows from the rest is filled in by
	// Run: the log, the GPU's memory, the checkpointer and the hooks.
	Engine engine.Config

	// StallTimeout is how long the engine may make no progress on an answer.
	StallTimeout time.Duration

	// WakeHold is how long a request that does not stream waits for the engine to wake until
	// its client is told to ask again; 0: as long as any request.
	WakeHold time.Duration

	// BodyMemory bounds what all requests' bodies take together, in bytes; 0: a quarter of
	// the memory that there is, 4 GiB at most.
	BodyMemory int64

	// QuotaStatus is the status of what is refused since a budget is spent: 402 or 429.
	QuotaStatus int

	// CompleteResponses adds what the stream of a response lacks with llama-server and
	// OpenAI's clients need.
	CompleteResponses bool

	// Drain is how long running answers may take when Run is to end.
	Drain time.Duration

	// Provider is whose bill is read, or NoProvider; Billing is how it is reached.
	Provider string
	Billing  billingapi.Options

	SampleEvery  time.Duration // how often the bill is read
	MaxSampleAge time.Duration // the oldest bill that counts as seen

	// LowBalance is the account's balance below which to warn; nil: what a day costs at
	// the sampled rates.
	LowBalance *ledger.Nanos

	// Budget is what may be spent.
	Budget budget.Terms

	// OnClose is the command that runs when the gate has closed, nil for none; of the
	// secrets in the environment it sees those that OnCloseEnv names.
	OnClose    []string
	OnCloseEnv []string

	Now    func() time.Time // the wall clock
	Log    *slog.Logger
	Stderr io.Writer // gets the engine's last lines when it ends unexpectedly

	// OnListening is called when clients can come in, before the engine starts. Nil:
	// nothing.
	OnListening func(Address)
}

// Address is where a gateway listens.
type Address struct {
	URL  string
	Curl string // how to ask it from a shell
}

// ConfigError is a Config that cannot be used. Nothing was started.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// CheckOpen refuses what anybody could use without a key. keyed: the ledger has keys.
func (c Config) CheckOpen(keyed bool) error {
	keyed = keyed || c.Key != ""
	if slices.Contains(c.Origins, api.AnyOrigin) && !keyed {
		return &ConfigError{hint.Errorf("make a key with spotinference key create, or set SPOTINFERENCE_API_KEY or --api-key-file, or name the origins",
			"--cors-origin *: any page that is open on this machine could spend your money without a key")}
	}
	if c.Listener.Exposed() && !keyed {
		return &ConfigError{hint.Errorf("make a key with spotinference key create, or set SPOTINFERENCE_API_KEY or --api-key-file, or listen on 127.0.0.1",
			"listen on %q: anybody who reaches it could spend your money without a key", c.Listener.Address)}
	}
	return nil
}
