package billing

import (
	"context"
	"slices"
	"time"

	"spotinference/billing/api"
	"spotinference/ledger"
)

// Agreement is what came of reading one bill in two ways.
type Agreement string

const (
	Agrees   Agreement = "same"
	Differs  Agreement = "differs"
	NotAsked Agreement = "none" // the provider cannot be asked so, or did not answer
)

// Windows is what a probe found of a provider's windows.
type Windows struct {
	EndOmitted Agreement // without an end, and to now
	EndFuture  Agreement // to tomorrow, and to now
	EarlyStart Agreement // from a day before the machine's creation, and from that

	// Account is the account's total against the sum of what is sampled, since the
	// last midnight in UTC. Where they differ both are known, and the rest is of
	// what is not sampled.
	Account    Agreement
	Sum, Total *ledger.Nanos
}

// windows asks for the bill over windows that should not matter. That a provider
// cannot be asked so, or does not answer, is no failure of the probe.
func (p *probe) windows(ctx context.Context) Windows {
	none := Windows{EndOmitted: NotAsked, EndFuture: NotAsked, EarlyStart: NotAsked, Account: NotAsked}
	w, ok := p.cfg.Provider.(api.Windowed)
	if !ok || p.first.Truth != ledger.TruthResource {
		return none
	}
	at := slices.IndexFunc(p.first.Lines, func(l ledger.Line) bool { return l.Resource == p.watched[0] })
	box := p.first.Lines[at]
	over := func(resource string, start, end time.Time) readBill {
		return func(ctx context.Context) (ledger.Nanos, error) {
			return w.BillOver(ctx, resource, start, end, p.cfg.Now())
		}
	}
	toNow := func(resource string, start time.Time) readBill {
		return func(ctx context.Context) (ledger.Nanos, error) {
			now := p.cfg.Now()
			return w.BillOver(ctx, resource, start, now, now)
		}
	}
	day := 24 * time.Hour
	found := none
	if begun, err := api.ParseEpoch(box.Epoch); err == nil {
		found.EndOmitted, _, _ = p.compare(ctx, toNow(box.Resource, begun), over(box.Resource, begun, time.Time{}))
		found.EndFuture, _, _ = p.compare(ctx, toNow(box.Resource, begun), over(box.Resource, begun, p.cfg.Now().Add(day)))
	}
	if !box.Created.IsZero() {
		found.EarlyStart, _, _ = p.compare(ctx, toNow(box.Resource, box.Created), toNow(box.Resource, box.Created.Add(-day)))
	}
	today := api.Midnight(p.from)
	sum := func(ctx context.Context) (total ledger.Nanos, err error) {
		for _, l := range p.first.Lines {
			bill, err := toNow(l.Resource, today)(ctx)
			if err == nil {
				total, err = total.Add(bill)
			}
			if err != nil {
				return 0, err
			}
		}
		return total, nil
	}
	found.Account, found.Sum, found.Total = p.compare(ctx, sum, func(ctx context.Context) (ledger.Nanos, error) {
		now := p.cfg.Now()
		return w.AccountOver(ctx, today, now, now)
	})
	return found
}

// readBill is one way to read a bill.
type readBill func(context.Context) (ledger.Nanos, error)

// compare reads in one way, in another, and in the one again. A bill that grows lies
// between its own two readings, and so must the other.
func (p *probe) compare(ctx context.Context, one, other readBill) (Agreement, *ledger.Nanos, *ledger.Nanos) {
	var got [3]ledger.Nanos
	for i, read := range []readBill{one, other, one} {
		timed, cancel := context.WithTimeout(ctx, api.SampleTimeout)
		n, err := read(timed)
		cancel()
		if err != nil || i < 2 && !p.rest(ctx, p.cfg.Provider.MinInterval()/callsOfSample) {
			return NotAsked, nil, nil
		}
		got[i] = n
	}
	agreement := Agrees
	if got[1] < got[0] || got[1] > got[2] {
		agreement = Differs
	}
	return agreement, &got[0], &got[1]
}

// callsOfSample is how many calls MinInterval leaves room for: what a sample takes.
const callsOfSample = 5

// rest waits, and reports whether ctx let it.
func (p *probe) rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
