package billing

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"spotinference/internal/provider"
	"spotinference/ledger"
)

// What Hyperstack tells of a machine, volume or snapshot that is no longer there: its
// bill by id, as ever, and a listing of what was deleted. The total in that listing is
// no bill of ours, and the time of the end in it no time of ours: since when the one is
// counted, and in which zone the other is told, is documented nowhere.

// last reads the last bill of a resource up to the end of s.
func (h *hyperstack) last(ctx context.Context, clk provider.Clock, s *ledger.Sample) func(string) (LastBill, *Failure) {
	var deleted *hyperstackDeleted // asked for once
	return func(resource string) (LastBill, *Failure) {
		r, id, ok := hyperstackID(resource)
		anchor, begun := h.anchors.Known(resource)
		if !ok || !begun {
			return LastBill{}, Fail(Internal, "%s is of no series of ours", resource)
		}
		line, f := h.line(ctx, clk, s, r, id, time.Time{}, anchor)
		if f != nil {
			return LastBill{}, f
		}
		if deleted == nil {
			d := h.deleted(ctx, clk)
			deleted = &d
		}
		if (*deleted)[hyperstackDead{r.name, id}] {
			return LastBill{Line: line}, nil
		}
		// Not in that listing, or not yet.
		lives, f := h.lives(ctx, clk, r, id)
		return LastBill{Line: line, Exists: lives}, f
	}
}

// unlisted tells that the account's machines are listed, and this one is not among them.
func (h *hyperstack) unlisted(ctx context.Context, clk provider.Clock) bool {
	all, f := h.machines(ctx, clk)
	return f == nil && !slices.ContainsFunc(all, func(m hyperstackListed) bool { return m.ID == h.vm })
}

// lives tells whether the provider still has the thing.
func (h *hyperstack) lives(ctx context.Context, clk provider.Clock, r hyperstackResource, id int64) (bool, *Failure) {
	call := "GET /" + strings.Replace(r.core, "%d", "{id}", 1)
	body, f := h.api.Get(ctx, clk, call, fmt.Sprintf(r.core, id), nil)
	if f.NotFound() {
		return false, nil
	}
	if f != nil {
		return false, f
	}
	var reply map[string]json.RawMessage
	if f := Decode(body, &reply); f != nil {
		return false, f.At(call)
	}
	var thing *struct {
		Status *string `json:"status"`
	}
	if raw, ok := reply[r.object]; ok {
		if f := Decode(raw, &thing); f != nil {
			return false, f.At(call)
		}
	}
	if thing == nil || thing.Status == nil {
		return false, Fail(Incomplete, "reply lacks %s or its status", r.object).At(call)
	}
	switch strings.ToUpper(*thing.Status) {
	case "DELETING", "DELETED":
		return false, nil
	}
	return true, nil
}

type hyperstackDead struct {
	name string
	id   int64
}

type hyperstackDeleted map[hyperstackDead]bool

// deleted lists what was deleted. It is one sign beside others: where it cannot be
// read, nothing is known by it.
func (h *hyperstack) deleted(ctx context.Context, clk provider.Clock) hyperstackDeleted {
	body, f := h.api.Get(ctx, clk, "GET /billing/billing/usage", "billing/billing/usage", url.Values{"deleted": {"true"}})
	if f != nil {
		return nil
	}
	return decodeHyperstackDeleted(body)
}

func decodeHyperstackDeleted(body []byte) hyperstackDeleted {
	var reply struct {
		Data []struct {
			ID     *int64 `json:"resource_id"`
			Type   string `json:"resource_type"` // its words are documented nowhere
			Active *bool  `json:"active"`
		} `json:"data"`
	}
	if Decode(body, &reply) != nil {
		return nil
	}
	all := make(hyperstackDeleted)
	for _, e := range reply.Data {
		if e.ID == nil || e.Active != nil && *e.Active {
			continue
		}
		word := strings.ToLower(e.Type)
		for _, c := range []struct{ part, name string }{
			{"snapshot", hyperstackSnapshot.name}, {"volume", hyperstackVolume.name},
			{"virtual", hyperstackVM.name}, {"vm", hyperstackVM.name}, {"instance", hyperstackVM.name},
		} {
			if strings.Contains(word, c.part) {
				all[hyperstackDead{c.name, *e.ID}] = true
				break
			}
		}
	}
	return all
}
