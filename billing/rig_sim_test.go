package billing_test

import (
	"context"
	"net/http"
	"testing"

	"spotinference/billing"
	"spotinference/billing/sim"
	"spotinference/ledger"
)

// spent is what the ledger will make of two samples: one subtraction a line.
func spent(t *testing.T, a, b ledger.Sample) ledger.Nanos {
	t.Helper()
	var total ledger.Nanos
	for i, l := range b.Lines {
		if from := a.Lines[i]; from.Resource != l.Resource || from.Epoch != l.Epoch {
			t.Fatalf("%s %s is not the series %s %s", l.Resource, l.Epoch, from.Resource, from.Epoch)
		}
		d, err := l.Bill.Sub(*a.Lines[i].Bill)
		if err != nil {
			t.Fatal(err)
		}
		total += d
	}
	return total
}

// opener opens one provider.
type opener func(billing.Options) (billing.Provider, error)

// accountOf is how the provider's adapter finds the machine of a simulated cloud that is
// as it comes.
func accountOf(provider string) sim.Account {
	cloud, err := sim.New(sim.Config{Key: testKey})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return cloud.Account(provider, "https://sim.test")
}

// over opens the provider's adapter on a cloud that is not there but for its handler.
func over(t *testing.T, open opener, provider string, cloud http.Handler, history billing.History) billing.Provider {
	t.Helper()
	a := accountOf(provider)
	p, err := open(billing.Options{URL: a.URL, Instance: a.Instance, Getenv: a.Getenv, Transport: direct{cloud}, History: history})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// simulated is a cloud, and the provider's adapter on it.
func simulated(t *testing.T, open opener, provider string, cfg sim.Config) (*sim.Sim, billing.Provider) {
	t.Helper()
	cfg.Key = testKey
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cloud, over(t, open, provider, cloud.Handler(), nil)
}

// listening is a cloud on a socket, until the test ends.
func listening(t *testing.T, cfg sim.Config) *sim.Sim {
	t.Helper()
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := cloud.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- cloud.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return cloud
}
