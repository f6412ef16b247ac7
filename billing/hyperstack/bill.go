package hyperstack

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

// line reads the bill of one resource from its anchor to the end of s, whose account
// it fills in.
func (h *adapter) line(ctx context.Context, clk provider.Clock, s *ledger.Sample, r resourceKind, id int64, created, anchor time.Time) (ledger.Line, *api.Failure) {
	resource := resourceName(r, id)
	if anchor.After(s.At) {
		return ledger.Line{}, api.Fail(api.ClockSkew, "the series of %s starts at %s, which is still to come", resource, anchor.Format(time.RFC3339)).At(r.call)
	}
	body, f := h.api.Get(ctx, clk, r.call, fmt.Sprintf(r.path, id), windowQuery(anchor, s.At))
	if f != nil {
		return ledger.Line{}, f
	}
	bill, f := decodeBill(r, id, body)
	if f != nil {
		return ledger.Line{}, f.At(r.call)
	}
	if s.Account == "" {
		s.Account = bill.account
	}
	if bill.account != s.Account {
		return ledger.Line{}, api.Fail(api.Malformed, "the bills of one machine name two organisations").At(r.call)
	}
	return ledger.Line{
		Resource: resource,
		Kind:     r.kind,
		Rate:     bill.rate,
		Bill:     &bill.total,
		Epoch:    api.Epoch(anchor),
		Created:  created,
		Raw:      h.api.Keep(body),
	}, nil
}

// resourceKind is a kind of thing that has a bill.
type resourceKind struct {
	name     string
	kind     ledger.Kind
	call     string
	path     string
	envelope string
	core     string // where the thing itself is, and under which name
	object   string
}

var (
	kindVM = resourceKind{
		name: "vm", kind: ledger.Instance,
		call:     "GET /billing/billing/history/virtual-machine/{id}",
		path:     "billing/billing/history/virtual-machine/%d",
		envelope: "billing_history_vm_details",
		core:     "core/virtual-machines/%d", object: "instance",
	}
	kindVolume = resourceKind{
		name: "volume", kind: ledger.Volume,
		call:     "GET /billing/billing/history/volume/{id}",
		path:     "billing/billing/history/volume/%d",
		envelope: "billing_history_volume_details",
		core:     "core/volumes/%d", object: "volume",
	}
	// The API answers a snapshot's bill as it does a volume's.
	kindSnapshot = resourceKind{
		name: "snapshot", kind: ledger.Other,
		call:     "GET /billing/billing/history/snapshot/{id}",
		path:     "billing/billing/history/snapshot/%d",
		envelope: "billing_history_volume_details",
		core:     "core/snapshots/%d", object: "snapshot",
	}
)

func resourceName(r resourceKind, id int64) string { return fmt.Sprintf("%s-%d", r.name, id) }

// parseResource is the inverse of resourceName.
func parseResource(resource string) (resourceKind, int64, bool) {
	for _, r := range []resourceKind{kindVM, kindVolume, kindSnapshot} {
		if text, ok := strings.CutPrefix(resource, r.name+"-"); ok {
			id, err := strconv.ParseInt(text, 10, 64)
			return r, id, err == nil && id > 0
		}
	}
	return resourceKind{}, 0, false
}

type billReply struct {
	account string
	total   ledger.Nanos
	rate    *ledger.Nanos // nil where the entries do not agree on one
}

// decodeBill reads a billing reply. It is pure, and takes bytes from
// anywhere.
func decodeBill(r resourceKind, id int64, body []byte) (billReply, *api.Failure) {
	type details struct {
		OrgID   *int64  `json:"org_id"`
		Count   *int64  `json:"total_count"`
		Money   *string `json:"currency"` // not in the API today
		History []struct {
			Attributes struct {
				ID *int64 `json:"infrahub_id"`
			} `json:"attributes"`
			Metrics struct {
				Bill *api.Amount `json:"incurred_bill"` // after discounts, as the invoice will have it
				Rate *api.Amount `json:"price_per_hour"`
			} `json:"metrics"`
		} `json:"billing_history"`
	}
	var reply struct {
		VM     *details `json:"billing_history_vm_details"`
		Volume *details `json:"billing_history_volume_details"`
	}
	none := billReply{}
	if f := api.Decode(body, &reply); f != nil {
		return none, f
	}
	d := reply.VM
	if r.envelope == "billing_history_volume_details" {
		d = reply.Volume
	}
	switch {
	case d == nil:
		return none, api.Fail(api.Incomplete, "reply has no %s", r.envelope)
	case d.Money != nil && !strings.EqualFold(*d.Money, "USD"):
		return none, api.Fail(api.Currency, "bill is not in USD")
	case d.OrgID == nil:
		return none, api.Fail(api.Incomplete, "reply has no org_id")
	case len(d.History) == 0:
		return none, api.Fail(api.Incomplete, "billing_history is empty: no data, which is not a zero bill")
	case d.Count != nil && *d.Count != int64(len(d.History)):
		return none, api.Fail(api.Incomplete, "billing_history has %d of %d entries", len(d.History), *d.Count)
	}
	bill := billReply{account: strconv.FormatInt(*d.OrgID, 10)}
	agree := true
	for i, e := range d.History {
		if e.Attributes.ID != nil && *e.Attributes.ID != id {
			return none, api.Fail(api.Malformed, "the bill is of %s %d, not of %d", r.name, *e.Attributes.ID, id)
		}
		part, rate := e.Metrics.Bill.Nanos(), e.Metrics.Rate.Nanos()
		if part == nil {
			return none, api.Fail(api.Incomplete, "reply has no incurred_bill")
		}
		if *part < 0 || (rate != nil && *rate < 0) {
			return none, api.Fail(api.Malformed, "reply has an amount below zero")
		}
		var err error
		if bill.total, err = bill.total.Add(*part); err != nil {
			return none, api.Fail(api.Malformed, "add up incurred_bill: out of range")
		}
		if i == 0 {
			bill.rate = rate
		}
		agree = agree && rate != nil && bill.rate != nil && *rate == *bill.rate
	}
	if !agree {
		bill.rate = nil
	}
	return bill, nil
}
