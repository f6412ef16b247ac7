package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"spotinference/ledger"
)

// By is what a cost report is divided by.
type By string

const (
	ByNothing By = ""
	ByModel   By = "model"
	ByKey     By = "key" // the name of an API key, never the key
)

// ParseBy reads what to divide by.
func ParseBy(s string) (By, error) {
	if b := By(s); slices.Contains([]By{ByNothing, ByModel, ByKey}, b) {
		return b, nil
	}
	return "", &Error{Msg: fmt.Sprintf("by %q: nothing to divide by", s), Hint: "use model or key"}
}

// Group is one model's or one key's part. Share is its output tokens over all
// output tokens; Spend is that part of what serving cost. What the engine cost
// while it served nobody is nobody's.
type Group struct {
	Name             string   `json:"name"` // "" for requests without one
	Requests         int64    `json:"requests"`
	PromptTokens     int64    `json:"prompt_tokens"`
	CachedTokens     int64    `json:"cached_tokens"`
	CompletionTokens int64    `json:"completion_tokens"`
	Share            *Decimal `json:"share"` // null where no output token was made
	Spend            *Decimal `json:"spend"` // null also where the split is
}

// groups divides the requests of the snapped window, and what serving them cost
// where that is known.
func (b basis) groups(r *ledger.Reader, served *ledger.Nanos) ([]Group, error) {
	w := b.window()
	sums, err := r.TotalsBy(w.From, w.To, string(b.query.By))
	if err != nil {
		return nil, err
	}
	// Those with the most output first.
	names := slices.SortedFunc(maps.Keys(sums), func(x, y string) int {
		return cmp.Or(cmp.Compare(sums[y].Usage.CompletionTokens, sums[x].Usage.CompletionTokens),
			cmp.Compare(sums[y].Requests(), sums[x].Requests()), cmp.Compare(x, y))
	})
	var tokens int64
	weights := make([]int64, len(names))
	for i, name := range names {
		weights[i] = sums[name].Usage.CompletionTokens
		tokens += weights[i]
	}
	var spend []ledger.Nanos
	if served != nil {
		spend = allot(*served, weights)
	}
	out := []Group{}
	for i, name := range names {
		g := sums[name]
		k := Group{
			Name: name, Requests: g.Requests(),
			PromptTokens: g.Usage.PromptTokens, CachedTokens: g.Usage.CachedTokens, CompletionTokens: g.Usage.CompletionTokens,
			Share: share(weights[i], tokens),
		}
		if spend != nil {
			k.Spend = nanosDecimal(spend[i])
		}
		out = append(out, k)
	}
	return out, nil
}
