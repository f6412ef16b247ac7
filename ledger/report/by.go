package report

import (
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
	return "", badQuestion("use model or key", "by %q: nothing to divide by", s)
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
func (src source) groups(r *ledger.Reader, net, gross *ledger.SpendSplit) ([]Group, error) {
	w := src.window()
	sums, err := r.TotalsBy(w.From, w.To, string(src.query.By))
	if err != nil {
		return nil, err
	}
	label := func(name string) (string, string) { return name, "" }
	if src.query.By == ByKey {
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
	spend, grossSpend := net.ServingShares(sums), gross.ServingShares(sums)
	var tokens int64
	for _, t := range sums {
		tokens += t.Usage.CompletionTokens
	}
	out := []Group{}
	for _, name := range ledger.ByOutput(sums) {
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
