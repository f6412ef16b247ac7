package server

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"spotinference/billing/sim"
	"spotinference/server/queue"
)

const (
	// DemoSampleEvery shows a figure within half a minute.
	DemoSampleEvery = 5 * time.Second
	demoKey         = "demo-key-0000"
	demoInstance    = 701234
)

// DemoProviders are the providers that the demo can simulate.
func DemoProviders() []string { return sim.Providers() }

// StartDemo starts the simulated provider that c.Provider names and points c at it, and
// at the simulated engine. What runs from there on is what always runs. stop ends the
// provider; it is called last.
func StartDemo(c *Config) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("demo: find our own binary: %w", err)
	}
	c.Engine.Command = []string{self, "sim-engine", "--flavour", "llama", "--alias", "demo", "--load", "1s", "--delay", "15ms", "--embeddings", "--reranking"}
	c.Engine.Kind = queue.Llama

	cloud, err := sim.New(sim.Config{Key: demoKey, VM: sim.VM{ID: demoInstance}})
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	if err := cloud.Listen("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := cloud.Run(ctx); err != nil {
			c.Log.Error("simulated provider", "err", err)
		}
	}()
	root := strings.TrimSuffix(cloud.URL(), "/v1")
	account := cloud.Account(c.Provider, "")
	c.Billing.URL, c.Billing.Instance, c.Billing.Getenv = account.URL, account.Instance, account.Getenv
	c.Log.Info("demo: simulated engine, simulated provider: no figure is real", "provider", account.URL, "books", root+"/sim/books")
	return func() { cancel(); <-done }, nil
}
