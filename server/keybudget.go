package server

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server/api"
)

const (
	// keyBudgetTick is how often the server is told again what the keys have used, and
	// keyBudgetLife how long it believes that: a teller that died closes all budgets.
	keyBudgetTick = 5 * time.Second
	keyBudgetLife = 3 * keyBudgetTick
)

// keyBudgets tells the server what each key has used of the day's bill: the figures of
// report cost --by key from the day's start to the newest sample. The bill moves with
// the samples only, so that is when they are computed.
type keyBudgets struct {
	led      *ledger.Ledger
	location *time.Location
	blind    bool // no bill is followed: nothing is known of what a key has used
	publish  func(api.KeySpend)
	log      *slog.Logger
	now      func() time.Time
	refresh  chan struct{}

	enabled atomic.Bool // some key has a budget

	mu        sync.Mutex // guards what follows: one evaluation at a time
	published api.KeySpend
	sample    int64     // that published is from
	day       time.Time // and its day
	failed    string    // what was logged last
}

func newKeyBudgets(led *ledger.Ledger, location *time.Location, blind bool, publish func(api.KeySpend), now func() time.Time, log *slog.Logger) *keyBudgets {
	return &keyBudgets{led: led, location: location, blind: blind, publish: publish, log: log, now: now, refresh: make(chan struct{}, 1)}
}

// Enable has the figures computed from now on, and now: a key with a budget is about to
// be let in.
func (b *keyBudgets) Enable() {
	b.enabled.Store(true)
	b.update()
}

// Refresh asks Run to publish soon: a sample was stored.
func (b *keyBudgets) Refresh() {
	select {
	case b.refresh <- struct{}{}:
	default: // it is asked to already
	}
}

// Run tells the server until ctx ends.
func (b *keyBudgets) Run(ctx context.Context) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-b.refresh:
		}
		if b.enabled.Load() {
			b.update()
		}
		now := b.now()
		t.Reset(min(keyBudgetTick, max(time.Millisecond, budget.NextDay(now, b.location).Sub(now)))) // a new day is told of at once
	}
}

func (b *keyBudgets) update() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	spent, err := b.evaluate(now)
	failed := ""
	if err != nil {
		failed = err.Error()
	}
	if failed != b.failed && failed != "" {
		b.log.Error("what the API keys have used is not known: none with a budget is served", "err", err)
	}
	b.failed = failed
	spent.Until = now.Add(keyBudgetLife)
	b.published = spent
	b.publish(spent)
}

func (b *keyBudgets) evaluate(now time.Time) (api.KeySpend, error) {
	if b.blind {
		return api.KeySpend{}, nil
	}
	newest, ok, err := b.led.Newest()
	if err != nil {
		return api.KeySpend{}, err
	}
	if !ok {
		return api.KeySpend{Known: true}, nil // nothing was spent yet; the gate is closed until the first sample
	}
	day := budget.DayStart(now, b.location)
	if b.published.Known && b.sample == newest.ID && b.day.Equal(day) {
		return b.published, nil
	}
	from, ok, err := budget.CountFrom(b.led, day)
	if err != nil {
		return api.KeySpend{}, err
	}
	spent := api.KeySpend{Known: true}
	if ok {
		if spent.By, err = b.led.KeySpend(ledger.Window{From: from, To: now}); err != nil {
			return api.KeySpend{}, err
		}
	}
	b.sample, b.day = newest.ID, day
	return spent, nil
}
