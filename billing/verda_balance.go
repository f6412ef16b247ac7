package billing

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"spotinference/ledger"
)

// bill turns a balance into a cumulative figure, and begins a new epoch where the
// old one cannot be read on.
func (v *verda) bill(balance ledger.Nanos, rate *ledger.Nanos, at time.Time) (ledger.Nanos, *Failure) {
	opening, last, seen := v.opening, v.balance, v.seen
	if !seen {
		opening, last, seen = v.resume()
	}
	v.rates = slices.DeleteFunc(v.rates, func(r verdaRate) bool { return at.Sub(r.at) > verdaStep+verdaLag })
	if rate != nil {
		v.rates = append(v.rates, verdaRate{at, *rate})
	}
	rise, err := balance.Sub(last)
	if seen && err != nil {
		return 0, Fail(Malformed, "the balance is out of range")
	}
	if !seen || rise > v.unit() {
		opening = verdaOpening{balance: balance, at: at}
	}
	bill, err := opening.balance.Sub(balance)
	if err != nil {
		return 0, Fail(Malformed, "the balance is out of range")
	}
	v.opening, v.balance, v.seen = opening, balance, true
	return bill, nil
}

// addRates returns nil where one of the two is not known.
func addRates(a, b *ledger.Nanos) (*ledger.Nanos, *Failure) {
	if a == nil || b == nil {
		return nil, nil
	}
	sum, err := a.Add(*b)
	if err != nil {
		return nil, Fail(Malformed, "add up the rates: out of range")
	}
	return &sum, nil
}

// unit is the most that can come back for a machine that stopped: ten minutes of
// what the account cost of late. No spend is made of it; it only tells a refund
// from a top-up.
func (v *verda) unit() ledger.Nanos {
	var most ledger.Nanos
	for _, r := range v.rates {
		most = max(most, r.rate)
	}
	return most/6 + 1
}

// resume finds the epoch that an earlier run was in, and its last balance.
func (v *verda) resume() (verdaOpening, ledger.Nanos, bool) {
	if v.history == nil {
		return verdaOpening{}, 0, false
	}
	epoch, bill, ok := v.history.Newest(v.resource())
	if !ok || bill == nil {
		return verdaOpening{}, 0, false
	}
	o, err := parseVerdaEpoch(epoch)
	if err != nil {
		return verdaOpening{}, 0, false
	}
	last, err := o.balance.Sub(*bill)
	return o, last, err == nil
}

// verdaOpening is where an epoch begins.
type verdaOpening struct {
	balance ledger.Nanos
	at      time.Time
}

const verdaEpochPrefix = "balance:"

// epoch holds all digits of the opening, so that it can be read back exactly.
func (o verdaOpening) epoch() string {
	return verdaEpochPrefix + o.balance.String() + "@" + o.at.UTC().Format(time.RFC3339)
}

func parseVerdaEpoch(epoch string) (verdaOpening, error) {
	bad := func() (verdaOpening, error) {
		return verdaOpening{}, fmt.Errorf("epoch %q: not of the form %s12.5@2006-01-02T15:04:05Z", epoch, verdaEpochPrefix)
	}
	text, ok := strings.CutPrefix(epoch, verdaEpochPrefix)
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
	o := verdaOpening{balance: n, at: at.UTC()}
	if o.epoch() != epoch {
		return bad()
	}
	return o, nil
}

// Balances implements BalanceReader: the bill is made of the balance, and the last sample
// has just read it. Nothing is asked for.
func (v *verda) Balances(context.Context, time.Time) (Balances, error) {
	if !v.seen {
		return Balances{}, Fail(Incomplete, "no balance was read yet").At(verdaBalance)
	}
	left := v.balance
	return Balances{Account: v.account, Balance: &left}, nil
}
