package e2e_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/control"
	"spotinference/test/harness"
)

// BenchmarkWake measures what of a wake is ours: the whole program with a ledger on
// disk and the simulated engine, from a request's first byte to its answer's last.
//
//	go test -run - -bench Wake -benchtime 50x .
//
// ours-ms is the median of what a request takes that wakes the engine, less the same
// request to an engine that is awake, less the engine's own part: for sleep nothing,
// since the simulated one wakes at once; for stop, the time from its process's start to
// its own word that it is ready. late-ms is how long after that word we knew.
func BenchmarkWake(b *testing.B) {
	for _, method := range []string{"sleep", "stop"} {
		b.Run(method, func(b *testing.B) { benchWake(b, method) })
	}
}

func benchWake(b *testing.B, method string) {
	dir := b.TempDir()
	script, readyAt := filepath.Join(dir, "engine.sh"), filepath.Join(dir, "ready")
	kind := map[string]string{"sleep": "vllm", "stop": "llama"}[method] // llama-server has to be asked again and again
	text := fmt.Sprintf("#!/bin/sh\nexec %s sim-engine \"$@\" -flavour %s -load 100ms -ready-at %s\n", harness.Program(b), kind, readyAt)
	harness.WriteProgram(b, script, text)
	s := harness.Serve(b, []string{"VLLM_SERVER_DEV_MODE=1"}, "--provider", "none", "--engine", kind, "--suspend", method,
		"--", script, "-m", "m", "--enable-sleep-mode").Ready()
	defer s.Stop()
	ask := func() time.Duration {
		began := time.Now()
		if status, _, answer := s.Post("/v1/chat/completions", `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a"}]}`); status != http.StatusOK {
			b.Fatalf("%d %s", status, answer)
		}
		return time.Since(began)
	}
	var awake, whole, ours, late []time.Duration
	for b.Loop() {
		awake = append(awake, ask())
		if err := control.Call(context.Background(), control.Path(s.Ledger), "suspend", nil, nil); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		took := ask()
		whole = append(whole, took)
		engine := time.Duration(0)
		if method == "stop" {
			wake, ready := lastWake(b, s, began)
			spawned := wake.At.Add(time.Duration(ready.Phases["spawn"]))
			said := told(b, readyAt)
			engine = said.Sub(spawned)
			late = append(late, ready.At.Add(-time.Duration(ready.Phases["canary"])).Sub(said))
		}
		ours = append(ours, took-engine)
	}
	typical := milliseconds(awake, 0.5)
	b.ReportMetric(milliseconds(whole, 0.5), "wake-ms")
	b.ReportMetric(milliseconds(ours, 0.5)-typical, "ours-ms")
	b.ReportMetric(milliseconds(ours, 0)-typical, "ours-min-ms")
	if late != nil {
		b.ReportMetric(milliseconds(late, 0.5), "late-ms")
		b.ReportMetric(milliseconds(late, 1), "late-max-ms")
	}
}

// lastWake is the last wake since began: its first event and its last.
func lastWake(b *testing.B, s *harness.Gateway, began time.Time) (wake, ready ledger.EngineChange) {
	b.Helper()
	r, err := ledger.OpenReader(s.Ledger, false)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	changes, err := r.EngineChanges(began, time.Now())
	if err != nil || len(changes) != 2 {
		b.Fatalf("changes %+v, %v, want two", changes, err)
	}
	return changes[0], changes[1]
}

// told is when the engine said that it was ready.
func told(b *testing.B, path string) time.Time {
	b.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	ns, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return time.Unix(0, ns)
}

// milliseconds is a quantile.
func milliseconds(all []time.Duration, q float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	at := int(math.Ceil(q*float64(len(sorted)))) - 1
	return float64(sorted[max(0, at)].Microseconds()) / 1e3
}
