package vast

import (
	"context"
	"strconv"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
)

// Balances implements BalanceReader.
func (v *adapter) Balances(ctx context.Context, now time.Time) (api.Balances, error) {
	ctx, cancel := context.WithTimeout(ctx, api.SampleTimeout)
	defer cancel()
	b, f := v.balances(ctx, provider.StartClock(now))
	if f != nil {
		return api.Balances{}, f
	}
	return b, nil
}

// balances is also where a key shows that it is an account's: the first sample needs
// it for the account's id, and fails here with a hint where it is an instance's own.
func (v *adapter) balances(ctx context.Context, clk provider.Clock) (api.Balances, *api.Failure) {
	const call = "GET /api/v0/users/current/"
	body, f := v.api.Get(ctx, clk, call, "api/v0/users/current/", nil)
	if f != nil {
		if f.Class == api.HTTP4xx {
			f.WithHint(v.keyHint) // 404 is also the answer to a key that nobody has
		}
		return api.Balances{}, f
	}
	b, f := decodeBalances(body)
	if f != nil {
		return api.Balances{}, f.At(call)
	}
	return b, nil
}

func decodeBalances(body []byte) (api.Balances, *api.Failure) {
	var reply struct {
		ID      *int64      `json:"id"`
		Balance *api.Amount `json:"balance"`
		Credit  *api.Amount `json:"credit"`
	}
	if f := decode(body, &reply); f != nil {
		return api.Balances{}, f
	}
	if reply.ID == nil || (reply.Balance == nil && reply.Credit == nil) {
		return api.Balances{}, api.Fail(api.Incomplete, "reply lacks id, or both balance and credit")
	}
	return api.Balances{Account: strconv.FormatInt(*reply.ID, 10), Balance: reply.Balance.Nanos(), Credit: reply.Credit.Nanos()}, nil
}
