package billing

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// Balances implements Witness. REST v2 tells no balance; the older GraphQL API does
// (graphql-spec.runpod.io, User.clientBalance) until it is retired, which is announced
// for 2027: then nothing is known of the balance any more. It takes the key in the same
// header. A query is sent once and not again: the next look is the next try.
func (r *runpod) Balances(ctx context.Context, now time.Time) (Balances, error) {
	const call = "POST /graphql"
	b, f := r.balances(ctx, startClock(now))
	if f != nil {
		f.Err = scrub(f.Err, r.api.secrets)
		return Balances{}, f.at(call)
	}
	return b, nil
}

func (r *runpod) balances(ctx context.Context, clk clock) (Balances, *Failure) {
	const query = `{"query":"query{myself{clientBalance}}"}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.api.base.JoinPath("graphql").String(), bytes.NewReader([]byte(query)))
	if err != nil {
		return Balances{}, fail(Internal, "build request: %w", bare(err))
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "spotinference")
	r.api.authorize(req.Header)
	body, f := send(r.api.http, req, clk)
	if f != nil {
		return Balances{}, f
	}
	return decodeRunpodBalance(body)
}

// decodeRunpodBalance reads the reply, which is a 200 also where the query failed.
func decodeRunpodBalance(body []byte) (Balances, *Failure) {
	var reply struct {
		Errors []json.RawMessage `json:"errors"`
		Data   *struct {
			Myself *struct {
				Balance *amount `json:"clientBalance"`
			} `json:"myself"`
		} `json:"data"`
	}
	if f := decode(body, &reply); f != nil {
		return Balances{}, f
	}
	switch {
	case len(reply.Errors) > 0:
		return Balances{}, fail(Incomplete, "the query failed")
	case reply.Data == nil || reply.Data.Myself == nil || reply.Data.Myself.Balance == nil:
		return Balances{}, fail(Incomplete, "reply has no clientBalance")
	}
	return Balances{Balance: reply.Data.Myself.Balance.nanos()}, nil
}
