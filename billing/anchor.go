package billing

import (
	"fmt"
	"strings"
	"time"

	"spotinference/ledger"
)

// Where the caller picks the start of the window that a bill is summed over, the
// start is fixed once per resource: then whatever the provider does at that end
// cancels in the subtraction. It is the line's epoch, and lives in the ledger with
// the line, so that a restart reads the same series on.
//
// Moving an anchor (a window grown too long, say) takes one poll that reads with
// the old and the new one and the same end. This is the place for it; until then
// an anchor never moves.

// Anchors gives back what an earlier run stored last of a resource: the epoch of
// its newest line, and its bill, nil where that is not known.
type Anchors interface {
	Newest(resource string) (epoch string, bill *ledger.Nanos, ok bool)
}

const epochPrefix = "anchor:"

// Epoch names the series of bills that are read from anchor on.
func Epoch(anchor time.Time) string {
	return epochPrefix + anchor.UTC().Format(time.RFC3339)
}

// ParseEpoch is the inverse of Epoch.
func ParseEpoch(epoch string) (time.Time, error) {
	text, ok := strings.CutPrefix(epoch, epochPrefix)
	t, err := time.Parse(time.RFC3339, text)
	if !ok || err != nil || t.Nanosecond() != 0 {
		return time.Time{}, fmt.Errorf("epoch %q: not of the form %s2006-01-02T15:04:05Z", epoch, epochPrefix)
	}
	return t.UTC(), nil
}

// young is the age up to which a resource is read from its birth on. Older ones
// start with the month in which they were first seen: nobody knows how far back a
// provider's window may reach.
const young = 31 * 24 * time.Hour

// firstAnchor is the anchor of a resource that was never seen before now.
func firstAnchor(created, now time.Time) time.Time {
	created, now = created.UTC(), now.UTC()
	if now.Sub(created) < young {
		return time.Date(created.Year(), created.Month(), created.Day(), 0, 0, 0, 0, time.UTC)
	}
	return time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
}

// anchors answers from this run's memory, then from the ledger, then decides, and
// remembers. Memory goes first: a series once begun must not restart because the
// ledger could not be asked.
type anchors struct {
	stored Anchors
	known  map[string]time.Time
}

func newAnchors(stored Anchors) *anchors {
	return &anchors{stored: stored, known: make(map[string]time.Time)}
}

func (a *anchors) of(resource string, created, now time.Time) time.Time {
	if t, ok := a.known[resource]; ok {
		return t
	}
	t := firstAnchor(created, now)
	if a.stored != nil {
		if epoch, _, ok := a.stored.Newest(resource); ok {
			if at, err := ParseEpoch(epoch); err == nil {
				t = at
			}
		}
	}
	a.known[resource] = t.UTC()
	return a.known[resource]
}
