package hyperstack

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

// BillOver implements Windowed.
func (h *adapter) BillOver(ctx context.Context, resource string, start, end, now time.Time) (ledger.Nanos, error) {
	r, id, ok := parseResource(resource)
	if !ok {
		return 0, api.Fail(api.Internal, "%q is no resource of Hyperstack's", resource)
	}
	body, f := h.api.Get(ctx, provider.StartClock(now), r.call, fmt.Sprintf(r.path, id), windowQuery(start, end))
	if f != nil {
		return 0, f
	}
	bill, f := decodeBill(r, id, body)
	if f != nil {
		return 0, f.At(r.call)
	}
	return bill.total, nil
}

// AccountOver implements Windowed: the organisation's total.
func (h *adapter) AccountOver(ctx context.Context, start, end, now time.Time) (ledger.Nanos, error) {
	const call = "GET /billing/billing/history"
	body, f := h.api.Get(ctx, provider.StartClock(now), call, "billing/billing/history", windowQuery(start, end))
	if f != nil {
		return 0, f
	}
	total, f := decodeTotal(body)
	if f != nil {
		return 0, f.At(call)
	}
	return total, nil
}

// windowQuery is a window; its end is left out where it is zero.
func windowQuery(start, end time.Time) url.Values {
	q := url.Values{"start_date": {start.UTC().Format(timeLayout)}}
	if !end.IsZero() {
		q.Set("end_date", end.UTC().Format(timeLayout))
	}
	return q
}

// decodeTotal reads the organisation's bill. Its parts do not add up to it,
// and are left alone.
func decodeTotal(body []byte) (ledger.Nanos, *api.Failure) {
	var reply struct {
		History *struct {
			Entries []struct {
				Metrics struct {
					Bill *api.Amount `json:"incurred_bill"`
				} `json:"metrics"`
			} `json:"billing_history"`
		} `json:"billing_history"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return 0, f
	}
	if reply.History == nil || len(reply.History.Entries) == 0 {
		return 0, api.Fail(api.Incomplete, "reply has no entry of billing_history")
	}
	var total ledger.Nanos
	for _, e := range reply.History.Entries {
		part := e.Metrics.Bill.Nanos()
		if part == nil {
			return 0, api.Fail(api.Incomplete, "reply has no incurred_bill")
		}
		var err error
		if total, err = total.Add(*part); err != nil {
			return 0, api.Fail(api.Malformed, "add up incurred_bill: out of range")
		}
	}
	return total, nil
}
