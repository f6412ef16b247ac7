package report

import (
	"errors"
	"fmt"
	"math"
	"time"

	"spotinference/ledger"
)

// ErrKeySpend is returned where it is not known what the keys have used.
var ErrKeySpend = errors.New("what each key has used is not known")

// KeySpend is what each API key, by its id, has used of the bill in a window: the
// gross figure of a cost report by key, by the same code. It holds nothing of keys
// that used nothing, and of none where the window has no two samples yet: then
// nothing is known to be spent.
func KeySpend(r *ledger.Reader, w ledger.Window) (map[string]ledger.Nanos, error) {
	b, err := gather(r, CostQuery{
		Window: w, Now: w.To, By: ByKey, Bucket: NoBucket,
		MaxSampleAge: math.MaxInt64, // how old the bill may be is the gate's to say
	})
	if err != nil {
		return nil, fmt.Errorf("spend by key: %w", err)
	}
	switch b.reason() {
	case ReasonNoTokens, ReasonNoSamples, ReasonOneSample:
		return nil, nil
	case "":
	default:
		return nil, fmt.Errorf("spend by key: %w: %s", ErrKeySpend, b.reason())
	}
	shape, err := b.shape(r, nil)
	if err != nil {
		return nil, fmt.Errorf("spend by key: %w", err)
	}
	_, gross, err := shape.split(r, b.spend)
	if err != nil {
		return nil, fmt.Errorf("spend by key: %w", err)
	}
	if gross == nil {
		return nil, fmt.Errorf("spend by key: %w: nor is what the engine did since %s", ErrKeySpend, w.From.Format(time.RFC3339))
	}
	names, sums, err := b.ranked(r)
	if err != nil {
		return nil, fmt.Errorf("spend by key: %w", err)
	}
	return divideServing(gross, names, sums), nil
}
