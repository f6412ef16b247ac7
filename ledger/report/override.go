package report

import (
	"time"

	"spotinference/ledger"
)

// Override is a time in which the budget was lifted, by somebody's word. It changes no
// figure: a report whose window it touches says that it was.
type Override struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Amount *Decimal  `json:"amount"` // how much more might be spent; null: as much as came
	Reason string    `json:"reason"`
}

// overridden are the overrides of a window.
func overridden(r *ledger.Reader, w ledger.Window) ([]Override, error) {
	found, err := r.Overrides(w.From, w.To)
	var out []Override
	for _, o := range found {
		out = append(out, Override{From: o.At, To: o.End(), Amount: (*Decimal)(o.Amount.Text()), Reason: o.Reason})
	}
	return out, err
}

// overrideTexts are notes on them.
func overrideTexts(all []Override) (notes []string) {
	for _, o := range all {
		amount := ""
		if o.Amount != nil {
			amount = ", for " + string(*o.Amount) + " more"
		}
		notes = append(notes, "note: the budget was lifted by hand from "+period(Span{o.From, o.To})+amount+": "+printable(o.Reason))
	}
	return notes
}

// spansOf are the times in which they were in force.
func spansOf(all []Override) (spans []Span) {
	for _, o := range all {
		spans = append(spans, Span{o.From, o.To})
	}
	return spans
}
