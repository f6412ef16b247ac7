package runpod

import (
	"context"
	"net/url"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

// BillOver implements Windowed. Start and end are snapped to the hour.
func (r *adapter) BillOver(ctx context.Context, resource string, start, end, now time.Time) (ledger.Nanos, error) {
	kind, id, ok := parseResource(resource)
	if !ok {
		return 0, api.Fail(api.Internal, "%q is no resource of Runpod's", resource)
	}
	w := window{start.UTC().Truncate(bucket), bucketEnd(now.UTC())}
	if !end.IsZero() {
		w.to = bucketEnd(end.UTC())
	}
	query := windowQuery(start, end)
	query.Set(kind.filter, id)
	body, f := r.api.Get(ctx, provider.StartClock(now), kind.call, kind.path, query)
	if f != nil {
		return 0, f
	}
	bill, f := decodeBill(kind, id, w, body)
	if f != nil {
		return 0, f.At(kind.call)
	}
	return bill, nil
}

// AccountOver implements Windowed: the total of the account's own listing, which also
// holds what is neither a pod nor a network volume.
func (r *adapter) AccountOver(ctx context.Context, start, end, now time.Time) (ledger.Nanos, error) {
	const call = "GET /v2/billing"
	body, f := r.api.Get(ctx, provider.StartClock(now), call, "v2/billing", windowQuery(start, end))
	if f != nil {
		return 0, f
	}
	total, f := decodeTotal(body)
	if f != nil {
		return 0, f.At(call)
	}
	return total, nil
}

// decodeTotal reads the account's bill: its total, and none of its records.
func decodeTotal(body []byte) (ledger.Nanos, *api.Failure) {
	var reply struct {
		Meta *struct {
			Totals *struct {
				Total *api.Amount `json:"totalAmount"`
			} `json:"totals"`
		} `json:"metadata"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return 0, f
	}
	if reply.Meta == nil || reply.Meta.Totals == nil || reply.Meta.Totals.Total == nil {
		return 0, api.Fail(api.Incomplete, "reply has no totalAmount")
	}
	return ledger.Nanos(*reply.Meta.Totals.Total), nil
}

// windowQuery is a window of hours; its end is left out where it is zero.
func windowQuery(start, end time.Time) url.Values {
	q := url.Values{"bucketSize": {"hour"}, "startTime": {start.UTC().Format(time.RFC3339)}}
	if !end.IsZero() {
		q.Set("endTime", end.UTC().Format(time.RFC3339))
	}
	return q
}
