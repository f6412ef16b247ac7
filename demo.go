package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"spotinference/billing/sim"
	"spotinference/server/engine"
)

const (
	// demoSampleEvery shows a figure within half a minute.
	demoSampleEvery = 5 * time.Second
	demoKey         = "demo-key-0000"
	demoInstance    = 701234
)

// demoProviders names those that the simulator speaks as.
func demoProviders() []string { return sim.Providers() }

// demoHint shows what to type next, to be copied as it stands.
func demoHint(w io.Writer, curl string, o options) {
	key, where := "", ""
	if o.key != "" {
		key = ` -H "Authorization: Bearer $SPOTINFERENCE_API_KEY"`
	}
	if o.ownLedger {
		where = " --ledger " + o.ledger
	}
	fmt.Fprintf(w, `
  %s/v1/chat/completions%s -d '{"messages":[{"role":"user","content":"What does a token cost?"}]}'
  spotinference report cost --demo --window 10m%s

`, curl, key, where)
}

// startDemo starts the simulated provider and points o at it, and at the
// simulated engine. What runs from there on is what always runs. stop ends the
// provider; it is called last.
func startDemo(o *options, log *slog.Logger) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("demo: find our own binary: %w", err)
	}
	o.command = []string{self, "sim-engine", "--flavour", "llama", "--alias", "demo", "--load", "1s", "--delay", "15ms", "--embeddings", "--reranking"}
	o.kind = engine.Llama

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
			log.Error("simulated provider", "err", err)
		}
	}()
	root := strings.TrimSuffix(cloud.URL(), "/v1")
	account := cloud.Account(o.demoProvider, "")
	o.provider, o.billing.URL, o.billing.Instance, o.billing.Getenv = o.demoProvider, account.URL, account.Instance, account.Getenv
	log.Info("demo: simulated engine, simulated provider: no figure is real", "provider", o.billing.URL, "books", root+"/sim/books")
	return func() { cancel(); <-done }, nil
}
