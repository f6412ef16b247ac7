package api

import (
	"time"

	"spotinference/ledger"
)

// A window whose start never moves grows for ever: Runpod's reply by some 215 bytes
// an hour, and nobody knows how far back a provider's window may reach. So an anchor
// that is old moves forward, in a sample that holds the resource twice: once under
// its old epoch, which ends there and says so (ledger.StatusMoved), and once under
// its new one, whose bill of then is its baseline. Both were read up to the same
// instant, so there is no hole and no overlap, and nothing to keep beside the sample.
//
//   - It is read old, new, old. Only where the old bill is the same before and after
//     did nothing come in between that one of the two has and the other has not.
//   - Where one of these reads fails, or the bill moved meanwhile, the sample is as it
//     was, and the move is put off: it is never urgent, and no reason for a dark minute.
//   - A running machine's bill that stands still does not move: how long it has done
//     so is counted inside an epoch.
//   - The new window begins at a midnight (UTC), where no provider's bucket is cut in
//     two, and a week back: what is charged late, refunded or restated within a week
//     shows in it. What is restated further back is in no window that is read any
//     more; the spend does not follow it, and report reconcile shows the difference.
//   - Where a bill is rounded (Vast.ai, to 0.001), old and new are rounded apart: a
//     move may be off by one unit.
//   - Whether the sample was stored is not taken from the error of storing it: a write
//     that failed may have happened, and may happen yet. The next poll asks the ledger
//     for the newest epoch. If that is the old one, the next offer is of another anchor,
//     a day earlier, so that no two samples hold the same pair, whose growth would
//     count twice.

const (
	oldAnchor = 35 * 24 * time.Hour // older ones move
	backDays  = 7                   // to so many days back
	moveAgain = 10 * time.Minute    // and where that could not be, not before
)

// move is how far the moving of one anchor is. A nil one is not under way.
type move struct {
	to    time.Time // the anchor that was offered last; zero once it is known what became of it
	tries int       // offers that were not stored
	after time.Time // no new try before
}

func (m *move) offered() bool { return m != nil && !m.to.IsZero() }

// settle notes that the series starts at t, by the ledger's word.
func (m *move) settle(t time.Time) {
	switch {
	case !m.offered():
	case t.Equal(m.to):
		*m = move{}
	default:
		m.to = time.Time{}
		m.tries++
	}
}

// Move adds to a sample's lines those of the epochs that begin in it. read reads the
// bill of a line's resource from an anchor on, up to the instant of the sample.
func (a *Anchors) Move(lines []ledger.Line, now time.Time, read func(l ledger.Line, anchor time.Time) (ledger.Line, *Failure)) []ledger.Line {
	for i := range lines {
		old := &lines[i]
		from, to, due := a.due(*old, now)
		if !due {
			continue
		}
		m := a.moves[old.Resource]
		m.after = now.Add(moveAgain)
		fresh, f := read(*old, to)
		if f != nil || fresh.Bill == nil || *fresh.Bill > *old.Bill {
			continue
		}
		again, f := read(*old, from)
		if f != nil || again.Bill == nil || *again.Bill != *old.Bill {
			continue
		}
		m.to = to
		delete(a.known, old.Resource) // the ledger will tell
		next := *old
		next.Epoch, next.Bill, next.Raw = Epoch(to), fresh.Bill, fresh.Raw
		old.Status, old.Running, old.Rate = ledger.StatusMoved, false, nil // told of now, and once
		lines = append(lines, next)
	}
	return lines
}

// due tells whether the anchor of a line is to move now, and where to.
func (a *Anchors) due(l ledger.Line, now time.Time) (from, to time.Time, due bool) {
	from, err := ParseEpoch(l.Epoch)
	if a.history == nil || err != nil || l.Bill == nil || departed(l) || now.Sub(from) < oldAnchor {
		return from, to, false
	}
	m := a.moves[l.Resource]
	if m == nil {
		m = &move{}
		a.moves[l.Resource] = m
	}
	if wait := m.after.Sub(now); 0 < wait && wait <= moveAgain {
		return from, to, false
	}
	// Only what the ledger holds can go on from there.
	epoch, bill, ok := a.history.Newest(l.Resource)
	if !ok || epoch != l.Epoch || l.Running && bill != nil && *bill == *l.Bill {
		return from, to, false
	}
	to = Midnight(now).AddDate(0, 0, -backDays-m.tries)
	return from, to, to.After(from)
}

// Midnight is the start of the day (UTC) that t lies in.
func Midnight(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }
