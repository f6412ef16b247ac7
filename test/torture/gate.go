package main

import (
	"fmt"
	"time"

	"spotinference/ledger"
)

const (
	// closedWithin is the promise: one sample interval and --max-sample-age.
	closedWithin = sampleEvery + maxSampleAge
	// grace is for a machine that is busy with six clients and a flood.
	grace = 500 * time.Millisecond
)

// gate checks that nobody was served while the gate should have been closed.
func (r *rig) gate(led *ledger.Reader, all []*attempt) error {
	for _, a := range all {
		if !a.served() {
			continue
		}
		for _, s := range r.dark {
			if within(s, closedWithin, a) {
				return fmt.Errorf("served though the provider was dark since %s: %s", s.From, a)
			}
		}
		for _, s := range r.frozen {
			// While a clock is set back no sample is taken, and the bill is seen to stand
			// still from the next one on: the gate was closed meanwhile.
			if r.world.steady(s.From, a.First) && within(s, billLag+closedWithin, a) {
				return fmt.Errorf("served though the bill stood still since %s: %s", s.From, a)
			}
		}
		if err := r.budget(led, a); err != nil {
			return err
		}
	}
	return nil
}

// within reports whether a was sent and served in s, later than after from its start.
func within(s span, after time.Duration, a *attempt) bool {
	return a.Sent.After(s.From.Add(after+grace)) && (s.To.IsZero() || a.First.Before(s.To))
}

// budget checks that a was served before the day's budget, less its headroom, was spent
// for that long, and before all of it was spent, by the provider's books.
func (r *rig) budget(led *ledger.Reader, a *attempt) error {
	late := a.Sent.Add(-closedWithin - grace)
	if !r.world.steady(late, a.First) {
		return nil // the clocks moved: what day it was is a matter of opinion
	}
	from, ok, err := dayFrom(led, r.world.at(a.Sent))
	if err != nil || !ok {
		return err
	}
	// The bill is known until then; while it stands still, until that began. A refund
	// hides what the bill grew by in the sample that shows it, so the books are read
	// just before each, too.
	spent := func(until time.Time) int64 {
		for _, s := range r.frozen {
			if s.touches(until, until) {
				until = s.From
			}
		}
		return r.cloud.Books(from, r.world.at(until)).Nanos
	}
	most := spent(late)
	for _, at := range r.refunds {
		if at.Before(late) && r.world.at(at).After(from) {
			most = max(most, spent(at.Add(-closedWithin)))
		}
	}
	if most >= budgetPerDay-headroom {
		return fmt.Errorf("served though the day's budget was spent: %s of %s less %s, %s before: %s",
			ledger.Nanos(most), ledger.Nanos(budgetPerDay), ledger.Nanos(headroom), closedWithin, a)
	}
	if now := spent(a.Sent); now > budgetPerDay {
		return fmt.Errorf("served at a bill of %s: %s", ledger.Nanos(now), a)
	}
	r.tally.admitted(r.world.at(a.Sent), from, r.cloud.Books)
	return nil
}
