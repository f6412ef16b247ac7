// Package billing samples the provider's bill on the minute, and measures how it moves.
//
// It has the table of providers, one adapter a folder; each knows how its provider's API
// says what a machine has cost so far, and when such an answer may not be believed
// (package billing/api). It refuses to know what the figures mean: it never multiplies a
// rate by a time, never fills a gap, never carries an old figure forward. A sample is
// complete or it is a failure with a class; what was spent between two samples is the
// ledger's to say, and what follows from it the gate's.
//
//	p, err := billing.New("hyperstack", api.Options{Getenv: os.Getenv})
//	...
//	sampler, err := billing.NewSampler(billing.SamplerConfig{Provider: p, Store: led})
//	...
//	g.Go(func() error { return sampler.Run(ctx) })
package billing

import (
	"slices"
	"strings"

	"spotinference/billing/api"
	"spotinference/billing/command"
	"spotinference/billing/hyperstack"
	"spotinference/billing/runpod"
	"spotinference/billing/vast"
	"spotinference/billing/verda"
	"spotinference/internal/hint"
)

// adapters is the table of providers: a new one is a line here and a folder.
func adapters() []api.Adapter {
	return []api.Adapter{
		hyperstack.Adapter(),
		vast.Adapter(),
		runpod.Adapter(),
		verda.Adapter(),
		command.Adapter(),
	}
}

// refused are providers that are known and have no adapter, and why.
func refused() map[string]string {
	const (
		unwritten = "its bill can be read, but no adapter for it is written yet"
		rateOnly  = "it publishes a rate and no bill, and a rate times a time is not a bill"
		daily     = "its bill is a day late, which cannot hold a budget by the minute"
		hoursLate = "its bill is hours late, which cannot hold a budget by the minute"
	)
	return map[string]string{
		"scaleway":   unwritten,
		"ovh":        unwritten,
		"vultr":      unwritten,
		"tensordock": unwritten,
		"shadeform":  unwritten,

		"lambda":       rateOnly,
		"nebius":       rateOnly,
		"digitalocean": daily,
		"crusoe":       daily,
		"aws":          hoursLate,
		"gcp":          hoursLate,
		"azure":        hoursLate,
	}
}

// New opens the adapter called name. It checks what it was given and calls
// nobody; whether the key is good shows at the first sample.
func New(name string, opts api.Options) (api.Provider, error) {
	for _, a := range adapters() {
		if a.Name == name {
			return a.Open(opts)
		}
	}
	if why := refused()[name]; why != "" {
		return nil, hint.Errorf(advice(), "billing provider %q: %s", name, why)
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
		names = append(names, a.Name)
	}
	return names
}

// Detect names the one provider whose credentials getenv finds. None, or more
// than one that New can open, is an error: a bill is not guessed.
func Detect(getenv func(string) string) (string, error) {
	var found []string
	for _, a := range adapters() {
		if slices.ContainsFunc(a.Env, func(name string) bool { return getenv(name) != "" }) {
			found = append(found, a.Name)
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
