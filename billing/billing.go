// Package billing reads the provider's bill, one adapter a file, and samples it
// on the minute.
//
// It knows how each provider's API says what a machine has cost so far, and when
// such an answer may not be believed. It refuses to know what the figures mean:
// it never multiplies a rate by a time, never fills a gap, never carries an old
// figure forward. A sample is complete or it is a failure with a class; what was
// spent between two samples is the ledger's to say, and what follows from it the
// gate's.
//
//	provider, err := billing.New("hyperstack", billing.Options{Getenv: os.Getenv})
//	...
//	sampler, err := billing.NewSampler(billing.SamplerConfig{Provider: provider, Store: led})
//	...
//	g.Go(func() error { return sampler.Run(ctx) })
//
// An adapter reads and nothing else: no call that changes a machine goes through
// this package's client, which may repeat a request.
package billing

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"spotinference/internal/hint"
	"spotinference/ledger"
)

// Provider is one billing API. Its methods are called by one goroutine at a time
// (the Sampler sees to that), so an adapter need not lock.
type Provider interface {
	Name() string

	// MinInterval is the shortest time between two polls that the provider's
	// rate limit and the resolution of its bill leave room for.
	MinInterval() time.Duration

	// Sample reads the complete set of lines that count towards this box as of
	// now, the local wall clock, or fails whole with a *Failure. It returns soon
	// after ctx ends.
	Sample(ctx context.Context, now time.Time) (ledger.Sample, error)
}

// Boundary is a Provider whose bill can be asked for as of a past instant, such
// as the midnight at which a budget's day begins. What is true only of now (the
// status, the rate) is left out of such a sample: it is not known for then.
type Boundary interface {
	SampleAt(ctx context.Context, at, now time.Time) (ledger.Sample, error)
}

// Options is what an adapter is opened with. Each adapter documents which
// environment variables it reads through Getenv.
type Options struct {
	// URL is the base of the API, "" for the provider's own. It must be https,
	// or http on this machine.
	URL string

	// Instance is the provider's id of this box. "" lets the adapter find it by
	// this machine's addresses and name, which must then match exactly one.
	Instance string

	// Command is what "exec" runs to read the bill, as words, with no shell between.
	Command []string

	// Getenv looks up the provider's customary variables, credentials among
	// them. Nil finds nothing.
	Getenv func(string) string

	// History knows where series that began in an earlier run start, and what stood
	// in its samples. Nil knows nothing.
	History History

	// Transport, Addrs and Hostname stand in for the network and the machine in
	// tests. Nil means the real ones.
	Transport http.RoundTripper
	Addrs     func() ([]netip.Addr, error)
	Hostname  func() (string, error)
}

// Env is the value of a variable, "" where it is not set.
func (o Options) Env(name string) string {
	if o.Getenv == nil {
		return ""
	}
	return o.Getenv(name)
}

// adapter is one row of the table of providers: it can be opened, or it is known
// and there is a reason why not.
type adapter struct {
	name string
	env  []string // where its credentials are customarily found, for Detect
	open func(Options) (Provider, error)
	why  string // refusal, where open is nil
}

func adapters() []adapter {
	const (
		unwritten = "its bill can be read, but no adapter for it is written yet"
		rateOnly  = "it publishes a rate and no bill, and a rate times a time is not a bill"
		daily     = "its bill is a day late, which cannot hold a budget by the minute"
		hoursLate = "its bill is hours late, which cannot hold a budget by the minute"
	)
	return []adapter{
		{name: "hyperstack", env: []string{hyperstackKey, hyperstackKeyFile}, open: newHyperstack},

		{name: "vast", env: []string{vastKey, vastKeyFile}, open: newVast},
		{name: "runpod", env: []string{runpodKey, runpodKeyFile}, open: newRunpod},
		{name: "verda", env: []string{verdaID, datacrunchID}, open: newVerda},
		{name: "exec", open: newExec},

		{name: "scaleway", why: unwritten},
		{name: "ovh", why: unwritten},
		{name: "vultr", why: unwritten},
		{name: "tensordock", why: unwritten},
		{name: "shadeform", why: unwritten},

		{name: "lambda", why: rateOnly},
		{name: "nebius", why: rateOnly},
		{name: "digitalocean", why: daily},
		{name: "crusoe", why: daily},
		{name: "aws", why: hoursLate},
		{name: "gcp", why: hoursLate},
		{name: "azure", why: hoursLate},
	}
}

// New opens the adapter called name. It checks what it was given and calls
// nobody; whether the key is good shows at the first sample.
func New(name string, opts Options) (Provider, error) {
	for _, a := range adapters() {
		if a.name != name {
			continue
		}
		if a.open == nil {
			return nil, hint.Errorf(advice(), "billing provider %q: %s", name, a.why)
		}
		return a.open(opts)
	}
	return nil, hint.Errorf(advice(), "billing provider %q: not known", name)
}

func advice() string {
	return "providers: " + strings.Join(Names(), ", ") + `; "none" serves without a bill, and every report says so`
}

// Names lists the providers that New can open.
func Names() []string {
	var names []string
	for _, a := range adapters() {
		if a.open != nil {
			names = append(names, a.name)
		}
	}
	return names
}

// Detect names the one provider whose credentials getenv finds. None, or more
// than one that New can open, is an error: a bill is not guessed.
func Detect(getenv func(string) string) (string, error) {
	var found []string
	for _, a := range adapters() {
		for _, v := range a.env {
			if a.open != nil && getenv(v) != "" {
				found = append(found, a.name)
				break
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", hint.Errorf(advice(), "no key of a provider whose bill can be read is set")
	default:
		return "", hint.Errorf("name one with --provider", "the keys of %s are set", strings.Join(found, " and "))
	}
}
