package billing

import (
	"context"
	"encoding/json"
	"time"

	"spotinference/internal/provider"
)

// Balances implements BalanceReader. REST v2 tells no balance; the older GraphQL API does
// (graphql-spec.runpod.io, User.clientBalance) until it is retired, which is announced
// for 2027: then nothing is known of the balance any more. It takes the key in the same
// header.
func (r *runpod) Balances(ctx context.Context, now time.Time) (Balances, error) {
	const (
		call  = "POST /graphql"
		query = `{"query":"query{myself{clientBalance}}"}`
	)
	body, f := r.api.Post(ctx, provider.StartClock(now), call, "graphql", []byte(query))
	if f != nil {
		return Balances{}, f
	}
	b, f := decodeRunpodBalance(body)
	if f != nil {
		return Balances{}, r.api.Redact(f).At(call)
	}
	return b, nil
}

// decodeRunpodBalance reads the reply, which is a 200 also where the query failed.
func decodeRunpodBalance(body []byte) (Balances, *Failure) {
	var reply struct {
		Errors []json.RawMessage `json:"errors"`
		Data   *struct {
			Myself *struct {
				Balance *Amount `json:"clientBalance"`
			} `json:"myself"`
		} `json:"data"`
	}
	if f := Decode(body, &reply); f != nil {
		return Balances{}, f
	}
	switch {
	case len(reply.Errors) > 0:
		return Balances{}, Fail(Incomplete, "the query failed")
	case reply.Data == nil || reply.Data.Myself == nil || reply.Data.Myself.Balance == nil:
		return Balances{}, Fail(Incomplete, "reply has no clientBalance")
	}
	return Balances{Balance: reply.Data.Myself.Balance.Nanos()}, nil
}
