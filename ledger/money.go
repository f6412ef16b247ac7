package ledger

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Nanos is an amount of money in units of 1e-9 of the ledger's one currency. The
// ledger knows no other form of money; a float never holds one.
type Nanos int64

var errMoney = errors.New("not a decimal amount within ±9.2 billion")

// ParseNanos reads a JSON number, or the text inside a JSON string, and rounds
// it half away from zero to 1e-9. Exponents are bounded before any big number
// is built, so that no input costs more than its length.
func ParseNanos(text string) (Nanos, error) {
	fail := func() (Nanos, error) { return 0, fmt.Errorf("money %q: %w", clip(text), errMoney) }
	s := strings.TrimSpace(text)
	if s == "" || len(s) > 64 || strings.Trim(s, "0123456789+-.eE") != "" {
		return fail()
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		e, err := strconv.Atoi(s[i+1:])
		if err != nil || e < -60 || e > 18 {
			return fail()
		}
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return fail()
	}
	r.Mul(r, big.NewRat(1_000_000_000, 1))
	two := big.NewInt(2)
	n := new(big.Int).Mul(new(big.Int).Abs(r.Num()), two)
	n.Add(n, r.Denom()).Quo(n, new(big.Int).Mul(r.Denom(), two))
	if r.Sign() < 0 {
		n.Neg(n)
	}
	if !n.IsInt64() || n.Int64() == math.MinInt64 {
		return fail()
	}
	return Nanos(n.Int64()), nil
}

func clip(s string) string {
	if len(s) > 70 {
		return s[:70] + "…"
	}
	return s
}

// String writes n as a decimal with the digits that it has: "2.5", "-0.000000001", "0".
func (n Nanos) String() string { return DecimalText(big.NewInt(int64(n)), 9) }

// Text is what String writes, nil where n is: in JSON, what is not known is null.
func (n *Nanos) Text() *string {
	if n == nil {
		return nil
	}
	text := n.String()
	return &text
}

// DecimalText writes n ÷ 10^digits, without trailing zeros.
func DecimalText(n *big.Int, digits int) string {
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(digits)), nil)
	whole, frac := new(big.Int).QuoRem(new(big.Int).Abs(n), unit, new(big.Int))
	s := whole.String()
	if f := strings.TrimRight(fmt.Sprintf("%0*d", digits, frac), "0"); f != "" {
		s += "." + f
	}
	if n.Sign() < 0 {
		s = "-" + s
	}
	return s
}

// Add returns n + m. An overflow of ±9.2 billion units is no bill: it is an error.
func (n Nanos) Add(m Nanos) (Nanos, error) {
	s := n + m
	if (s > n) != (m > 0) && m != 0 {
		return 0, fmt.Errorf("sum of %s and %s: %w", n, m, errMoney)
	}
	return s, nil
}

// Sub returns n − m, or an error where that overflows.
func (n Nanos) Sub(m Nanos) (Nanos, error) {
	if m == math.MinInt64 {
		return 0, fmt.Errorf("difference of %s and %s: %w", n, m, errMoney)
	}
	return n.Add(-m)
}

// Currency returns code in upper case when it has the form of an ISO 4217 code.
func Currency(code string) (string, error) {
	c := strings.ToUpper(strings.TrimSpace(code))
	if len(c) != 3 || strings.Trim(c, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return "", fmt.Errorf("currency %q: not an ISO 4217 code", clip(code))
	}
	return c, nil
}

// Allot divides n by weights so that the parts add up to n exactly: each gets
// its share rounded towards zero, and what is left goes, a nano each, to those
// with the largest remainders, the first among equals. nil where no weight is
// positive.
func (n Nanos) Allot(weights []int64) []Nanos {
	sum := new(big.Int)
	for _, w := range weights {
		sum.Add(sum, big.NewInt(w))
	}
	if sum.Sign() <= 0 {
		return nil
	}
	abs, sign := new(big.Int).Abs(big.NewInt(int64(n))), Nanos(1)
	if n < 0 {
		sign = -1
	}
	parts, rests := make([]Nanos, len(weights)), make([]*big.Int, len(weights))
	left := new(big.Int).Set(abs)
	for i, w := range weights {
		q, rest := new(big.Int).QuoRem(new(big.Int).Mul(abs, big.NewInt(w)), sum, new(big.Int))
		parts[i], rests[i] = sign*Nanos(q.Int64()), rest
		left.Sub(left, q)
	}
	for ; left.Sign() > 0; left.Sub(left, big.NewInt(1)) {
		best := 0
		for i := range rests {
			if rests[i].Cmp(rests[best]) > 0 {
				best = i
			}
		}
		parts[best] += sign
		rests[best] = big.NewInt(-1)
	}
	return parts
}
