package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Flags that a Spend, or a report made from it, may carry. Each says why the
// figure needs a second look; none of them changes it.
const (
	FlagStartsLate   = "starts_late"   // the window begins before the first sample
	FlagFirstSeen    = "first_seen"    // a resource's bill before its first sight is not in the figure
	FlagGone         = "gone"          // a resource left the bill without its final figure; counted up to its last sight
	FlagUnseen       = "unseen"        // a resource was missing from the bill at the start, or all through, and is back: its growth meanwhile counts where it came back
	FlagEpochChanged = "epoch_changed" // a bill began anew, and did not just move; counted up to the old one's last sight
	FlagAdjusted     = "adjusted"      // a bill fell: a refund, a credit or a restatement
	FlagUnknownBill  = "unknown_bill"  // a line came without its bill
	FlagAccountTruth = "account_truth" // the bill is the whole account's
	FlagUncalibrated = "uncalibrated"  // nobody has measured this account's step and lag
	FlagGaps         = "gaps"          // samples are missing inside the window: the sum is known, its shape is not
)

// ErrNoSamples is returned by Spent where the window holds no bill at all.
var ErrNoSamples = errors.New("no billing sample")

// Window is a span of time: after From, up to and including To.
type Window struct{ From, To time.Time }

// WindowsBetween are the windows from each edge to the next.
func WindowsBetween(edges []time.Time) (windows []Window) {
	for i := range len(edges) - 1 {
		windows = append(windows, Window{From: edges[i], To: edges[i+1]})
	}
	return windows
}

// Count is how many spans of a length fill w, one that is begun included.
func (w Window) Count(length time.Duration) int64 {
	return int64((w.To.Sub(w.From) + length - 1) / length)
}

const day = 24 * time.Hour

// lengths are those into which a window is cut where nobody names one.
var lengths = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, day, 7 * day, 28 * day, 364 * day}

// Fitting is the first usual length from least on of which no more than most fill w.
func (w Window) Fitting(least time.Duration, most int64) time.Duration {
	for _, length := range lengths {
		if length >= least && w.Count(length) <= most {
			return length
		}
	}
	return lengths[len(lengths)-1]
}

// CutAtSamples cuts w, which begins and ends with a sample, at whole multiples of a
// length, in UTC, each cut moved to the last sample at or before it. Those that meet
// there are one.
func (r *Reader) CutAtSamples(w Window, length time.Duration) ([]time.Time, error) {
	cuts := []time.Time{w.From}
	for t := w.From.Truncate(length).Add(length); t.Before(w.To); t = t.Add(length) {
		cuts = append(cuts, t)
	}
	at, err := r.SamplesBefore(append(cuts, w.To))
	return slices.CompactFunc(at, time.Time.Equal), err
}

// SampleRef names a sample.
type SampleRef struct {
	ID int64
	At time.Time
}

// Spend is the difference between two samples of the bill.
type Spend struct {
	From, To  SampleRef // the samples that were subtracted: the snapped window
	Count     int       // samples from From to To, both included
	Currency  string
	Provider  string
	Net       Nanos           // what the invoice will say
	Gross     Nanos           // the sum of the increases: a refund does not lower it
	Voided    Nanos           // what samples that are void would add to Gross: a budget counts it, and no other figure
	Gaps      []Window        // spans between neighbouring samples in which one is missing
	Resources []ResourceSpend // by resource and epoch, in order
	Every     time.Duration   // the newest sample's interval
	Flags     []string        // sorted, each once

	// Before is what was billed before this ledger. It is in no other field. It is nil
	// where the window does not hold the ledger's first own sample, or begins with it.
	Before *BeforeSpend
}

// BeforeSpend is what was billed from a window's start to the ledger's first own sample,
// as far as the provider tells: it was asked for its bill of an earlier instant, or a
// resource is younger than the window. A budget counts it; what a token costs does not.
type BeforeSpend struct {
	// Since is from when on it is known: the window's start where all of it is, and the
	// first own sample where nothing is.
	Since time.Time
	Until SampleRef // the first own sample
	Net   Nanos
	Gross Nanos
}

// RatesOnly tells whether the samples came with rates and no bill: their difference is
// not zero, it is not known.
func (s Spend) RatesOnly() bool {
	return len(s.Resources) == 0 && slices.Contains(s.Flags, FlagUnknownBill)
}

// ResourceSpend is one subtraction: inside one resource and one epoch.
type ResourceSpend struct {
	Resource string
	Epoch    string
	Kind     Kind
	First    SampleRef // where the baseline was read: before From for a resource that was missing there
	Last     SampleRef // where the last bill was read
	Base     Nanos     // the bill at First; 0 for a resource that was born inside the window
	Bill     Nanos     // the bill at Last
	Net      Nanos     // Bill − Base
	Gross    Nanos     // the sum of the increases
}

// Spent is the money spent in (from, to], as the provider's bill tells it: the
// last sample at or before to, minus the last at or before from (or the first
// after it). Nothing is integrated and nothing is extrapolated. Where both are
// the same sample, the spend is zero over no time, and the caller says so.
//
// Bills are subtracted only inside one (resource, epoch), of one provider. The
// first sight of a resource is a baseline, unless the provider says that it was
// created after From, or that an old bill of the resource ends there and moved to
// this one: then the old one holds it. A window that begins before the ledger begins
// with its first own sample; what was billed before that is Spend.Before. Where a resource is missing at From and was seen before in
// the same epoch, its bill there is the baseline: what it grew by while nobody
// saw it counts where it is seen again.
func (r *Reader) Spent(from, to time.Time) (Spend, error) {
	spends, err := r.SpentOf([]Window{{from, to}})
	if err != nil {
		return Spend{}, err
	}
	if spends[0].Count == 0 {
		return Spend{}, fmt.Errorf("read ledger: %w", ErrNoSamples)
	}
	return spends[0], nil
}

// SpentOf is Spent of each window, at one state of the ledger and in one scan of
// its samples. The windows follow on each other: each begins where the one before
// ends. Where Spent would return ErrNoSamples, the Spend is zero, with a Count of 0.
func (r *Reader) SpentOf(windows []Window) (spends []Spend, err error) {
	for i := range windows {
		if i > 0 && (!windows[i].From.Equal(windows[i-1].To) || windows[i].To.Before(windows[i].From)) {
			return nil, fmt.Errorf("read ledger: window %d of %d does not follow on the one before", i+1, len(windows))
		}
	}
	if len(windows) == 0 {
		return nil, nil
	}
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		spends, err = subtract(tx, windows)
		return err
	})
	return spends, err
}
