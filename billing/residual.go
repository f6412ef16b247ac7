package billing

import (
	"time"

	"spotinference/billing/api"
	"spotinference/ledger"
)

// An account that pays more than the resources which are sampled were billed has
// something else on it that costs money: a public address, a snapshot, a forgotten
// machine. An audit sees that, by subtractions alone.
//
// A balance and a bill do not move at one time: each may be ahead of the other by a
// step and a lag. So what the balance fell by from one reading to another is compared
// with what the bills grew by from so much earlier to so much later. What is still
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
	slack   time.Duration
	bills   map[[2]string]ledger.Nanos // of the newest sample, by resource and epoch
	growth  []growth                   // one a sample, oldest first
	newest  reading                    // of the balance; zero before the first
	pending []reading                  // still to be judged, oldest first

	begun bool
	from  reading      // the span's start
	base  ledger.Nanos // what the bills had grown to by slack before it
}

// growth is what the bills had grown by at a sample, since the audit began.
type growth struct {
	at    time.Time
	total ledger.Nanos
}

// reading is one reading of the balance.
type reading struct {
	at       time.Time
	balances api.Balances
	restart  bool // not to be compared with the one before
	currency string
}

// addSample adds the newest sample, in which every line has its bill.
func (a *audit) addSample(s ledger.Sample) {
	bills := make(map[[2]string]ledger.Nanos, len(s.Lines))
	for _, l := range s.Lines {
		bills[[2]string{l.Resource, l.Epoch}] = *l.Bill
	}
	total, goesOn := ledger.Nanos(0), len(bills) == len(a.bills) && len(a.growth) > 0
	if goesOn {
		total = a.growth[len(a.growth)-1].total
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
	a.growth = append(a.growth, growth{s.At, total})
}

// addBalances adds a reading of the balance.
func (a *audit) addBalances(at time.Time, b api.Balances, currency string) {
	fell, known := a.newest.balances.FellTo(b)
	r := reading{at: at, balances: b, currency: currency, restart: a.newest.at.IsZero() || !known || fell < 0}
	a.newest, a.pending = r, append(a.pending, r)
}

// residuals judges the readings that the samples have got past.
func (a *audit) residuals() (found []ledger.Residual) {
	for len(a.pending) > 0 {
		r := a.pending[0]
		billed, ok := a.grownBy(r.at.Add(a.slack))
		if !ok {
			break
		}
		a.pending = a.pending[1:]
		if residual, ok := a.residual(r, billed); ok {
			found = append(found, residual)
			r.restart = true
		}
		if !a.begun || r.restart || r.at.Sub(a.from.at) > longestSpan {
			a.startSpan(r)
		}
	}
	a.forget()
	return found
}

func (a *audit) residual(to reading, billed ledger.Nanos) (ledger.Residual, bool) {
	if !a.begun || to.restart {
		return ledger.Residual{}, false
	}
	r := ledger.Residual{From: a.from.at, To: to.at, Currency: to.currency}
	paid, known := a.from.balances.FellTo(to.balances)
	billed, err := billed.Sub(a.base)
	if !known || err != nil {
		return r, false
	}
	r.Paid, r.Billed = paid, billed
	missing, err := paid.Sub(billed)
	return r, err == nil && missing > residualFloor
}

// startSpan starts a span at r, where the samples reach far enough back.
func (a *audit) startSpan(r reading) {
	a.begun = false
	for _, g := range a.growth {
		if g.at.After(r.at.Add(-a.slack)) {
			break
		}
		a.begun, a.from, a.base = true, r, g.total
	}
}

// grownBy is what the bills had grown to at the first sample not before at. It is not ok
// where that is still to come.
func (a *audit) grownBy(at time.Time) (total ledger.Nanos, ok bool) {
	for _, g := range a.growth {
		if !g.at.Before(at) {
			return g.total, true
		}
	}
	return 0, false
}

// forget drops the samples that no reading needs any more.
func (a *audit) forget() {
	if len(a.growth) == 0 {
		return
	}
	oldest := a.growth[len(a.growth)-1].at
	if len(a.pending) > 0 {
		oldest = a.pending[0].at
	}
	drop := 0
	for drop+1 < len(a.growth) && !a.growth[drop+1].at.After(oldest.Add(-a.slack)) {
		drop++
	}
	a.growth = a.growth[drop:]
}
