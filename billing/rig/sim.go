package rig

import (
	"context"
	"net/http"
	"os"
	"testing"

	"spotinference/billing/api"
	"spotinference/billing/sim"
	"spotinference/ledger"
)

// Spent is what the ledger will make of two samples: one subtraction a line.
func Spent(t *testing.T, a, b ledger.Sample) ledger.Nanos {
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

// Opener opens one provider.
type Opener func(api.Options) (api.Provider, error)

// AccountOf is how the provider's adapter finds the machine of a simulated cloud that is
// as it comes.
func AccountOf(provider string) sim.Account {
	cloud, err := sim.New(sim.Config{Key: Key})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return cloud.Account(provider, "https://sim.test")
}

// Over opens the provider's adapter on a cloud that is not there but for its handler.
func Over(t *testing.T, open Opener, provider string, cloud http.Handler, history api.History) api.Provider {
	t.Helper()
	a := AccountOf(provider)
	p, err := open(api.Options{URL: a.URL, Instance: a.Instance, Getenv: a.Getenv, Transport: Direct{cloud}, History: history})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Simulated is a cloud, and the provider's adapter on it.
func Simulated(t *testing.T, open Opener, provider string, cfg sim.Config) (*sim.Sim, api.Provider) {
	t.Helper()
	cfg.Key = Key
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cloud, Over(t, open, provider, cloud.Handler(), nil)
}

// Listening is a cloud on a socket, until the test ends.
func Listening(t *testing.T, cfg sim.Config) *sim.Sim {
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

// MemoryDir is a directory for a ledger, until the test ends: in memory where the system
// has such a place, since these tests commit a sample for each minute of fake time, and
// ask nothing of the disk.
func MemoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "billing-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
