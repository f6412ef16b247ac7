package billing

import (
	"context"
	"time"

	"spotinference/internal/provider"
	"spotinference/ledger"
)

// BillOver implements Windowed. Charges are listed by whole days, and their filter must
// have an end.
func (v *vast) BillOver(ctx context.Context, resource string, start, end, now time.Time) (ledger.Nanos, error) {
	all, f := v.over(ctx, start, end, now)
	if f != nil {
		return 0, f
	}
	bill, _, f := vastBill(all, resource)
	if f != nil {
		return 0, f.At(vastCharges)
	}
	return bill, nil
}

// AccountOver implements Windowed: all that is listed.
func (v *vast) AccountOver(ctx context.Context, start, end, now time.Time) (ledger.Nanos, error) {
	all, f := v.over(ctx, start, end, now)
	if f != nil {
		return 0, f
	}
	var total ledger.Nanos
	for _, c := range all {
		var err error
		if total, err = total.Add(c.amount); err != nil {
			return 0, Fail(Malformed, "add up amounts: out of range").At(vastCharges)
		}
	}
	return total, nil
}

func (v *vast) over(ctx context.Context, start, end, now time.Time) ([]vastCharge, *Failure) {
	if end.IsZero() {
		return nil, Fail(Internal, "charges are not listed without an end").At(vastCharges)
	}
	// The filter's end is the second before, see charges.
	return v.charges(ctx, provider.StartClock(now), Midnight(start), end.Truncate(time.Second).Add(time.Second))
}
