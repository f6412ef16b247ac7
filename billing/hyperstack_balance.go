package billing

import (
	"context"
	"time"

	"spotinference/internal/provider"
)

// Balances implements BalanceReader. The account is prepaid, and credit is what is left of
// that; below zero its machines are suspended (hyperstack-sdk-go, api/openapi.yaml).
// The reply names no organisation.
func (h *hyperstack) Balances(ctx context.Context, now time.Time) (Balances, error) {
	const call = "GET /billing/user-credit/credit"
	body, f := h.api.Get(ctx, provider.StartClock(now), call, "billing/user-credit/credit", nil)
	if f != nil {
		return Balances{}, f
	}
	b, f := decodeHyperstackCredit(body)
	if f != nil {
		return Balances{}, f.At(call)
	}
	return b, nil
}

func decodeHyperstackCredit(body []byte) (Balances, *Failure) {
	var reply struct {
		Data *struct {
			Credit *Amount `json:"credit"`
		} `json:"data"`
	}
	if f := Decode(body, &reply); f != nil {
		return Balances{}, f
	}
	if reply.Data == nil || reply.Data.Credit == nil {
		return Balances{}, Fail(Incomplete, "reply has no credit")
	}
	return Balances{Credit: reply.Data.Credit.Nanos()}, nil
}
