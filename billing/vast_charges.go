package billing

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"spotinference/internal/provider"
	"spotinference/ledger"
)

const vastCharges = "GET /api/v0/charges/"

// charges lists what every contract of the account was charged from one midnight
// up to another. A listing that does not add up, or that moved while its pages were
// read, is no listing.
func (v *vast) charges(ctx context.Context, clk provider.Clock, from, to time.Time) ([]vastCharge, *Failure) {
	const maxPages = 100
	query := url.Values{
		"select_filters": {fmt.Sprintf(`{"day":{"gte":%d,"lte":%d},"type":{"in":["instance","volume"]}}`, from.Unix(), to.Unix()-1)},
		"format":         {"table"},
		"limit":          {strconv.Itoa(vastPage)},
	}
	var all []vastCharge
	total := 0
	for n := 1; n <= maxPages; n++ {
		body, f := v.api.Get(ctx, clk, vastCharges, "api/v0/charges/", query)
		if f != nil {
			return nil, f
		}
		page, f := decodeVastCharges(body)
		if f != nil {
			return nil, f.At(vastCharges)
		}
		if n > 1 && page.total != total {
			return nil, Fail(Incomplete, "listing moved between its pages: %d charges, then %d", total, page.total).At(vastCharges)
		}
		total = page.total
		all = append(all, page.charges...)
		if page.next == "" {
			if len(all) != total {
				return nil, Fail(Incomplete, "listing has %d of %d charges", len(all), total).At(vastCharges)
			}
			return all, nil
		}
		query.Set("after_token", page.next)
	}
	return nil, Fail(Incomplete, "listing does not end within %d pages", maxPages).At(vastCharges)
}

// vastCharge is what one contract was charged inside a window.
type vastCharge struct {
	source string
	amount ledger.Nanos
	raw    json.RawMessage // the entry as it came
}

type vastChargesPage struct {
	charges []vastCharge
	total   int
	next    string // "" on the last page
}

// decodeVastCharges reads a page of the listing. It is pure, and takes bytes from
// anywhere.
func decodeVastCharges(body []byte) (vastChargesPage, *Failure) {
	var reply struct {
		Success *bool              `json:"success"`
		Count   *int               `json:"count"`
		Total   *int               `json:"total"`
		Next    *string            `json:"next_token"`
		Money   *string            `json:"currency"` // not in the API today
		Results *[]json.RawMessage `json:"results"`
	}
	none := vastChargesPage{}
	if f := vastDecode(body, &reply); f != nil {
		return none, f
	}
	switch {
	case reply.Success == nil || reply.Count == nil || reply.Total == nil || reply.Results == nil:
		return none, Fail(Incomplete, "reply lacks one of success, count, total, results")
	case *reply.Count != len(*reply.Results):
		return none, Fail(Incomplete, "page has %d of %d charges", len(*reply.Results), *reply.Count)
	case reply.Money != nil && !strings.EqualFold(*reply.Money, "USD"):
		return none, Fail(Currency, "charges are not in USD")
	}
	page := vastChargesPage{total: *reply.Total}
	if reply.Next != nil {
		page.next = *reply.Next
	}
	for _, raw := range *reply.Results {
		var e struct {
			Source *string `json:"source"`
			Amount *Amount `json:"amount"`
			Money  *string `json:"currency"`
		}
		if f := Decode(raw, &e); f != nil {
			return none, f
		}
		switch {
		case e.Source == nil || e.Amount == nil:
			return none, Fail(Incomplete, "reply has a charge without source or amount")
		case e.Money != nil && !strings.EqualFold(*e.Money, "USD"):
			return none, Fail(Currency, "charges are not in USD")
		}
		page.charges = append(page.charges, vastCharge{*e.Source, ledger.Nanos(*e.Amount), raw})
	}
	return page, nil
}

// vastBill adds up the charges of one contract, and returns them as they came, in a
// JSON array: the listing is of the whole account, and grows with it.
func vastBill(all []vastCharge, source string) (ledger.Nanos, []byte, *Failure) {
	var total ledger.Nanos
	var raws [][]byte
	seen := make(map[string]bool)
	for _, c := range all {
		if c.source != source {
			continue
		}
		if c.amount < 0 {
			return 0, nil, Fail(Malformed, "reply has an amount below zero")
		}
		if seen[string(c.raw)] {
			return 0, nil, Fail(Incomplete, "listing moved between its pages: a charge came twice")
		}
		seen[string(c.raw)] = true
		var err error
		if total, err = total.Add(c.amount); err != nil {
			return 0, nil, Fail(Malformed, "add up amounts: out of range")
		}
		raws = append(raws, c.raw)
	}
	if raws == nil {
		return 0, nil, Fail(Incomplete, "no charge of %s is listed: no data, which is not a zero bill", source)
	}
	return total, append(append([]byte("["), bytes.Join(raws, []byte(","))...), ']'), nil
}
