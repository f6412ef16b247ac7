package billing

import (
	"slices"
	"time"

	"spotinference/ledger"
)

// A resource that the last samples had and that is missing from a complete one is
// read once more, by its id: what it cost between its last sight and its end is spent
// too. Its line says that it is gone (ledger.StatusGone), and once its bill is final
// that it is closed (ledger.StatusClosed): then the ledger misses it no more.
//
//   - That the machine itself is gone is believed where it has no reply of its own and
//     the listing of all machines, read to its end, does not have it.
//   - What was there is asked of the ledger, so that it is known after a restart too.
//     An adapter without one (billing check) looks for nothing.
//   - A bill is final when it has stayed the same for the lag.
//   - A resource that still exists, and only left this box (a volume that was detached),
//     costs on, and that is not this box's: it is read once and closed.
//   - Where its bill cannot be read, the sample goes on without it, and the next tries
//     again. Nothing is closed then, and the ledger's reports say that it is gone.

// leaver is a resource on its way out.
type leaver struct {
	bill  ledger.Nanos
	since time.Time // the first sample with this bill
}

// ending is what the provider tells of a resource that is missing.
type ending struct {
	line  ledger.Line
	lives bool // it exists, and is this box's no more
}

// leavers follows what left.
type leavers struct {
	stored   Anchors
	provider string
	lag      time.Duration
	now      map[string]leaver
}

func newLeavers(stored Anchors, provider string, lag time.Duration) *leavers {
	return &leavers{stored: stored, provider: provider, lag: lag, now: make(map[string]leaver)}
}

// lines are the last lines, as of at, of what should be among present and is not.
func (g *leavers) lines(present []ledger.Line, at time.Time, read func(resource string) (ending, *Failure)) ([]ledger.Line, *Failure) {
	if g.stored == nil {
		return nil, nil
	}
	open, err := g.stored.Open(g.provider)
	if err != nil {
		return nil, fail(Internal, "ask the ledger what was there: %w", err)
	}
	here := make(map[string]bool)
	for _, l := range present {
		here[l.Resource] = true
	}
	var last []ledger.Line
	still := make(map[string]leaver)
	for _, resource := range open {
		if here[resource] {
			continue
		}
		was, known := g.now[resource]
		if known {
			still[resource] = was
		}
		e, f := read(resource)
		if f != nil || e.line.Bill == nil {
			continue
		}
		if !known || was.bill != *e.line.Bill {
			was = leaver{*e.line.Bill, at}
			still[resource] = was
		}
		e.line.Status, e.line.Running, e.line.Rate = ledger.StatusGone, false, nil
		if e.lives || at.Sub(was.since) >= g.lag {
			e.line.Status = ledger.StatusClosed
		}
		last = append(last, e.line)
	}
	g.now = still
	return last, nil
}

// saw tells whether a resource was there of late.
func (g *leavers) saw(resource string) bool {
	if g.stored == nil {
		return false
	}
	open, err := g.stored.Open(g.provider)
	return err == nil && slices.Contains(open, resource)
}

func leaving(l ledger.Line) bool {
	return l.Status == ledger.StatusGone || l.Status == ledger.StatusClosed
}
