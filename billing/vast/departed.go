package vast

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

// What Vast.ai tells of an instance or volume that is no longer there: its charges
// stay in the listing of the days in which it was.

// sourceName is what the API calls a contract in a charge.
func sourceName(kind ledger.Kind, id int64) string { return fmt.Sprintf("%s-%d", kind, id) }

// parseSource is the inverse of sourceName.
func parseSource(source string) (ledger.Kind, int64, bool) {
	for _, kind := range []ledger.Kind{ledger.Instance, ledger.Volume} {
		if text, ok := strings.CutPrefix(source, string(kind)+"-"); ok {
			id, err := strconv.ParseInt(text, 10, 64)
			return kind, id, err == nil && id > 0
		}
	}
	return "", 0, false
}

// lastBill reads the last bill of a contract.
func (v *adapter) lastBill(ctx context.Context, clk provider.Clock, listings chargesByStart, end time.Time) func(string) (api.LastBill, *api.Failure) {
	return func(source string) (api.LastBill, *api.Failure) {
		kind, id, ok := parseSource(source)
		anchor, begun := v.anchors.Known(source)
		if !ok || !begun {
			return api.LastBill{}, api.Fail(api.Internal, "%s is of no series of ours", source)
		}
		line, f := v.line(ctx, clk, listings, source, kind, time.Time{}, anchor, end)
		if f != nil {
			return api.LastBill{}, f
		}
		if kind == ledger.Volume {
			_, exists, f := v.volume(ctx, clk, id)
			return api.LastBill{Line: line, Exists: exists}, f
		}
		exists, f := v.exists(ctx, clk, id)
		return api.LastBill{Line: line, Exists: exists}, f
	}
}

// unlisted tells that the account's instances are listed, and this one is not among
// them. A listing that does not add up tells nothing.
func (v *adapter) unlisted(ctx context.Context, clk provider.Clock) bool {
	const maxPages = 100
	query := url.Values{"limit": {"25"}}
	seen := 0
	for range maxPages {
		body, f := v.api.Get(ctx, clk, "GET /api/v1/instances/", "api/v1/instances/", query)
		if f != nil {
			return false
		}
		var reply struct {
			Total *int    `json:"total_instances"`
			Next  *string `json:"next_token"`
			VMs   *[]struct {
				ID *int64 `json:"id"`
			} `json:"instances"`
		}
		if decode(body, &reply) != nil || reply.Total == nil || reply.VMs == nil {
			return false
		}
		for _, m := range *reply.VMs {
			if m.ID == nil || *m.ID == v.instance {
				return false
			}
		}
		seen += len(*reply.VMs)
		if reply.Next == nil || *reply.Next == "" {
			return seen == *reply.Total
		}
		query.Set("after_token", *reply.Next)
	}
	return false
}

func (v *adapter) exists(ctx context.Context, clk provider.Clock, id int64) (bool, *api.Failure) {
	body, f := v.api.Get(ctx, clk, instanceCall, fmt.Sprintf("api/v0/instances/%d/", id), nil)
	if f.NotFound() {
		return false, nil
	}
	if f != nil {
		return false, f
	}
	var reply struct {
		VM *struct{} `json:"instances"`
	}
	if f := decode(body, &reply); f != nil {
		return false, f.At(instanceCall)
	}
	return reply.VM != nil, nil
}
