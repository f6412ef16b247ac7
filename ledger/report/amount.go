package report

import (
	"fmt"
	"math/big"
	"strings"

	"spotinference/ledger"
)

// quotient is a ÷ b for b > 0, rounded half away from zero.
func quotient(a, b *big.Int) *big.Int {
	q := new(big.Int).Mul(new(big.Int).Abs(a), big.NewInt(2))
	q.Add(q, b)
	q.Quo(q, new(big.Int).Mul(b, big.NewInt(2)))
	if a.Sign() < 0 {
		q.Neg(q)
	}
	return q
}

// nanosPerMillion is net ÷ tokens × 1e6 in units of 1e-9, nil without tokens. It
// is exact until the one division. No int64 holds every such price.
func nanosPerMillion(net ledger.Nanos, tokens int64) *big.Int {
	if tokens <= 0 {
		return nil
	}
	return quotient(new(big.Int).Mul(big.NewInt(int64(net)), big.NewInt(1_000_000)), big.NewInt(tokens))
}

// perMillion is that price as a decimal.
func perMillion(net ledger.Nanos, tokens int64) *Decimal {
	return decimal(nanosPerMillion(net, tokens), 9)
}

// decimal is n ÷ 10^digits; nil where n is.
func decimal(n *big.Int, digits int) *Decimal {
	if n == nil {
		return nil
	}
	d := Decimal(ledger.DecimalText(n, digits))
	return &d
}

func nanosDecimal(n ledger.Nanos) *Decimal { return (*Decimal)(n.Text()) }

// share is part ÷ whole with four digits, "0.3720"; nil where there is no whole.
func share(part, whole int64) *Decimal {
	if whole <= 0 {
		return nil
	}
	q := quotient(new(big.Int).Mul(big.NewInt(part), big.NewInt(10_000)), big.NewInt(whole)).Int64()
	d := Decimal(fmt.Sprintf("%d.%04d", q/10_000, q%10_000))
	return &d
}

// percent is a share as a person reads it: "37.2%".
func percent(share *Decimal) string {
	if share == nil {
		return "-"
	}
	n, ok := new(big.Int).SetString(strings.Replace(string(*share), ".", "", 1), 10)
	if !ok {
		panic("BUG: not a share: " + string(*share))
	}
	tenths := quotient(n, big.NewInt(10)).Int64()
	return fmt.Sprintf("%d.%d%%", tenths/10, tenths%10)
}
