package billing

import (
	"context"
	"strconv"
	"time"
)

// Balances implements Witness.
func (v *vast) Balances(ctx context.Context, now time.Time) (Balances, error) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	b, f := v.balances(ctx, startClock(now))
	if f != nil {
		return Balances{}, f
	}
	return b, nil
}

// balances is also where a key shows that it is an account's: the first sample needs
// it for the account's id, and fails here with a hint where it is an instance's own.
func (v *vast) balances(ctx context.Context, clk clock) (Balances, *Failure) {
	const call = "GET /api/v0/users/current/"
	body, f := v.api.get(ctx, clk, call, "api/v0/users/current/", nil)
	if f != nil {
		if f.Class == HTTP4xx {
			f.WithHint(v.api.keyHint) // 404 is also the answer to a key that nobody has
		}
		return Balances{}, f
	}
	b, f := decodeVastBalances(body)
	if f != nil {
		return Balances{}, f.at(call)
	}
	return b, nil
}

func decodeVastBalances(body []byte) (Balances, *Failure) {
	var reply struct {
		ID      *int64  `json:"id"`
		Balance *amount `json:"balance"`
		Credit  *amount `json:"credit"`
	}
	if f := vastDecode(body, &reply); f != nil {
		return Balances{}, f
	}
	if reply.ID == nil || (reply.Balance == nil && reply.Credit == nil) {
		return Balances{}, fail(Incomplete, "reply lacks id, or both balance and credit")
	}
	return Balances{strconv.FormatInt(*reply.ID, 10), reply.Balance.nanos(), reply.Credit.nanos()}, nil
}
