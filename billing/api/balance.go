package api

import (
	"context"
	"time"

	"spotinference/ledger"
)

// Balances is what an account has left, in the provider's two words for it. Which of
// them moves with the bill is not documented everywhere; nil is not told.
type Balances struct {
	Account string
	Balance *ledger.Nanos
	Credit  *ledger.Nanos
}

// BalanceReader is a Provider that also tells what the whole account has left. A
// BalanceMonitor compares that with the sampled bills, and warns before the money ends.
// It is no line of a sample, for it would count the same money twice, and no condition
// of one: it covers every machine of the account and rises with a top-up, so it can
// neither replace a bill nor refute one.
type BalanceReader interface {
	Balances(ctx context.Context, now time.Time) (Balances, error)
}

// Left is the larger of the two words: the one that holds no prepaid money stands at
// zero, or below it, and must raise no alarm. It is not ok where neither is told.
func (b Balances) Left() (left ledger.Nanos, ok bool) {
	switch {
	case b.Balance == nil && b.Credit == nil:
		return 0, false
	case b.Balance == nil:
		return *b.Credit, true
	case b.Credit == nil:
		return *b.Balance, true
	}
	return max(*b.Balance, *b.Credit), true
}

// FellTo is by how much the account's money fell from b to c, below zero where it rose.
// Where both words moved they must have moved alike, or it is not known which of them
// is the money.
func (b Balances) FellTo(c Balances) (fell ledger.Nanos, ok bool) {
	if b.Account != c.Account || (b.Balance == nil) != (c.Balance == nil) || (b.Credit == nil) != (c.Credit == nil) {
		return 0, false
	}
	var falls []ledger.Nanos
	for _, word := range [][2]*ledger.Nanos{{b.Balance, c.Balance}, {b.Credit, c.Credit}} {
		if word[0] == nil {
			continue
		}
		d, err := word[0].Sub(*word[1])
		if err != nil {
			return 0, false
		}
		if d != 0 {
			falls = append(falls, d)
		}
	}
	switch {
	case len(falls) == 0:
		return 0, true
	case len(falls) == 2 && falls[0] != falls[1]:
		return 0, false
	}
	return falls[0], true
}
