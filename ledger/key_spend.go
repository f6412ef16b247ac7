package ledger

import (
	"errors"
	"fmt"
	"time"
)

// ErrKeySpend is returned where it is not known what the keys have used.
var ErrKeySpend = errors.New("what each key has used is not known")

// KeySpend is what each API key, by its id, has used of the bill in a window: the
// gross figure of a cost report by key, by the same code. It holds nothing of keys
// that used nothing, and of none where the window has no two samples yet: then
// nothing is known to be spent. How old the bill may be is the gate's to say.
func (r *Reader) KeySpend(w Window) (map[string]Nanos, error) {
	spent, err := r.keySpend(w)
	if err != nil {
		return nil, fmt.Errorf("spend by key: %w", err)
	}
	return spent, nil
}

func (r *Reader) keySpend(w Window) (map[string]Nanos, error) {
	spend, err := r.Spent(w.From, w.To)
	sampled := err == nil
	if err != nil && !errors.Is(err, ErrNoSamples) {
		return nil, err
	}
	provider, err := r.Provider()
	if err != nil {
		return nil, err
	}
	switch {
	case provider == NoProvider && !(sampled && spend.To.At.After(w.From)):
		return nil, fmt.Errorf("%w: no_provider", ErrKeySpend)
	case !sampled:
		return nil, nil
	case spend.RatesOnly():
		return nil, fmt.Errorf("%w: dark", ErrKeySpend)
	case spend.Count == 1:
		return nil, nil
	}
	sums, err := r.TotalsBy(spend.From.At, spend.To.At, "key")
	if err != nil {
		return nil, err
	}
	var tokens int64
	for _, t := range sums {
		tokens += t.Usage.CompletionTokens
	}
	if tokens == 0 {
		return nil, nil
	}
	timeline, err := r.Timeline(spend, nil, nil)
	if err != nil {
		return nil, err
	}
	_, gross, err := r.Split(timeline)
	if err != nil {
		return nil, err
	}
	if gross == nil {
		return nil, fmt.Errorf("%w: nor is what the engine did since %s", ErrKeySpend, w.From.Format(time.RFC3339))
	}
	return gross.ServingShares(sums), nil
}
