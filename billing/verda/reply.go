package verda

import (
	"slices"
	"strings"

	"spotinference/billing/api"
	"spotinference/ledger"
)

// decodeBalance reads the reply that the bill is made of.
func decodeBalance(body []byte) (ledger.Nanos, string, *api.Failure) {
	var reply struct {
		Amount   *api.Amount `json:"amount"`
		Currency *string     `json:"currency"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return 0, "", f
	}
	if reply.Amount == nil || reply.Currency == nil {
		return 0, "", api.Fail(api.Incomplete, "reply lacks amount or currency")
	}
	currency, err := ledger.Currency(*reply.Currency) // it comes in lower case
	if err != nil {
		return 0, "", api.Fail(api.Currency, "the balance is in no currency that has an ISO 4217 code")
	}
	return *reply.Amount.Nanos(), currency, nil
}

// instanceList is what the listing of instances says of the account.
type instanceList struct {
	ids     []string
	words   []string // their states, each once
	running bool
	rate    *ledger.Nanos // of those that run; nil where one does not tell
}

func (m instanceList) status() string {
	slices.Sort(m.words)
	return strings.Join(m.words, ",")
}

// decodeInstances reads the bare list of instances. They hold addresses and
// tokens of the user's: nothing is kept but these fields.
func decodeInstances(body []byte) (instanceList, *api.Failure) {
	var reply *[]struct {
		ID       *string     `json:"id"`
		Status   *string     `json:"status"`
		Price    *api.Amount `json:"price_per_hour"`
		Contract *string     `json:"contract"`
	}
	none := instanceList{}
	if f := api.Decode(body, &reply); f != nil {
		return none, f
	}
	if reply == nil {
		return none, api.Fail(api.Incomplete, "reply is no list")
	}
	var m instanceList
	total, known := ledger.Nanos(0), true
	for _, i := range *reply {
		if i.ID == nil || *i.ID == "" || i.Status == nil {
			return none, api.Fail(api.Incomplete, "listing has an instance without id or status")
		}
		if slices.Contains(m.ids, *i.ID) {
			return none, api.Fail(api.Incomplete, "listing names an instance twice")
		}
		m.ids = append(m.ids, *i.ID)
		if !slices.Contains(m.words, *i.Status) {
			m.words = append(m.words, *i.Status)
		}
		price := i.Price.Nanos()
		if price != nil && *price < 0 {
			return none, api.Fail(api.Malformed, "reply has an amount below zero")
		}
		if !isRunning(*i.Status) {
			continue
		}
		if i.Contract != nil && strings.EqualFold(*i.Contract, "LONG_TERM") {
			f := api.Fail(api.Incomplete, "an instance is under a long-term contract: its cost does not show in the balance by the minute")
			f.WithHint("use an account whose machines are paid as they go, or --provider none")
			return none, f
		}
		m.running = true
		if price == nil {
			known = false
			continue
		}
		var err error
		if total, err = total.Add(*price); err != nil {
			return none, api.Fail(api.Malformed, "add up price_per_hour: out of range")
		}
	}
	if known {
		m.rate = &total
	}
	return m, nil
}

// isRunning says whether an instance in this state is billed as running. A word
// that nobody has seen is taken to be.
func isRunning(status string) bool {
	switch strings.ToLower(status) {
	case "new", "ordered", "provisioning", "validating", "pending", "no_capacity", "error",
		"hibernating", "hibernated", "restoring", "discontinued", "deleting", "deleted", "notfound":
		return false
	}
	return true
}

// decodeVolumes returns what the account's volumes cost an hour, nil where one
// does not tell.
func decodeVolumes(body []byte, currency string) (*ledger.Nanos, *api.Failure) {
	var reply *[]struct {
		ID       *string     `json:"id"`
		Status   *string     `json:"status"`
		Cost     *api.Amount `json:"base_hourly_cost"`
		Currency *string     `json:"currency"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return nil, f
	}
	if reply == nil {
		return nil, api.Fail(api.Incomplete, "reply is no list")
	}
	total, known := ledger.Nanos(0), true
	seen := make(map[string]bool)
	for _, vol := range *reply {
		if vol.ID == nil || *vol.ID == "" || vol.Status == nil {
			return nil, api.Fail(api.Incomplete, "listing has a volume without id or status")
		}
		if seen[*vol.ID] {
			return nil, api.Fail(api.Incomplete, "listing names a volume twice")
		}
		seen[*vol.ID] = true
		if vol.Currency != nil && !strings.EqualFold(*vol.Currency, currency) {
			return nil, api.Fail(api.Currency, "a volume is not in %s, as the balance is", currency)
		}
		cost := vol.Cost.Nanos()
		if cost != nil && *cost < 0 {
			return nil, api.Fail(api.Malformed, "reply has an amount below zero")
		}
		switch strings.ToLower(*vol.Status) {
		case "ordered", "deleted", "deleting", "canceled", "canceling":
			continue
		}
		if cost == nil {
			known = false
			continue
		}
		var err error
		if total, err = total.Add(*cost); err != nil {
			return nil, api.Fail(api.Malformed, "add up base_hourly_cost: out of range")
		}
	}
	if !known {
		return nil, nil
	}
	return &total, nil
}
