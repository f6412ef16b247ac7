package api

import (
	"slices"
	"time"

	"spotinference/ledger"
)

// A resource that the last samples had and that is missing from a complete one has
// departed. It is read once more, by its id: what it cost between its last sight and its
// end is spent too. Its line says that it is gone (ledger.StatusGone), and once its bill
// is final that it is closed (ledger.StatusClosed): then it is not asked for again.
//
//   - The machine itself has departed where it has no reply of its own and the listing of
//     all machines, read to its end, does not have it.
//   - What was there is asked of the history, so that it is known after a restart too.
//     An adapter without one (billing check) looks for nothing.
//   - A bill is final when it has stayed the same for the lag.
//   - A resource that still exists, and only left this box (a volume that was detached),
//     costs on, and that is not this box's: it is read once and closed.
//   - Where its bill cannot be read, the sample goes on without it, and the next tries
//     again. Nothing is closed then, and the ledger's reports say that it is gone.

// settling is the bill of a departed resource, which may still change.
type settling struct {
	bill  ledger.Nanos
	since time.Time // the first sample with this bill
}

// LastBill is what the provider tells of a departed resource.
type LastBill struct {
	Line   ledger.Line
	Exists bool // it still exists, and is not this box's any more
}

// Departures follows the resources that departed until their bills are final.
type Departures struct {
	history  History // nil: none is looked for
	provider string
	lag      time.Duration
	bills    map[string]settling // by resource
}

// NewDepartures looks for what history has of the provider's resources. lag is how long
// a final bill has stood still.
func NewDepartures(history History, provider string, lag time.Duration) *Departures {
	return &Departures{history: history, provider: provider, lag: lag, bills: make(map[string]settling)}
}

// Lines are the last lines, as of at, of what should be among present and is not.
func (d *Departures) Lines(present []ledger.Line, at time.Time, read func(resource string) (LastBill, *Failure)) ([]ledger.Line, *Failure) {
	if d.history == nil {
		return nil, nil
	}
	open, err := d.history.Open(d.provider)
	if err != nil {
		return nil, Fail(Internal, "ask the ledger what was there: %w", err)
	}
	here := make(map[string]bool)
	for _, l := range present {
		here[l.Resource] = true
	}
	var lines []ledger.Line
	bills := make(map[string]settling)
	for _, resource := range open {
		if here[resource] {
			continue
		}
		was, known := d.bills[resource]
		if known {
			bills[resource] = was
		}
		last, f := read(resource)
		if f != nil || last.Line.Bill == nil {
			continue
		}
		if !known || was.bill != *last.Line.Bill {
			was = settling{*last.Line.Bill, at}
			bills[resource] = was
		}
		last.Line.Status, last.Line.Running, last.Line.Rate = ledger.StatusGone, false, nil
		if last.Exists || at.Sub(was.since) >= d.lag {
			last.Line.Status = ledger.StatusClosed
		}
		lines = append(lines, last.Line)
	}
	d.bills = bills
	return lines, nil
}

// Missed reports whether a resource stood in a sample of late and is not closed.
func (d *Departures) Missed(resource string) bool {
	if d.history == nil {
		return false
	}
	open, err := d.history.Open(d.provider)
	return err == nil && slices.Contains(open, resource)
}

// departed reports whether a line is a departed resource's.
func departed(l ledger.Line) bool {
	return l.Status == ledger.StatusGone || l.Status == ledger.StatusClosed
}
