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
	Name             string   `json:"name"`         // "" for requests without one
	ID               string   `json:"id,omitempty"` // of a key: its name may have been another one's before
	Requests         int64    `json:"requests"`
	PromptTokens     int64    `json:"prompt_tokens"`
	CachedTokens     int64    `json:"cached_tokens"`
	CompletionTokens int64    `json:"completion_tokens"`
	Share            *Decimal `json:"share"` // null where no output token was made
	Spend            *Decimal `json:"spend"` // net; null also where the split is
	Gross            *Decimal `json:"gross"` // what a key's own budget counts: a refund does not lower it
}

// groups divides the requests of the snapped window, and what serving them cost
// where that is known.
func (b basis) groups(r *ledger.Reader, net, gross *divided) ([]Group, error) {
	names, sums, err := b.ranked(r)
	if err != nil {
		return nil, err
	}
	label := func(name string) (string, string) { return name, "" }
	if b.query.By == ByKey {
		known, err := r.Keys()
		if err != nil {
			return nil, err
		}
		label = func(id string) (string, string) {
			if i := slices.IndexFunc(known, func(k ledger.Key) bool { return k.ID == id }); i >= 0 {
				return known[i].Name, id
			}
			return id, id
		}
	}
	spend, grossSpend := divideServing(net, names, sums), divideServing(gross, names, sums)
	var tokens int64
	for _, t := range sums {
		tokens += t.Usage.CompletionTokens
	}
	out := []Group{}
	for _, name := range names {
		g := sums[name]
		k := Group{
			Requests:     g.Requests(),
			PromptTokens: g.Usage.PromptTokens, CachedTokens: g.Usage.CachedTokens, CompletionTokens: g.Usage.CompletionTokens,
			Share: share(g.Usage.CompletionTokens, tokens),
		}
		k.Name, k.ID = label(name)
		if n, ok := spend[name]; ok {
			k.Spend = nanosDecimal(n)
		}
		if n, ok := grossSpend[name]; ok {
			k.Gross = nanosDecimal(n)
		}
		out = append(out, k)
	}
	return out, nil
}

// ranked are the sums of the snapped window by what the query divides by, and their
// names, those with the most output first.
func (b basis) ranked(r *ledger.Reader) (names []string, sums map[string]ledger.Totals, err error) {
	w := b.window()
	sums, err = r.TotalsBy(w.From, w.To, string(b.query.By))
	names = slices.SortedFunc(maps.Keys(sums), func(x, y string) int {
		return cmp.Or(cmp.Compare(sums[y].Usage.CompletionTokens, sums[x].Usage.CompletionTokens),
			cmp.Compare(sums[y].Requests(), sums[x].Requests()), cmp.Compare(x, y))
	})
	return names, sums, err
}

// divideServing is the one rule of who owes what: of the spend while the engine served,
// each name has the share that its output tokens are of all output tokens. It is nil
// where the spend is not known or no such token was made.
func divideServing(d *divided, names []string, sums map[string]ledger.Totals) map[string]ledger.Nanos {
	if d == nil {
		return nil
	}
	weights := make([]int64, len(names))
	for i, name := range names {
		weights[i] = sums[name].Usage.CompletionTokens
	}
	out := map[string]ledger.Nanos{}
	for i, n := range allot(d.part[serving], weights) {
		out[names[i]] = n
	}
	return out
}
