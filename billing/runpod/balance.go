package runpod

import (
	"context"
	"encoding/json"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
)

// Balances implements BalanceReader. REST v2 tells no balance; the older GraphQL API does
// (graphql-spec.runpod.io, User.clientBalance) until it is retired, which is announced
// for 2027: then nothing is known of the balance any more. It takes the key in the same
// header.
func (r *adapter) Balances(ctx context.Context, now time.Time) (api.Balances, error) {
	const (
		call  = "POST /graphql"
		query = `{"query":"query{myself{clientBalance}}"}`
	)
	body, f := r.api.Post(ctx, provider.StartClock(now), call, "graphql", []byte(query))
	if f != nil {
		return api.Balances{}, f
	}
	b, f := decodeBalance(body)
	if f != nil {
		return api.Balances{}, r.api.Redact(f).At(call)
	}
	return b, nil
}

// decodeBalance reads the reply, which is a 200 also where the query failed.
func decodeBalance(body []byte) (api.Balances, *api.Failure) {
	var reply struct {
		Errors []json.RawMessage `json:"errors"`
		Data   *struct {
			Myself *struct {
				Balance *api.Amount `json:"clientBalance"`
			} `json:"myself"`
		} `json:"data"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return api.Balances{}, f
	}
	switch {
	case len(reply.Errors) > 0:
		return api.Balances{}, api.Fail(api.Incomplete, "the query failed")
	case reply.Data == nil || reply.Data.Myself == nil || reply.Data.Myself.Balance == nil:
		return api.Balances{}, api.Fail(api.Incomplete, "reply has no clientBalance")
	}
	return api.Balances{Balance: reply.Data.Myself.Balance.Nanos()}, nil
}
