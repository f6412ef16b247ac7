package api

import (
	"encoding/json"
	"errors"

	"spotinference/ledger"
)

// Amount is money in a reply: a JSON number, or a string that holds one, since
// APIs write the same field both ways. It is read from its digits. A field of this
// type is a pointer, for a missing amount is not zero.
type Amount ledger.Nanos

var errNotAmount = errors.New("an amount is not a decimal number within range")

func (a *Amount) UnmarshalJSON(b []byte) error {
	text := string(b)
	switch {
	case len(b) > 0 && b[0] == '"':
		if err := json.Unmarshal(b, &text); err != nil {
			return errNotAmount
		}
	case len(b) == 0 || (b[0] != '-' && (b[0] < '0' || b[0] > '9')):
		return errNotAmount
	}
	n, err := ledger.ParseNanos(text)
	if err != nil {
		return errNotAmount // without the text: it came from outside
	}
	*a = Amount(n)
	return nil
}

// Nanos returns nil for nil.
func (a *Amount) Nanos() *ledger.Nanos {
	if a == nil {
		return nil
	}
	n := ledger.Nanos(*a)
	return &n
}
