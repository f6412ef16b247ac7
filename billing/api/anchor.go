package api

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
// Moving an anchor is in move.go.

// History is the ledger that the samples go to, as far as an adapter asks it what
// earlier ones held.
type History interface {
	// Newest is the epoch of a resource's newest line, the later one where a sample
	// holds two, and its bill, nil where that is not known. It is not ok where there
	// is none, or the ledger cannot be read.
	Newest(resource string) (epoch string, bill *ledger.Nanos, ok bool)

	// Open lists the provider's resources that stood in a sample of late and are not
	// closed: what a sample must have, or ask for once more.
	Open(provider string) ([]string, error)
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

// Anchors are where the windows of an adapter's resources start. They are answered from
// this run's memory, then from the history, then decided and remembered. Memory goes
// first: a series once begun must not restart because the ledger could not be asked.
type Anchors struct {
	history History // nil knows nothing
	known   map[string]time.Time
	moves   map[string]*move
}

// NewAnchors makes anchors that go on where the series in history begin. A nil history
// has none.
func NewAnchors(history History) *Anchors {
	return &Anchors{history: history, known: make(map[string]time.Time), moves: make(map[string]*move)}
}

// Of is where the window of a resource's bill starts. One that was never seen before
// starts by when it was created.
func (a *Anchors) Of(resource string, created, now time.Time) (time.Time, *Failure) {
	return a.of(resource, func() time.Time { return firstAnchor(created, now) })
}

// AsOf is Of for a bill that is read as of at, which may lie far back: a resource that
// was never seen before has its bill of then in the window, too.
func (a *Anchors) AsOf(resource string, created, at, now time.Time) (time.Time, *Failure) {
	return a.of(resource, func() time.Time {
		first := firstAnchor(created, now)
		if !first.Before(at) && created.Before(at) {
			first = Midnight(at).AddDate(0, 0, -backDays)
		}
		return first
	})
}

func (a *Anchors) of(resource string, first func() time.Time) (time.Time, *Failure) {
	if t, ok := a.known[resource]; ok {
		return t, nil
	}
	t, ok := a.Known(resource)
	switch {
	case !ok && a.moves[resource].offered():
		return time.Time{}, Fail(Internal, "whether the sample in which the series of %s moved was stored cannot be told: the ledger does not answer", resource)
	case !ok:
		t = first()
	}
	a.moves[resource].settle(t)
	a.known[resource] = t
	return t, nil
}

// Known is where the window of a series that is known already starts.
func (a *Anchors) Known(resource string) (time.Time, bool) {
	if t, ok := a.known[resource]; ok {
		return t, true
	}
	if a.history == nil {
		return time.Time{}, false
	}
	epoch, _, ok := a.history.Newest(resource)
	if !ok {
		return time.Time{}, false
	}
	t, err := ParseEpoch(epoch)
	return t, err == nil
}
