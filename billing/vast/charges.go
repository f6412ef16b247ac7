package vast

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

const chargesCall = "GET /api/v0/charges/"

// charges lists what every contract of the account was charged from one midnight
// up to another. A listing that does not add up, or that moved while its pages were
// read, is no listing.
func (v *adapter) charges(ctx context.Context, clk provider.Clock, from, to time.Time) ([]charge, *api.Failure) {
	const maxPages = 100
	query := url.Values{
		"select_filters": {fmt.Sprintf(`{"day":{"gte":%d,"lte":%d},"type":{"in":["instance","volume"]}}`, from.Unix(), to.Unix()-1)},
		"format":         {"table"},
		"limit":          {strconv.Itoa(pageSize)},
	}
	var all []charge
	total := 0
	for n := 1; n <= maxPages; n++ {
		body, f := v.api.Get(ctx, clk, chargesCall, "api/v0/charges/", query)
		if f != nil {
			return nil, f
		}
		page, f := decodeCharges(body)
		if f != nil {
			return nil, f.At(chargesCall)
		}
		if n > 1 && page.total != total {
			return nil, api.Fail(api.Incomplete, "listing moved between its pages: %d charges, then %d", total, page.total).At(chargesCall)
		}
		total = page.total
		all = append(all, page.charges...)
		if page.next == "" {
			if len(all) != total {
				return nil, api.Fail(api.Incomplete, "listing has %d of %d charges", len(all), total).At(chargesCall)
			}
			return all, nil
		}
		query.Set("after_token", page.next)
	}
	return nil, api.Fail(api.Incomplete, "listing does not end within %d pages", maxPages).At(chargesCall)
}

// charge is what one contract was charged inside a window.
type charge struct {
	source string
	amount ledger.Nanos
	raw    json.RawMessage // the entry as it came
}

type chargesPage struct {
	charges []charge
	total   int
	next    string // "" on the last page
}

// decodeCharges reads a page of the listing. It is pure, and takes bytes from
// anywhere.
func decodeCharges(body []byte) (chargesPage, *api.Failure) {
	var reply struct {
		Success *bool              `json:"success"`
		Count   *int               `json:"count"`
		Total   *int               `json:"total"`
		Next    *string            `json:"next_token"`
		Money   *string            `json:"currency"` // not in the API today
		Results *[]json.RawMessage `json:"results"`
	}
	none := chargesPage{}
	if f := decode(body, &reply); f != nil {
		return none, f
	}
	switch {
	case reply.Success == nil || reply.Count == nil || reply.Total == nil || reply.Results == nil:
		return none, api.Fail(api.Incomplete, "reply lacks one of success, count, total, results")
	case *reply.Count != len(*reply.Results):
		return none, api.Fail(api.Incomplete, "page has %d of %d charges", len(*reply.Results), *reply.Count)
	case reply.Money != nil && !strings.EqualFold(*reply.Money, "USD"):
		return none, api.Fail(api.Currency, "charges are not in USD")
	}
	page := chargesPage{total: *reply.Total}
	if reply.Next != nil {
		page.next = *reply.Next
	}
	for _, raw := range *reply.Results {
		var e struct {
			Source *string     `json:"source"`
			Amount *api.Amount `json:"amount"`
			Money  *string     `json:"currency"`
		}
		if f := api.Decode(raw, &e); f != nil {
			return none, f
		}
		switch {
		case e.Source == nil || e.Amount == nil:
			return none, api.Fail(api.Incomplete, "reply has a charge without source or amount")
		case e.Money != nil && !strings.EqualFold(*e.Money, "USD"):
			return none, api.Fail(api.Currency, "charges are not in USD")
		}
		page.charges = append(page.charges, charge{*e.Source, ledger.Nanos(*e.Amount), raw})
	}
	return page, nil
}

// billOf adds up the charges of one contract, and returns them as they came, in a
// JSON array: the listing is of the whole account, and grows with it.
func billOf(all []charge, source string) (ledger.Nanos, []byte, *api.Failure) {
	var total ledger.Nanos
	var raws [][]byte
	seen := make(map[string]bool)
	for _, c := range all {
		if c.source != source {
			continue
		}
		if c.amount < 0 {
			return 0, nil, api.Fail(api.Malformed, "reply has an amount below zero")
		}
		if seen[string(c.raw)] {
			return 0, nil, api.Fail(api.Incomplete, "listing moved between its pages: a charge came twice")
		}
		seen[string(c.raw)] = true
		var err error
		if total, err = total.Add(c.amount); err != nil {
			return 0, nil, api.Fail(api.Malformed, "add up amounts: out of range")
		}
		raws = append(raws, c.raw)
	}
	if raws == nil {
		return 0, nil, api.Fail(api.Incomplete, "no charge of %s is listed: no data, which is not a zero bill", source)
	}
	return total, append(append([]byte("["), bytes.Join(raws, []byte(","))...), ']'), nil
}
