package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const clientsAtOnce = 6

// round runs a plan under load, waits until all is well, and checks every promise.
func (r *rig) round(ctx context.Context, p plan) error {
	begun := time.Now()
	loading, rest := context.WithDeadline(ctx, begun.Add(p.For))
	defer rest()
	var mu sync.Mutex
	var all []*attempt // guarded by mu
	var clients sync.WaitGroup
	for i := range clientsAtOnce {
		random := rand.New(rand.NewPCG(r.seed, uint64(p.N)<<8|uint64(128+i)))
		clients.Go(func() {
			for loading.Err() == nil {
				a := r.clients.send(ctx, random)
				mu.Lock()
				all = append(all, a)
				mu.Unlock()
				pause := time.Duration(random.IntN(100)) * time.Millisecond
				if a.Status != 200 {
					pause += 30 * time.Millisecond
				}
				time.Sleep(pause)
			}
		})
	}
	err := r.inject(ctx, p, begun)
	lifted := r.lifted()
	var probes []*attempt
	if err == nil {
		probes, err = r.recover(ctx, lifted)
	}
	clients.Wait()
	all = append(all, probes...)
	if err == nil {
		err = r.quiet(ctx, lifted)
	}
	if err == nil {
		err = r.check(ctx, all)
	}
	if ctx.Err() != nil {
		return nil
	}
	r.tally.round(all)
	if err != nil {
		return r.broken(p, all, err)
	}
	fmt.Printf("round %d: %s: %d requests, well after %s\n", p.N, orNone(p.String()), len(all), r.tally.lastRecovery.Round(time.Millisecond))
	return nil
}

func orNone(text string) string {
	if text == "" {
		return "no fault"
	}
	return text
}

// broken writes down what was seen of the round in which a promise was broken.
func (r *rig) broken(p plan, all []*attempt, cause error) error {
	text, err := json.MarshalIndent(map[string]any{"seed": r.seed, "plan": p, "broken": cause.Error(), "attempts": all,
		"dark": r.dark, "frozen": r.frozen, "full": r.full, "refunds": r.refunds, "deaths": r.gateway.deaths, "leaps": r.world.String()}, "", " ")
	if err == nil {
		err = os.WriteFile(filepath.Join(r.dir, "evidence.json"), append(text, '\n'), 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture: evidence:", err)
	}
	return fmt.Errorf("seed %d, round %d (%s): %w", r.seed, p.N, p, cause)
}
