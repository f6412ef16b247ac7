package budget

import (
	"fmt"
	"math"
	"math/bits"
	"time"

	"spotinference/ledger"
)

// Terms are what may be spent.
type Terms struct {
	Limits   []Limit // none: no cap
	Location *time.Location
	// Headroom is by how much to stay below each limit; nil for what can accrue
	// before anybody sees it, see State.Headroom.
	Headroom *ledger.Nanos
	// CloseGrace is how long answers may run on after the gate has closed.
	CloseGrace time.Duration
}

// Window is how far a limit is spent, in the period that runs.
type Window struct {
	Limit
	From, To time.Time
	Gross    ledger.Nanos // the increases of the bill since From: a refund gives nothing back

	// Before is the part of Gross that was billed before this ledger began.
	Before ledger.Nanos
	// CountedSince is when the ledger began, or from when on the provider told, where
	// that is later than From: what was spent earlier in the period is not known. Zero
	// where it is.
	CountedSince time.Time
}

// State is what is known of the spending, as of a sample.
type State struct {
	Sample   time.Time
	Currency string
	// Rate is what the newest sample's lines cost an hour, together; nil where no rate
	// is known. It makes estimates and margins, and never a figure of spend.
	Rate *ledger.Nanos
	// Headroom is the margin in force; nil where it cannot be told, and then nothing
	// is within the limits. By itself it is the highest rate that was sampled today or
	// yesterday, times the time for which spending may go unseen or unstopped: the
	// provider's billing step and lag, the sampler's interval, and the close grace.
	Headroom *ledger.Nanos
	Windows  []Window
}

// Reader is what is read of the ledger. *ledger.Reader has it.
type Reader interface {
	Newest() (ledger.Sample, bool, error)
	Spent(from, to time.Time) (ledger.Spend, error)
	SampleBefore(t time.Time) (time.Time, bool, error)
	SampleAfter(t time.Time) (time.Time, bool, error)
	MaxRate(from, to time.Time) (*ledger.Nanos, error)
}

// Evaluate says how far terms are spent, or false where there is no sample yet.
func Evaluate(r Reader, terms Terms, now time.Time) (State, bool, error) {
	if terms.Location == nil {
		terms.Location = time.UTC
	}
	s, ok, err := r.Newest()
	if err != nil || !ok {
		return State{}, false, err
	}
	c := stateCache{led: r, terms: terms}
	state, err := c.read(s, now)
	return state, err == nil, err
}

// stateCache keeps the State until the next sample, or the next period.
type stateCache struct {
	led    Reader
	terms  Terms
	sample int64
	state  State

	peak peakRate
}

// peakRate is the highest rate of today and yesterday, as far as it was read.
type peakRate struct {
	day     time.Time // the start of that today
	through time.Time
	rate    *ledger.Nanos
}

func (c *stateCache) read(s ledger.Sample, now time.Time) (State, error) {
	fresh := c.sample == s.ID
	for _, w := range c.state.Windows {
		fresh = fresh && !now.Before(w.From) && now.Before(w.To)
	}
	if fresh && c.sample != 0 {
		return c.state, nil
	}
	state := State{Sample: s.At, Currency: s.Currency}
	var err error
	if state.Rate, err = c.led.MaxRate(s.At.Add(-time.Microsecond), s.At); err != nil { // of this one sample
		return State{}, err
	}
	if state.Headroom, err = c.headroom(s, now); err != nil {
		return State{}, err
	}
	for _, l := range c.terms.Limits {
		w := Window{Limit: l}
		w.From, w.To = l.Per.Bounds(now, c.terms.Location)
		if err := w.count(c.led, now); err != nil {
			return State{}, err
		}
		state.Windows = append(state.Windows, w)
	}
	c.state, c.sample = state, s.ID
	return state, nil
}

func (c *stateCache) headroom(s ledger.Sample, now time.Time) (*ledger.Nanos, error) {
	if c.terms.Headroom != nil {
		return c.terms.Headroom, nil
	}
	if today := DayStart(now, c.terms.Location); !today.Equal(c.peak.day) {
		c.peak = peakRate{day: today, through: today.AddDate(0, 0, -1)}
	}
	if s.At.After(c.peak.through) {
		rate, err := c.led.MaxRate(c.peak.through, s.At)
		if err != nil {
			return nil, err
		}
		if c.peak.rate == nil || rate != nil && *rate > *c.peak.rate {
			c.peak.rate = rate
		}
		c.peak.through = s.At
	}
	if c.peak.rate == nil {
		return nil, nil
	}
	margin := accrues(*c.peak.rate, s.Step+s.Lag+s.Every+c.terms.CloseGrace)
	return &margin, nil
}

// accrues is what can come together at a rate per hour in d, rounded up: for margins
// and estimates alone.
func accrues(rate ledger.Nanos, d time.Duration) ledger.Nanos {
	if rate <= 0 || d <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(rate), uint64(d))
	lo, carry := bits.Add64(lo, uint64(time.Hour-1), 0)
	if hi += carry; hi >= uint64(time.Hour) {
		return math.MaxInt64
	}
	n, _ := bits.Div64(hi, lo, uint64(time.Hour))
	return ledger.Nanos(min(n, math.MaxInt64))
}

// Room is what may still be spent in w before the gate closes, less than nothing where
// that is past. State.Headroom must be known.
func (s State) Room(w Window) (ledger.Nanos, error) {
	left, err := w.Amount.Sub(w.Gross)
	if err != nil {
		return 0, err
	}
	return left.Sub(*s.Headroom)
}

// Projected is what the whole of w's period would cost at the sampled rate, false
// where that is not known. It is an estimate.
func (s State) Projected(w Window) (ledger.Nanos, bool) {
	if s.Rate == nil {
		return 0, false
	}
	return accrues(*s.Rate, w.To.Sub(w.From)), true
}

// Reached is when w would be spent at the sampled rate, headroom and all, false where
// that is not known or not before the period's end. It is an estimate.
func (s State) Reached(w Window) (time.Time, bool) {
	if s.Rate == nil || *s.Rate <= 0 || s.Headroom == nil {
		return time.Time{}, false
	}
	room, err := s.Room(w)
	if err != nil {
		return time.Time{}, false
	}
	at := s.Sample
	if room > 0 {
		hi, lo := bits.Mul64(uint64(room), uint64(time.Hour))
		if hi >= uint64(*s.Rate) {
			return time.Time{}, false // in centuries
		}
		wait, _ := bits.Div64(hi, lo, uint64(*s.Rate))
		if wait > uint64(w.To.Sub(at)) {
			return time.Time{}, false
		}
		at = at.Add(time.Duration(wait))
	}
	return at, at.Before(w.To)
}

// count sums up the gross spend since w.From. A sample that was taken out of every sum
// still counts: nobody's word lowers what a budget has counted.
func (w *Window) count(led Reader, now time.Time) error {
	from, ok, err := CountFrom(led, w.From)
	if err != nil || !ok {
		return err // no sample since: nothing is known to be spent
	}
	sp, err := led.Spent(from, now.Add(clockSlack))
	if err != nil {
		return err
	}
	w.Before, w.CountedSince = 0, time.Time{}
	if w.Gross, err = sp.Gross.Add(sp.Voided); err != nil {
		return err
	}
	if b := sp.Before; b != nil {
		w.Before = b.Gross
		if w.Gross, err = w.Gross.Add(b.Gross); err != nil {
			return err
		}
		if b.Since.After(w.From) {
			w.CountedSince = b.Since
		}
	}
	return nil
}

// text says how far w is spent, for logs.
func (s State) text(w Window) string {
	headroom := "an unknown headroom"
	if s.Headroom != nil {
		headroom = "a headroom of " + s.Headroom.String()
	}
	before := ""
	if w.Before != 0 {
		before = fmt.Sprintf(", %s of it before this ledger", w.Before)
	}
	return fmt.Sprintf("%s %s spent this %s of %s less %s%s", w.Gross, s.Currency, w.Per, w.Amount, headroom, before)
}
