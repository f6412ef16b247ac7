package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"spotinference/billing/sim"
	"spotinference/server/queue"
)

const (
	// demoSampleEvery shows a figure within half a minute.
	demoSampleEvery = 5 * time.Second
	demoKey         = "demo-key-0000"
	demoInstance    = 701234
)

// demoAccount is how a provider's adapter finds the simulated machine.
type demoAccount struct {
	url, instance string
	env           map[string]string
}

// demoAccounts are the providers that the simulator speaks as, at root.
func demoAccounts(root string) map[string]demoAccount {
	id := strconv.Itoa(demoInstance)
	return map[string]demoAccount{
		"hyperstack": {root + "/v1", id, map[string]string{"HYPERSTACK_API_KEY": demoKey}},
		"runpod":     {root, "pod" + id, map[string]string{"RUNPOD_API_KEY": demoKey}},
		"vast":       {root, id, map[string]string{"VAST_API_KEY": demoKey}},
		"verda":      {root + "/v1", "", map[string]string{"VERDA_CLIENT_ID": "demo-client-id", "VERDA_CLIENT_SECRET": demoKey}},
	}
}

// demoProviders names them, the first one first.
func demoProviders() []string { return slices.Sorted(maps.Keys(demoAccounts(""))) }

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
	o.kind = queue.Llama

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
	account := demoAccounts(root)[o.demoProvider]
	o.provider, o.billing.URL, o.billing.Instance = o.demoProvider, account.url, account.instance
	o.billing.Getenv = func(name string) string { return account.env[name] }
	log.Info("demo: simulated engine, simulated provider: no figure is real", "provider", o.billing.URL, "books", root+"/sim/books")
	return func() { cancel(); <-done }, nil
}
