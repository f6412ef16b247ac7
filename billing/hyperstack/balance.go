package hyperstack

import (
	"context"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
)

// Balances implements BalanceReader. The account is prepaid, and credit is what is left of
// that; below zero its machines are suspended (hyperstack-sdk-go, api/openapi.yaml).
// The reply names no organisation.
func (h *adapter) Balances(ctx context.Context, now time.Time) (api.Balances, error) {
	const call = "GET /billing/user-credit/credit"
	body, f := h.api.Get(ctx, provider.StartClock(now), call, "billing/user-credit/credit", nil)
	if f != nil {
		return api.Balances{}, f
	}
	b, f := decodeCredit(body)
	if f != nil {
		return api.Balances{}, f.At(call)
	}
	return b, nil
}

func decodeCredit(body []byte) (api.Balances, *api.Failure) {
	var reply struct {
		Data *struct {
			Credit *api.Amount `json:"credit"`
		} `json:"data"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return api.Balances{}, f
	}
	if reply.Data == nil || reply.Data.Credit == nil {
		return api.Balances{}, api.Fail(api.Incomplete, "reply has no credit")
	}
	return api.Balances{Credit: reply.Data.Credit.Nanos()}, nil
}
