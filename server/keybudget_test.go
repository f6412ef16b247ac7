package server

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/api"
)

// TestKeyBudgets: what the server is told is the day's, follows each sample, and is not
// known where the ledger cannot tell.
func TestKeyBudgets(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 5, 22, 0, 0, 0, time.UTC) // 23:00 there
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(t.TempDir(), "ledger.db"), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	var told api.KeySpend
	b := newKeyBudgets(led, berlin, false, func(s api.KeySpend) { told = s }, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	event := func(d ledger.EventDetail) {
		t.Helper()
		if err := led.AddEvent(now, d); err != nil {
			t.Fatal(err)
		}
	}
	sample := func(bill ledger.Nanos) {
		t.Helper()
		_, err := led.AddSample(context.Background(), ledger.Sample{
			At: now, Provider: "exec", Currency: "USD", Truth: ledger.TruthResource, Every: time.Minute,
			Lines: []ledger.Line{{Resource: "vm", Kind: ledger.Instance, Status: "on", Running: true, Bill: &bill, Epoch: "1"}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	served := func(key string, tokens int64, ago time.Duration) { // since a minute before now
		t.Helper()
		n++
		err := led.AddRequest(ledger.Request{ID: string(rune('a' + n)), Endpoint: "chat", Key: key, Status: ledger.OK, HTTP: 200,
			Started: now.Add(-time.Minute), Finished: now.Add(-ago), Usage: ledger.Usage{CompletionTokens: tokens}})
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(known bool, ann ledger.Nanos) {
		t.Helper()
		b.update()
		if told.Known != known || told.By["key_ann"] != ann || !told.Until.Equal(now.Add(keyBudgetLife)) {
			t.Errorf("told %+v, want known %v, ann %s", told, known, ann)
		}
	}
	want(true, 0) // no sample: nothing was spent, and the gate is closed
	event(ledger.GatewayStarted{})
	event(ledger.EngineChange{From: ledger.Starting, To: ledger.Ready})
	sample(1_000_000_000)
	want(true, 0)
	now = now.Add(time.Minute)
	served("key_ann", 30, 0)
	served("", 10, time.Second)
	want(true, 0) // no sample tells what that cost
	sample(1_400_000_000)
	want(true, 300_000_000)
	now = now.Add(time.Minute)
	sample(1_300_000_000) // a refund gives nothing back
	want(true, 300_000_000)

	midnight := time.Date(2026, 1, 5, 23, 0, 0, 0, time.UTC) // in Berlin
	now = midnight.Add(-time.Minute)
	served("key_ann", 20, 0)
	sample(1_300_000_000)
	now = midnight
	served("key_ann", 1, 0)
	sample(1_500_000_000)
	want(true, 0) // a new day begins at its midnight
	now = now.Add(time.Minute)
	served("key_ann", 1, 0)
	sample(1_600_000_000)
	want(true, 100_000_000)

	now = now.Add(time.Minute)
	event(ledger.EngineChange{From: ledger.Ready, To: "what"})
	now = now.Add(time.Minute)
	served("key_ann", 1, 0)
	sample(1_700_000_000)
	want(false, 0) // what the engine did is not known, and so neither is who owes what

	b = newKeyBudgets(led, berlin, true, func(s api.KeySpend) { told = s }, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	want(false, 0) // without a bill nothing is
}

// TestKeyBudgetsWaitForNobody: the server is told only where a key has a budget.
func TestKeyBudgetsWaitForNobody(t *testing.T) {
	told := make(chan api.KeySpend, 1)
	b := newKeyBudgets(nil, time.UTC, true, func(s api.KeySpend) { told <- s }, time.Now, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	b.Refresh()
	cancel()
	if err := <-done; err != nil || len(told) > 0 {
		t.Errorf("Run = %v, told %d times", err, len(told))
	}
	b.Enable()
	if s := <-told; s.Known {
		t.Errorf("told %+v", s)
	}
}
