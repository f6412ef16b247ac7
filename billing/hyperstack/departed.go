package hyperstack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

// What Hyperstack tells of a machine, volume or snapshot that is no longer there: its
// bill by id, as ever, and a listing of what was deleted. The total in that listing is
// no bill of ours, and the time of the end in it no time of ours: since when the one is
// counted, and in which zone the other is told, is documented nowhere.

// lastBill reads the last bill of a resource up to the end of s.
func (h *adapter) lastBill(ctx context.Context, clk provider.Clock, s *ledger.Sample) func(string) (api.LastBill, *api.Failure) {
	var deleted *deletedSet // asked for once
	return func(resource string) (api.LastBill, *api.Failure) {
		r, id, ok := parseResource(resource)
		anchor, begun := h.anchors.Known(resource)
		if !ok || !begun {
			return api.LastBill{}, api.Fail(api.Internal, "%s is of no series of ours", resource)
		}
		line, f := h.line(ctx, clk, s, r, id, time.Time{}, anchor)
		if f != nil {
			return api.LastBill{}, f
		}
		if deleted == nil {
			d := h.deleted(ctx, clk)
			deleted = &d
		}
		if (*deleted)[resourceID{r.name, id}] {
			return api.LastBill{Line: line}, nil
		}
		// Not in that listing, or not yet.
		exists, f := h.exists(ctx, clk, r, id)
		return api.LastBill{Line: line, Exists: exists}, f
	}
}

// unlisted tells that the account's machines are listed, and this one is not among them.
func (h *adapter) unlisted(ctx context.Context, clk provider.Clock) bool {
	all, f := h.machines(ctx, clk)
	return f == nil && !slices.ContainsFunc(all, func(m listedMachine) bool { return m.ID == h.vm })
}

// exists reports whether the provider still has the thing.
func (h *adapter) exists(ctx context.Context, clk provider.Clock, r resourceKind, id int64) (bool, *api.Failure) {
	call := "GET /" + strings.Replace(r.core, "%d", "{id}", 1)
	body, f := h.api.Get(ctx, clk, call, fmt.Sprintf(r.core, id), nil)
	if f.NotFound() {
		return false, nil
	}
	if f != nil {
		return false, f
	}
	var reply map[string]json.RawMessage
	if f := api.Decode(body, &reply); f != nil {
		return false, f.At(call)
	}
	var thing *struct {
		Status *string `json:"status"`
	}
	if raw, ok := reply[r.object]; ok {
		if f := api.Decode(raw, &thing); f != nil {
			return false, f.At(call)
		}
	}
	if thing == nil || thing.Status == nil {
		return false, api.Fail(api.Incomplete, "reply lacks %s or its status", r.object).At(call)
	}
	switch strings.ToUpper(*thing.Status) {
	case "DELETING", "DELETED":
		return false, nil
	}
	return true, nil
}

type resourceID struct {
	name string
	id   int64
}

type deletedSet map[resourceID]bool

// deleted lists what was deleted. It is one sign beside others: where it cannot be
// read, nothing is known by it.
func (h *adapter) deleted(ctx context.Context, clk provider.Clock) deletedSet {
	body, f := h.api.Get(ctx, clk, "GET /billing/billing/usage", "billing/billing/usage", url.Values{"deleted": {"true"}})
	if f != nil {
		return nil
	}
	return decodeDeleted(body)
}

func decodeDeleted(body []byte) deletedSet {
	var reply struct {
		Data []struct {
			ID     *int64 `json:"resource_id"`
			Type   string `json:"resource_type"` // its words are documented nowhere
			Active *bool  `json:"active"`
		} `json:"data"`
	}
	if api.Decode(body, &reply) != nil {
		return nil
	}
	all := make(deletedSet)
	for _, e := range reply.Data {
		if e.ID == nil || e.Active != nil && *e.Active {
			continue
		}
		word := strings.ToLower(e.Type)
		for _, c := range []struct{ part, name string }{
			{"snapshot", kindSnapshot.name}, {"volume", kindVolume.name},
			{"virtual", kindVM.name}, {"vm", kindVM.name}, {"instance", kindVM.name},
		} {
			if strings.Contains(word, c.part) {
				all[resourceID{c.name, *e.ID}] = true
				break
			}
		}
	}
	return all
}
