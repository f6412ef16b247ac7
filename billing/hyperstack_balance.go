package billing

import (
	"context"
	"time"
)

// Balances implements Witness. The account is prepaid, and credit is what is left of
// that; below zero its machines are suspended (hyperstack-sdk-go, api/openapi.yaml).
// The reply names no organisation.
func (h *hyperstack) Balances(ctx context.Context, now time.Time) (Balances, error) {
	const call = "GET /billing/user-credit/credit"
	body, f := h.api.get(ctx, startClock(now), call, "billing/user-credit/credit", nil)
	if f != nil {
		return Balances{}, f
	}
	b, f := decodeHyperstackCredit(body)
	if f != nil {
		return Balances{}, f.at(call)
	}
	return b, nil
}

func decodeHyperstackCredit(body []byte) (Balances, *Failure) {
	var reply struct {
		Data *struct {
			Credit *amount `json:"credit"`
		} `json:"data"`
	}
	if f := decode(body, &reply); f != nil {
		return Balances{}, f
	}
	if reply.Data == nil || reply.Data.Credit == nil {
		return Balances{}, fail(Incomplete, "reply has no credit")
	}
	return Balances{Credit: reply.Data.Credit.nanos()}, nil
}
