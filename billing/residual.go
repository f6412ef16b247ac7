package billing

import (
	"time"

	"spotinference/ledger"
)

// An account that pays more than the resources which are sampled were billed has
// something else on it that costs money: a public address, a snapshot, a forgotten
// machine. An audit sees that, by subtractions alone.
//
// A balance and a bill do not move at one time: each may be ahead of the other by a
// step and a lag. So what the balance fell by from one look at it to another is held
// against what the bills grew by from so much earlier to so much later. What is still
// missing then is a residual. Nothing is judged across a balance that rose (a top-up,
// a refund), a bill that fell, or a change in what is sampled: the audit begins anew.
// A top-up that hides in a fall makes the account seem to pay less, so that a residual
// may be missed and is never made up.

const (
	// residualFloor is what may be missing all the same: bills are rounded, at Vast.ai
	// to 0.001 each.
	residualFloor = 10_000_000
	// longestSpan bounds the span of an audit, so that rounding does not add up.
	longestSpan = 7 * 24 * time.Hour
	// billNoise is by how much a bill may fall and stand still: the ledger's own bound.
	billNoise = 1_000
)

// audit is the check under way. Its zero value has seen nothing.
type audit struct {
	slack time.Duration
	bills map[[2]string]ledger.Nanos // of the newest sample, by resource and epoch
	grown []growth                   // one a sample, oldest first
	heard look                       // the newest one; zero before the first
	looks []look                     // still to be judged, oldest first

	begun bool
	from  look         // the span's start
	base  ledger.Nanos // what the bills had grown to by slack before it
}

// growth is what the bills had grown by at a sample, since the audit began.
type growth struct {
	at    time.Time
	total ledger.Nanos
}

// look is a reading of the balance.
type look struct {
	at    time.Time
	has   Balances
	anew  bool // not to be compared with the one before
	money string
}

// sample adds the newest sample, in which every line has its bill.
func (a *audit) sample(s ledger.Sample) {
	bills := make(map[[2]string]ledger.Nanos, len(s.Lines))
	for _, l := range s.Lines {
		bills[[2]string{l.Resource, l.Epoch}] = *l.Bill
	}
	total, goesOn := ledger.Nanos(0), len(bills) == len(a.bills) && len(a.grown) > 0
	if goesOn {
		total = a.grown[len(a.grown)-1].total
	}
	for k, bill := range bills {
		was, ok := a.bills[k]
		d, err := bill.Sub(was)
		if err == nil {
			total, err = total.Add(d)
		}
		goesOn = goesOn && ok && err == nil && d >= -billNoise
	}
	if !goesOn {
		*a, total = audit{}, 0
	}
	a.slack, a.bills = s.Step+s.Lag, bills
	a.grown = append(a.grown, growth{s.At, total})
}

// hear adds a reading of the balance, in the currency money.
func (a *audit) hear(at time.Time, has Balances, money string) {
	fell, known := a.heard.has.fall(has)
	k := look{at: at, has: has, money: money, anew: a.heard.at.IsZero() || !known || fell < 0}
	a.heard, a.looks = k, append(a.looks, k)
}

// judge returns the residuals of the looks that the samples have got past.
func (a *audit) judge() (found []ledger.Residual) {
	for len(a.looks) > 0 {
		k := a.looks[0]
		billed, ok := a.grownBy(k.at.Add(a.slack))
		if !ok {
			break
		}
		a.looks = a.looks[1:]
		if r, ok := a.residual(k, billed); ok {
			found = append(found, r)
			k.anew = true
		}
		if !a.begun || k.anew || k.at.Sub(a.from.at) > longestSpan {
			a.begin(k)
		}
	}
	a.forget()
	return found
}

func (a *audit) residual(k look, billed ledger.Nanos) (ledger.Residual, bool) {
	if !a.begun || k.anew {
		return ledger.Residual{}, false
	}
	r := ledger.Residual{From: a.from.at, To: k.at, Currency: k.money}
	paid, known := a.from.has.fall(k.has)
	billed, err := billed.Sub(a.base)
	if !known || err != nil {
		return r, false
	}
	r.Paid, r.Billed = paid, billed
	missing, err := paid.Sub(billed)
	return r, err == nil && missing > residualFloor
}

// begin starts a span at k, where the samples reach far enough back.
func (a *audit) begin(k look) {
	a.begun = false
	for _, g := range a.grown {
		if g.at.After(k.at.Add(-a.slack)) {
			break
		}
		a.begun, a.from, a.base = true, k, g.total
	}
}

// grownBy is what the bills had grown to at the first sample not before at, or false
// where that is still to come.
func (a *audit) grownBy(at time.Time) (ledger.Nanos, bool) {
	for _, g := range a.grown {
		if !g.at.Before(at) {
			return g.total, true
		}
	}
	return 0, false
}

// forget drops the samples that no look needs any more.
func (a *audit) forget() {
	if len(a.grown) == 0 {
		return
	}
	oldest := a.grown[len(a.grown)-1].at
	if len(a.looks) > 0 {
		oldest = a.looks[0].at
	}
	drop := 0
	for drop+1 < len(a.grown) && !a.grown[drop+1].at.After(oldest.Add(-a.slack)) {
		drop++
	}
	a.grown = a.grown[drop:]
}
