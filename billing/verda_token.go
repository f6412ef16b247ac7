package billing

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"spotinference/internal/provider"
)

// Verda's API takes a token: OAuth 2.0 client credentials (RFC 6749, section 4.4), as
// verdacloud-sdk-go, pkg/verda/auth.go, asks for them. A token is refreshed half a
// minute before it ends; where that is refused, the credentials are sent again.

const (
	verdaTokenCall  = "POST /oauth2/token"
	verdaEarly      = 30 * time.Second
	maxTokenBytes   = 8 << 10
	maxTokenSeconds = 366 * 24 * 3600
)

// verdaToken is the answer to a grant.
type verdaToken struct {
	access    string
	refresh   string // "" where none came
	expiresIn time.Duration
}

// verdaAuth holds the credentials, and what they were last exchanged for.
type verdaAuth struct {
	api        *Client
	client     *provider.Client // under api: it authorizes by token
	id, secret string
	keyHint    string

	token verdaToken
	ends  time.Time // of token, by the monotonic clock
}

// ensure leaves a token that is good for a while, and reports whether it had to be
// asked for.
func (a *verdaAuth) ensure(ctx context.Context, clk provider.Clock) (asked bool, f *Failure) {
	if a.token.access != "" && time.Until(a.ends) > verdaEarly {
		return false, nil
	}
	refresh := a.token.refresh
	a.drop()
	if refresh != "" {
		if f := a.grant(ctx, clk, map[string]string{"grant_type": "refresh_token", "refresh_token": refresh}); f == nil {
			return true, nil
		} else if ctx.Err() != nil {
			return true, f
		}
	}
	form := map[string]string{"grant_type": "client_credentials", "client_id": a.id, "client_secret": a.secret}
	return true, Retry(ctx, func() *Failure { return a.grant(ctx, clk, form) })
}

// drop forgets the token: it ended, or was withdrawn before its end.
func (a *verdaAuth) drop() {
	a.token, a.ends = verdaToken{}, time.Time{}
	a.client.Authorize = nil
}

// grant exchanges form for a token. A grant that is asked for twice does no harm.
func (a *verdaAuth) grant(ctx context.Context, clk provider.Clock, form map[string]string) *Failure {
	asked := time.Now()
	b, err := json.Marshal(form)
	if err != nil {
		return Fail(Internal, "build request: %w", err).At(verdaTokenCall)
	}
	body, f := a.api.Post(ctx, clk, verdaTokenCall, "oauth2/token", b)
	if f != nil {
		if f.Class == HTTP4xx {
			f.WithHint(a.keyHint)
		}
		return f
	}
	token, f := decodeVerdaToken(body)
	if f != nil {
		return a.api.Redact(f).At(verdaTokenCall)
	}
	a.token, a.ends = token, asked.Add(token.expiresIn)
	a.client.Authorize = provider.Bearer(token.access)
	a.client.Secrets = provider.Secrets{a.secret, token.access}
	if token.refresh != "" {
		a.client.Secrets = append(a.client.Secrets, token.refresh)
	}
	return nil
}

// decodeVerdaToken reads the answer to a grant. What it says is sent back in a
// header, so it must be fit for one.
func decodeVerdaToken(body []byte) (verdaToken, *Failure) {
	var reply struct {
		Access    *string `json:"access_token"`
		Refresh   *string `json:"refresh_token"`
		Type      *string `json:"token_type"`
		ExpiresIn *int64  `json:"expires_in"`
	}
	none := verdaToken{}
	if f := Decode(body, &reply); f != nil {
		return none, f
	}
	if reply.Access == nil || reply.Type == nil || reply.ExpiresIn == nil {
		return none, Fail(Incomplete, "reply lacks one of access_token, token_type, expires_in")
	}
	t := verdaToken{access: *reply.Access, expiresIn: time.Duration(*reply.ExpiresIn) * time.Second}
	if reply.Refresh != nil {
		t.refresh = *reply.Refresh
	}
	switch {
	case !strings.EqualFold(*reply.Type, "Bearer"):
		return none, Fail(Malformed, "the token is not of the type Bearer")
	case *reply.ExpiresIn <= 0 || *reply.ExpiresIn > maxTokenSeconds:
		return none, Fail(Malformed, "the token's life is out of range")
	case !isToken(t.access) || (t.refresh != "" && !isToken(t.refresh)):
		return none, Fail(Malformed, "the token cannot be sent in a header")
	}
	return t, nil
}

func isToken(text string) bool { return provider.IsSecret(text) && len(text) <= maxTokenBytes }
