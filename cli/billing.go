package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"spotinference/billing"
	billingapi "spotinference/billing/api"
	"spotinference/server"
)

// providerOptions are the flags that say whose bill it is.
type providerOptions struct {
	provider, providerURL, billingCommand, instance, demoProvider string
}

func (o *providerOptions) addFlags(f flags) {
	f.text(&o.provider, "provider", "", "whose bill to read: "+strings.Join(billing.Names(), ", ")+"; none serves without a bill. Found from the environment where that is unambiguous")
	f.text(&o.providerURL, "provider-url", "", "base of the provider's API, https or on loopback: a proxy, a simulator")
	f.text(&o.billingCommand, "billing-command", "", "with --provider exec: the command that prints the bill, as billing check --schema says; its words, no shell is asked. It has two thirds of --sample-every, 45s at most")
	f.text(&o.instance, "instance", "", "the provider's id of this box; found by address or name where that is unambiguous")
	f.text(&o.demoProvider, "demo-provider", "hyperstack", "whose API the demo's provider speaks: "+strings.Join(server.DemoProviders(), ", "))
}

// billing is how the provider is reached.
func (o providerOptions) billing() (b billingapi.Options, err error) {
	b = billingapi.Options{URL: o.providerURL, Instance: o.instance, Getenv: os.Getenv}
	if o.billingCommand != "" {
		if b.Command, err = billing.SplitCommand("billing command", o.billingCommand); err != nil {
			return b, usageError{err}
		}
	}
	return b, nil
}

// open opens the provider that the flags name or, under --demo, a simulated one. stop
// ends that; it is called last.
func (o providerOptions) open(g *global, what string, history billingapi.History) (p billingapi.Provider, stop func(), err error) {
	c := server.Config{Provider: o.provider, Log: slog.New(slog.DiscardHandler)}
	if c.Billing, err = o.billing(); err != nil {
		return nil, nil, err
	}
	stop = func() {}
	switch {
	case g.demo && o.provider != "":
		return nil, nil, usagef("leave out --provider, or leave out --demo", "%s: the demo brings its own provider", what)
	case g.demo:
		c.Provider = o.demoProvider
		if stop, err = server.StartDemo(&c); err != nil {
			return nil, nil, err
		}
	case o.provider == server.NoProvider:
		return nil, nil, usagef("name the provider whose bill to read", "%s: --provider none has no bill", what)
	case o.provider == "":
		if c.Provider, err = billing.Detect(os.Getenv); err != nil {
			return nil, nil, usagef("", "%s: no --provider, and %w", what, err)
		}
	}
	c.Billing.History, c.Billing.Stderr = history, g.stderr
	if p, err = billing.New(c.Provider, c.Billing); err != nil {
		stop()
		return nil, nil, usagef("", "%s: %w", what, err)
	}
	return p, stop, nil
}

// noSample is a poll's failure with what it was called and its class.
func noSample(what string, err error) error {
	f := new(billingapi.Failure)
	if !errors.As(err, &f) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: no sample: %s: %w", what, f.Class, f)
}

// warnOfDisk says where serve's ledger would be lost with the machine. A demo's is made
// afresh anyway.
func (g *global) warnOfDisk() error {
	path, err := g.ledgerPath()
	if err != nil || g.demo {
		return err
	}
	if why, help := (billing.Disks{Getenv: os.Getenv}).Dying(path); why != "" {
		fmt.Fprintf(g.stderr, "spotinference: warning: the ledger %s may be lost with the machine: %s\n", path, why)
		fmt.Fprintf(g.stderr, "spotinference: hint: %s\n", help)
	}
	return nil
}
