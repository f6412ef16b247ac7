package ledger

import (
	"cmp"
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
	FlagGone         = "gone"          // a resource left the bill; counted up to its last sight
	FlagEpochChanged = "epoch_changed" // a bill began anew; counted up to the old one's last sight
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
	Gaps      []Window        // spans between neighbouring samples in which one is missing
	Resources []ResourceSpend // by resource and epoch, in order
	Every     time.Duration   // the newest sample's interval
	Flags     []string        // sorted, each once
}

// ResourceSpend is one subtraction: inside one resource and one epoch.
type ResourceSpend struct {
	Resource string
	Epoch    string
	Kind     Kind
	First    SampleRef // where the baseline was read
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
// Bills are subtracted only inside one (resource, epoch). The first sight of a
// resource is a baseline, unless the provider says that it was created after
// From.
func (r *Reader) Spent(from, to time.Time) (Spend, error) {
	var sp Spend
	err := r.snapshot(context.Background(), func(tx *sql.Tx) error {
		a, b, err := bounds(tx, micros(from), micros(to))
		if err != nil {
			return err
		}
		sp, err = subtract(tx, a, b)
		if a > micros(from) {
			sp.flag(FlagStartsLate)
		}
		return err
	})
	slices.Sort(sp.Flags)
	return sp, err
}

// bounds snaps a window to the times of two samples.
func bounds(tx *sql.Tx, from, to int64) (a, b int64, err error) {
	var last, before, after sql.NullInt64
	if err := tx.QueryRow("SELECT max(at) FROM sample WHERE at <= ?", to).Scan(&last); err != nil {
		return 0, 0, err
	}
	if !last.Valid {
		return 0, 0, ErrNoSamples
	}
	if err := tx.QueryRow("SELECT max(at) FROM sample WHERE at <= ?", from).Scan(&before); err != nil {
		return 0, 0, err
	}
	if before.Valid {
		return before.Int64, last.Int64, nil
	}
	if err := tx.QueryRow("SELECT min(at) FROM sample WHERE at > ?", from).Scan(&after); err != nil {
		return 0, 0, err
	}
	return after.Int64, last.Int64, nil
}

// series is one (resource, epoch) while the samples are walked in order.
type series struct {
	ResourceSpend
	seen int // index of the last sample that had it
}

// subtract walks the samples from a to b and sums what their bills grew by.
func subtract(tx *sql.Tx, a, b int64) (Spend, error) {
	var sp Spend
	rows, err := tx.Query(`SELECT sample.id, at, provider, currency, truth, calibrated, every,
			resource, epoch, kind, bill, created
		FROM sample LEFT JOIN line ON line.sample = sample.id WHERE at >= ? AND at <= ? ORDER BY at, resource, epoch`, a, b)
	if err != nil {
		return sp, err
	}
	defer rows.Close()
	type key struct{ resource, epoch string }
	all := map[key]*series{}
	current := map[string]string{} // resource → the epoch of its newest line
	var at SampleRef
	for rows.Next() {
		var (
			us, every            int64
			id                   int64
			truth                Truth
			calibrated           bool
			resource, epoch, knd sql.NullString
			bill, created        sql.NullInt64
		)
		if err := rows.Scan(&id, &us, &sp.Provider, &sp.Currency, &truth, &calibrated, &every, &resource, &epoch, &knd, &bill, &created); err != nil {
			return sp, err
		}
		if id != at.ID {
			sp.enter(SampleRef{ID: id, At: fromMicros(us)}, at, fromDuration(every))
			at = SampleRef{ID: id, At: fromMicros(us)}
			if !calibrated {
				sp.flag(FlagUncalibrated)
			}
			if truth == TruthAccount {
				sp.flag(FlagAccountTruth)
			}
		}
		if !resource.Valid {
			continue // a sample without a line: nothing counts towards this box
		}
		k := key{resource.String, epoch.String}
		s := all[k]
		if !bill.Valid {
			sp.flag(FlagUnknownBill)
			if s != nil {
				s.seen = sp.Count
			}
			continue
		}
		if s == nil {
			s = &series{ResourceSpend: ResourceSpend{
				Resource: k.resource, Epoch: k.epoch, Kind: Kind(knd.String), First: at, Last: at, Base: Nanos(bill.Int64), Bill: Nanos(bill.Int64)}}
			all[k] = s
			_, before := current[k.resource]
			if err := sp.firstSight(s, before, created); err != nil {
				return sp, err
			}
		} else if err := sp.grow(s, Nanos(bill.Int64)); err != nil {
			return sp, err
		}
		s.Last, s.seen, current[k.resource] = at, sp.Count, k.epoch
	}
	if err := rows.Err(); err != nil {
		return sp, err
	}
	sp.To = at
	for k, s := range all {
		if s.seen < sp.Count && current[k.resource] == k.epoch {
			sp.flag(FlagGone)
		}
		sp.Resources = append(sp.Resources, s.ResourceSpend)
		if sp.Net, err = sp.Net.Add(s.Net); err != nil {
			return sp, fmt.Errorf("net spend: %w", err)
		}
		if sp.Gross, err = sp.Gross.Add(s.Gross); err != nil {
			return sp, fmt.Errorf("gross spend: %w", err)
		}
	}
	slices.SortFunc(sp.Resources, func(x, y ResourceSpend) int {
		return cmp.Or(cmp.Compare(x.Resource, y.Resource), x.First.At.Compare(y.First.At), cmp.Compare(x.Epoch, y.Epoch))
	})
	return sp, nil
}

// enter takes note of the next sample. A step of more than two and a half
// intervals is a gap: one sample may come late, two do not.
func (sp *Spend) enter(next, prev SampleRef, every time.Duration) {
	if sp.Count == 0 {
		sp.From = next
	} else if every > 0 && next.At.Sub(prev.At) > every*5/2 {
		sp.Gaps = append(sp.Gaps, Window{prev.At, next.At})
		sp.flag(FlagGaps)
	}
	sp.Count++
	sp.Every = every
}

// firstSight decides what a series begins from.
func (sp *Spend) firstSight(s *series, hadEpoch bool, created sql.NullInt64) error {
	switch {
	case sp.Count == 1: // in the first sample: its bill there is the baseline
	case hadEpoch:
		sp.flag(FlagEpochChanged)
	case created.Valid && created.Int64 > micros(sp.From.At):
		// Born inside the window: all of its bill is.
		s.Base = 0
		return sp.grow(s, s.Bill)
	default:
		sp.flag(FlagFirstSeen)
	}
	return nil
}

// grow moves a series to its next bill. A bill that fell is an adjustment: net
// follows it, gross does not.
func (sp *Spend) grow(s *series, bill Nanos) error {
	last := s.Base
	if s.seen > 0 {
		last = s.Bill
	}
	d, err := bill.Sub(last)
	if err != nil {
		return fmt.Errorf("bill of %s: %w", s.Resource, err)
	}
	if d < 0 {
		sp.flag(FlagAdjusted)
	} else if s.Gross, err = s.Gross.Add(d); err != nil {
		return fmt.Errorf("bill of %s: %w", s.Resource, err)
	}
	s.Bill = bill
	s.Net, err = bill.Sub(s.Base)
	return err
}

func (sp *Spend) flag(f string) {
	if !slices.Contains(sp.Flags, f) {
		sp.Flags = append(sp.Flags, f)
	}
}
