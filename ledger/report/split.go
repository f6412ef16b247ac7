package report

import (
	"time"

	"spotinference/ledger"
)

// Split is the net spend by what the engine did meanwhile. Its fields add up to
// it, or are null where the ledger does not know the engine's state for all of
// the window.
type Split struct {
	Serving   *Decimal `json:"serving"`   // ready, with a request at least
	Idle      *Decimal `json:"idle"`      // ready, with none
	Waking    *Decimal `json:"waking"`    // starting, or coming back from its suspension
	Suspended *Decimal `json:"suspended"` // it has released the GPU
	Down      *Decimal `json:"down"`      // stopped, crashed, or no gateway to run it
}

// fields are those of s, by their ledger.SpendPart.
func (s *Split) fields() [ledger.NumSpendParts]**Decimal {
	return [ledger.NumSpendParts]**Decimal{
		ledger.PartServing: &s.Serving, ledger.PartIdle: &s.Idle, ledger.PartWaking: &s.Waking,
		ledger.PartSuspended: &s.Suspended, ledger.PartDown: &s.Down,
	}
}

// splitOf is a split as it is published.
func splitOf(d *ledger.SpendSplit) (out Split) {
	if d == nil {
		return out
	}
	for part, field := range out.fields() {
		*field = nanosDecimal(d.Parts[part])
	}
	return out
}

// utilisation is how much of a span the engine was busy.
func utilisation(busy, span time.Duration) *Decimal {
	return share(busy.Microseconds(), span.Microseconds())
}
