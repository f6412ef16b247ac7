package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
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

	// DemoLoadEvery is how often the demo sends itself a request.
	DemoLoadEvery = 5 * time.Second
	demoInstance  = 701234
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

// demoRequest asks for four answers at once: the simulated engine makes 48 tokens of each.
const demoRequest = `{"model":"demo","messages":[{"role":"user","content":"What does a token cost?"}],"n":4}`

// loadDemo sends a request of its own every DemoLoadEvery until ctx ends, as any client
// would. hard cuts one that runs.
func (g *gateway) loadDemo(ctx, hard context.Context) error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // it is ourselves
	defer transport.CloseIdleConnections()
	wait := time.NewTimer(0)
	defer wait.Stop()
	for served := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-wait.C:
		}
		begun := time.Now()
		status, err := g.sendDemo(hard, transport)
		switch {
		case status == http.StatusOK:
			served = true
		case status == http.StatusUnauthorized:
			g.cfg.Log.Info("demo: its own requests have no API key, and are not sent any more")
			return nil
		case err != nil:
			g.cfg.Log.Debug("demo: a request of its own failed", "err", err)
		}
		every := DemoLoadEvery
		if !served {
			every = time.Second // the gate is not open yet, or the engine starts
		}
		wait.Reset(max(0, every-time.Since(begun)))
	}
}

// sendDemo sends one request and reads its answer.
func (g *gateway) sendDemo(ctx context.Context, transport http.RoundTripper) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.listener.URL()+"/v1/chat/completions", strings.NewReader(demoRequest))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	if g.cfg.Key != "" {
		req.Header.Set("Authorization", "Bearer "+g.cfg.Key)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
