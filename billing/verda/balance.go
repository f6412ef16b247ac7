package verda

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/ledger"
)

// bill turns a balance into a cumulative figure, and begins a new epoch where the
// old one cannot be read on.
func (v *adapter) bill(balance ledger.Nanos, rate *ledger.Nanos, at time.Time) (ledger.Nanos, *api.Failure) {
	opening, last, seen := v.opening, v.balance, v.seen
	if !seen {
		opening, last, seen = v.resume()
	}
	v.rates = slices.DeleteFunc(v.rates, func(r accountRate) bool { return at.Sub(r.at) > step+lag })
	if rate != nil {
		v.rates = append(v.rates, accountRate{at, *rate})
	}
	rise, err := balance.Sub(last)
	if seen && err != nil {
		return 0, api.Fail(api.Malformed, "the balance is out of range")
	}
	if !seen || rise > v.unit() {
		opening = openingBalance{balance: balance, at: at}
	}
	bill, err := opening.balance.Sub(balance)
	if err != nil {
		return 0, api.Fail(api.Malformed, "the balance is out of range")
	}
	v.opening, v.balance, v.seen = opening, balance, true
	return bill, nil
}

// addRates returns nil where one of the two is not known.
func addRates(a, b *ledger.Nanos) (*ledger.Nanos, *api.Failure) {
	if a == nil || b == nil {
		return nil, nil
	}
	sum, err := a.Add(*b)
	if err != nil {
		return nil, api.Fail(api.Malformed, "add up the rates: out of range")
	}
	return &sum, nil
}

// unit is the most that can come back for a machine that stopped: ten minutes of
// what the account cost of late. No spend is made of it; it only tells a refund
// from a top-up.
func (v *adapter) unit() ledger.Nanos {
	var most ledger.Nanos
	for _, r := range v.rates {
		most = max(most, r.rate)
	}
	return most/6 + 1
}

// resume finds the epoch that an earlier run was in, and its last balance.
func (v *adapter) resume() (openingBalance, ledger.Nanos, bool) {
	if v.history == nil {
		return openingBalance{}, 0, false
	}
	epoch, bill, ok := v.history.Newest(v.resource())
	if !ok || bill == nil {
		return openingBalance{}, 0, false
	}
	o, err := parseEpoch(epoch)
	if err != nil {
		return openingBalance{}, 0, false
	}
	last, err := o.balance.Sub(*bill)
	return o, last, err == nil
}

// openingBalance is where an epoch begins.
type openingBalance struct {
	balance ledger.Nanos
	at      time.Time
}

const epochPrefix = "balance:"

// epoch holds all digits of the opening, so that it can be read back exactly.
func (o openingBalance) epoch() string {
	return epochPrefix + o.balance.String() + "@" + o.at.UTC().Format(time.RFC3339)
}

func parseEpoch(epoch string) (openingBalance, error) {
	bad := func() (openingBalance, error) {
		return openingBalance{}, fmt.Errorf("epoch %q: not of the form %s12.5@2006-01-02T15:04:05Z", epoch, epochPrefix)
	}
	text, ok := strings.CutPrefix(epoch, epochPrefix)
	amount, when, split := strings.Cut(text, "@")
	if !ok || !split {
		return bad()
	}
	n, err := ledger.ParseNanos(amount)
	if err != nil {
		return bad()
	}
	at, err := time.Parse(time.RFC3339, when)
	if err != nil {
		return bad()
	}
	o := openingBalance{balance: n, at: at.UTC()}
	if o.epoch() != epoch {
		return bad()
	}
	return o, nil
}

// Balances implements BalanceReader: the bill is made of the balance, and the last sample
// has just read it. Nothing is asked for.
func (v *adapter) Balances(context.Context, time.Time) (api.Balances, error) {
	if !v.seen {
		return api.Balances{}, api.Fail(api.Incomplete, "no balance was read yet").At(balanceCall)
	}
	left := v.balance
	return api.Balances{Account: v.account, Balance: &left}, nil
}
