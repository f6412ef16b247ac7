package billing

import (
	"context"
	"strconv"
	"time"

	"spotinference/internal/provider"
)

// Balances implements BalanceReader.
func (v *vast) Balances(ctx context.Context, now time.Time) (Balances, error) {
	ctx, cancel := context.WithTimeout(ctx, SampleTimeout)
	defer cancel()
	b, f := v.balances(ctx, provider.StartClock(now))
	if f != nil {
		return Balances{}, f
	}
	return b, nil
}

// balances is also where a key shows that it is an account's: the first sample needs
// it for the account's id, and fails here with a hint where it is an instance's own.
func (v *vast) balances(ctx context.Context, clk provider.Clock) (Balances, *Failure) {
	const call = "GET /api/v0/users/current/"
	body, f := v.api.Get(ctx, clk, call, "api/v0/users/current/", nil)
	if f != nil {
		if f.Class == HTTP4xx {
			f.WithHint(v.keyHint) // 404 is also the answer to a key that nobody has
		}
		return Balances{}, f
	}
	b, f := decodeVastBalances(body)
	if f != nil {
		return Balances{}, f.At(call)
	}
	return b, nil
}

func decodeVastBalances(body []byte) (Balances, *Failure) {
	var reply struct {
		ID      *int64  `json:"id"`
		Balance *Amount `json:"balance"`
		Credit  *Amount `json:"credit"`
	}
	if f := vastDecode(body, &reply); f != nil {
		return Balances{}, f
	}
	if reply.ID == nil || (reply.Balance == nil && reply.Credit == nil) {
		return Balances{}, Fail(Incomplete, "reply lacks id, or both balance and credit")
	}
	return Balances{strconv.FormatInt(*reply.ID, 10), reply.Balance.Nanos(), reply.Credit.Nanos()}, nil
}
