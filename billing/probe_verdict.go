package billing

import (
	"context"
	"math/big"
	"slices"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/command"
	"spotinference/internal/hint"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

// verdict makes figures of the polls.
func (p *probe) verdict() (Measured, error) {
	m := Measured{
		Provider: p.first.Provider, Account: p.first.Account, Currency: p.first.Currency, Truth: p.first.Truth,
		Watched: p.watched, From: p.from, To: p.to, Polls: p.polls, Failed: p.failed, Unit: UnitUnknown, Reread: RereadNone,
		Skew: skewLimit(p.cfg.Provider),
	}
	if p.failed*4 > p.polls {
		return m, hint.Errorf("spotinference billing check says why", "%d of %d polls failed: too many to measure anything", p.failed, p.polls)
	}
	var changes []int // indexes into observed
	for i := 1; i < len(p.observed); i++ {
		if p.observed[i].bill != p.observed[i-1].bill {
			changes = append(changes, i)
		}
	}
	m.Changes = len(changes)
	if m.Changes < leastChanges {
		return m, hint.Errorf("give it more time with --for: several times what one step of the bill takes",
			"the bill moved %d times in %s: too few to measure a step", m.Changes, p.to.Sub(p.from).Round(time.Second))
	}
	m.Step, m.Worst = p.gaps(changes)
	m.Lag = lagFactor * m.Worst
	first, last := changes[0], changes[m.Changes-1]
	var err error
	if m.Billed, err = p.observed[last].bill.Sub(p.observed[first].bill); err != nil {
		return m, err
	}
	ratio := p.ratio(first, last, m.Billed)
	if ratio == nil {
		return m, nil
	}
	m.Ratio = ratio.FloatString(4)
	off := new(big.Rat).Sub(ratio, big.NewRat(1, 1))
	if off.Abs(off).Cmp(big.NewRat(unitSlack, 100)) > 0 {
		m.Unit = UnitContradicted
		return m, hint.Errorf("near 100 or 0.01 the one is in cents; near 3600 or 0.0003 the one is per second; near 1 the rate that is shown is not the price that is billed",
			"the bill grew by %s times what the rate promises, not by 1 ± %d%%: bill and rate are not in one unit", m.Ratio, unitSlack)
	}
	m.Unit = UnitConfirmed
	return m, nil
}

// gaps are the median and the longest time for which the bill stood still. How
// long it did so before its first change and after its last one is known from
// below only: no median of that, but it may well be the worst.
func (p *probe) gaps(changes []int) (step, worst time.Duration) {
	at := func(i int) time.Time { return p.observed[i].at }
	var between []time.Duration
	for i := 1; i < len(changes); i++ {
		between = append(between, at(changes[i]).Sub(at(changes[i-1])))
	}
	slices.Sort(between)
	step = between[len(between)/2]
	worst = max(between[len(between)-1],
		at(changes[0]).Sub(at(0)),
		at(len(p.observed)-1).Sub(at(changes[len(changes)-1])))
	return step, worst
}

// ratio is what was billed over what the rate promises, nil where that is not
// known or nothing. A rate meets a time here to check the unit, and the result is
// a ratio. It never becomes an amount.
//
// It spans from one change to another, so that no part of a step is counted.
func (p *probe) ratio(first, last int, billed ledger.Nanos) *big.Rat {
	promised := new(big.Int) // nano-units × nanoseconds / hours
	for i := first + 1; i <= last; i++ {
		rate := p.observed[i].rate
		if rate == nil {
			return nil
		}
		took := p.observed[i].at.Sub(p.observed[i-1].at)
		promised.Add(promised, new(big.Int).Mul(big.NewInt(int64(*rate)), big.NewInt(int64(took))))
	}
	if promised.Sign() <= 0 {
		return nil
	}
	got := new(big.Int).Mul(big.NewInt(int64(billed)), big.NewInt(int64(time.Hour)))
	return new(big.Rat).SetFrac(got, promised)
}

// skewLimit is how far off the Date header of a reply may be. The adapters that
// read an API refuse a reply that is further off; a command gives none.
func skewLimit(p api.Provider) *time.Duration {
	if p.Name() == command.Name {
		return nil
	}
	d := provider.MaxSkew
	return &d
}

// reread asks twice for the bill of an instant that is past by more than the lag.
// That a provider cannot tell is no failure of the probe.
func (p *probe) reread(ctx context.Context, lag time.Duration) Reread {
	b, ok := p.cfg.Provider.(api.Boundary)
	if !ok {
		return RereadNone
	}
	var was map[string]ledger.Nanos
	for try := range 2 {
		if try > 0 { // as far apart as two polls, for the provider's sake too
			t := time.NewTimer(p.cfg.Every)
			select {
			case <-ctx.Done():
				t.Stop()
				return RereadNone
			case <-t.C:
			}
		}
		now := p.cfg.Now()
		timed, cancel := context.WithTimeout(ctx, api.SampleTimeout)
		s, err := b.SampleAt(timed, p.to.Add(-lag).Truncate(time.Hour), now)
		cancel()
		if err != nil {
			return RereadNone
		}
		bills := make(map[string]ledger.Nanos)
		for _, l := range s.Lines {
			if l.Bill != nil {
				bills[l.Resource+" "+l.Epoch] = *l.Bill
			}
		}
		if try > 0 && !sameBills(was, bills) {
			return RereadRestated
		}
		was = bills
	}
	return RereadSame
}

func sameBills(a, b map[string]ledger.Nanos) bool {
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return len(a) == len(b) && len(a) > 0
}
