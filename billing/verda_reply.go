package billing

import (
	"slices"
	"strings"

	"spotinference/ledger"
)

// decodeVerdaBalance reads the reply that the bill is made of.
func decodeVerdaBalance(body []byte) (ledger.Nanos, string, *Failure) {
	var reply struct {
		Amount   *Amount `json:"amount"`
		Currency *string `json:"currency"`
	}
	if f := Decode(body, &reply); f != nil {
		return 0, "", f
	}
	if reply.Amount == nil || reply.Currency == nil {
		return 0, "", Fail(Incomplete, "reply lacks amount or currency")
	}
	currency, err := ledger.Currency(*reply.Currency) // it comes in lower case
	if err != nil {
		return 0, "", Fail(Currency, "the balance is in no currency that has an ISO 4217 code")
	}
	return *reply.Amount.Nanos(), currency, nil
}

// verdaMachines is what the listing of instances says of the account.
type verdaMachines struct {
	ids     []string
	words   []string // their states, each once
	running bool
	rate    *ledger.Nanos // of those that run; nil where one does not tell
}

func (m verdaMachines) status() string {
	slices.Sort(m.words)
	return strings.Join(m.words, ",")
}

// decodeVerdaInstances reads the bare list of instances. They hold addresses and
// tokens of the user's: nothing is kept but these fields.
func decodeVerdaInstances(body []byte) (verdaMachines, *Failure) {
	var reply *[]struct {
		ID       *string `json:"id"`
		Status   *string `json:"status"`
		Price    *Amount `json:"price_per_hour"`
		Contract *string `json:"contract"`
	}
	none := verdaMachines{}
	if f := Decode(body, &reply); f != nil {
		return none, f
	}
	if reply == nil {
		return none, Fail(Incomplete, "reply is no list")
	}
	var m verdaMachines
	total, known := ledger.Nanos(0), true
	for _, i := range *reply {
		if i.ID == nil || *i.ID == "" || i.Status == nil {
			return none, Fail(Incomplete, "listing has an instance without id or status")
		}
		if slices.Contains(m.ids, *i.ID) {
			return none, Fail(Incomplete, "listing names an instance twice")
		}
		m.ids = append(m.ids, *i.ID)
		if !slices.Contains(m.words, *i.Status) {
			m.words = append(m.words, *i.Status)
		}
		price := i.Price.Nanos()
		if price != nil && *price < 0 {
			return none, Fail(Malformed, "reply has an amount below zero")
		}
		if !verdaRuns(*i.Status) {
			continue
		}
		if i.Contract != nil && strings.EqualFold(*i.Contract, "LONG_TERM") {
			f := Fail(Incomplete, "an instance is under a long-term contract: its cost does not show in the balance by the minute")
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
			return none, Fail(Malformed, "add up price_per_hour: out of range")
		}
	}
	if known {
		m.rate = &total
	}
	return m, nil
}

// verdaRuns says whether an instance in this state is billed as running. A word
// that nobody has seen is taken to be.
func verdaRuns(status string) bool {
	switch strings.ToLower(status) {
	case "new", "ordered", "provisioning", "validating", "pending", "no_capacity", "error",
		"hibernating", "hibernated", "restoring", "discontinued", "deleting", "deleted", "notfound":
		return false
	}
	return true
}

// decodeVerdaVolumes returns what the account's volumes cost an hour, nil where one
// does not tell.
func decodeVerdaVolumes(body []byte, currency string) (*ledger.Nanos, *Failure) {
	var reply *[]struct {
		ID       *string `json:"id"`
		Status   *string `json:"status"`
		Cost     *Amount `json:"base_hourly_cost"`
		Currency *string `json:"currency"`
	}
	if f := Decode(body, &reply); f != nil {
		return nil, f
	}
	if reply == nil {
		return nil, Fail(Incomplete, "reply is no list")
	}
	total, known := ledger.Nanos(0), true
	seen := make(map[string]bool)
	for _, vol := range *reply {
		if vol.ID == nil || *vol.ID == "" || vol.Status == nil {
			return nil, Fail(Incomplete, "listing has a volume without id or status")
		}
		if seen[*vol.ID] {
			return nil, Fail(Incomplete, "listing names a volume twice")
		}
		seen[*vol.ID] = true
		if vol.Currency != nil && !strings.EqualFold(*vol.Currency, currency) {
			return nil, Fail(Currency, "a volume is not in %s, as the balance is", currency)
		}
		cost := vol.Cost.Nanos()
		if cost != nil && *cost < 0 {
			return nil, Fail(Malformed, "reply has an amount below zero")
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
			return nil, Fail(Malformed, "add up base_hourly_cost: out of range")
		}
	}
	if !known {
		return nil, nil
	}
	return &total, nil
}
