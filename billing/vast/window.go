package vast

import (
	"context"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

// BillOver implements Windowed. Charges are listed by whole days, and their filter must
// have an end.
func (v *adapter) BillOver(ctx context.Context, resource string, start, end, now time.Time) (ledger.Nanos, error) {
	all, f := v.over(ctx, start, end, now)
	if f != nil {
		return 0, f
	}
	bill, _, f := billOf(all, resource)
	if f != nil {
		return 0, f.At(chargesCall)
	}
	return bill, nil
}

// AccountOver implements Windowed: all that is listed.
func (v *adapter) AccountOver(ctx context.Context, start, end, now time.Time) (ledger.Nanos, error) {
	all, f := v.over(ctx, start, end, now)
	if f != nil {
		return 0, f
	}
	var total ledger.Nanos
	for _, c := range all {
		var err error
		if total, err = total.Add(c.amount); err != nil {
			return 0, api.Fail(api.Malformed, "add up amounts: out of range").At(chargesCall)
		}
	}
	return total, nil
}

func (v *adapter) over(ctx context.Context, start, end, now time.Time) ([]charge, *api.Failure) {
	if end.IsZero() {
		return nil, api.Fail(api.Internal, "charges are not listed without an end").At(chargesCall)
	}
	// The filter's end is the second before, see charges.
	return v.charges(ctx, provider.StartClock(now), api.Midnight(start), end.Truncate(time.Second).Add(time.Second))
}
