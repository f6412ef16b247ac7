package verda

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
)

// Verda's API takes a token: OAuth 2.0 client credentials (RFC 6749, section 4.4), as
// verdacloud-sdk-go, pkg/verda/auth.go, asks for them. A token is refreshed half a
// minute before it ends; where that is refused, the credentials are sent again.

const (
	tokenCall       = "POST /oauth2/token"
	refreshEarly    = 30 * time.Second
	maxTokenBytes   = 8 << 10
	maxTokenSeconds = 366 * 24 * 3600
)

// accessToken is the answer to a grant.
type accessToken struct {
	access    string
	refresh   string // "" where none came
	expiresIn time.Duration
}

// tokenSource holds the credentials, and what they were last exchanged for.
type tokenSource struct {
	api        *api.Client
	client     *provider.Client // under api: it authorizes by token
	id, secret string
	keyHint    string

	token accessToken
	ends  time.Time // of token, by the monotonic clock
}

// ensure leaves a token that is good for a while, and reports whether it had to be
// asked for.
func (a *tokenSource) ensure(ctx context.Context, clk provider.Clock) (asked bool, f *api.Failure) {
	if a.token.access != "" && time.Until(a.ends) > refreshEarly {
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
	return true, api.Retry(ctx, func() *api.Failure { return a.grant(ctx, clk, form) })
}

// drop forgets the token: it ended, or was withdrawn before its end.
func (a *tokenSource) drop() {
	a.token, a.ends = accessToken{}, time.Time{}
	a.client.Authorize = nil
}

// grant exchanges form for a token. A grant that is asked for twice does no harm.
func (a *tokenSource) grant(ctx context.Context, clk provider.Clock, form map[string]string) *api.Failure {
	asked := time.Now()
	b, err := json.Marshal(form)
	if err != nil {
		return api.Fail(api.Internal, "build request: %w", err).At(tokenCall)
	}
	body, f := a.api.Post(ctx, clk, tokenCall, "oauth2/token", b)
	if f != nil {
		if f.Class == api.HTTP4xx {
			f.WithHint(a.keyHint)
		}
		return f
	}
	token, f := decodeToken(body)
	if f != nil {
		return a.api.Redact(f).At(tokenCall)
	}
	a.token, a.ends = token, asked.Add(token.expiresIn)
	a.client.Authorize = provider.Bearer(token.access)
	a.client.Secrets = provider.Secrets{a.secret, token.access}
	if token.refresh != "" {
		a.client.Secrets = append(a.client.Secrets, token.refresh)
	}
	return nil
}

// decodeToken reads the answer to a grant. What it says is sent back in a
// header, so it must be fit for one.
func decodeToken(body []byte) (accessToken, *api.Failure) {
	var reply struct {
		Access    *string `json:"access_token"`
		Refresh   *string `json:"refresh_token"`
		Type      *string `json:"token_type"`
		ExpiresIn *int64  `json:"expires_in"`
	}
	none := accessToken{}
	if f := api.Decode(body, &reply); f != nil {
		return none, f
	}
	if reply.Access == nil || reply.Type == nil || reply.ExpiresIn == nil {
		return none, api.Fail(api.Incomplete, "reply lacks one of access_token, token_type, expires_in")
	}
	t := accessToken{access: *reply.Access, expiresIn: time.Duration(*reply.ExpiresIn) * time.Second}
	if reply.Refresh != nil {
		t.refresh = *reply.Refresh
	}
	switch {
	case !strings.EqualFold(*reply.Type, "Bearer"):
		return none, api.Fail(api.Malformed, "the token is not of the type Bearer")
	case *reply.ExpiresIn <= 0 || *reply.ExpiresIn > maxTokenSeconds:
		return none, api.Fail(api.Malformed, "the token's life is out of range")
	case !isToken(t.access) || (t.refresh != "" && !isToken(t.refresh)):
		return none, api.Fail(api.Malformed, "the token cannot be sent in a header")
	}
	return t, nil
}

func isToken(text string) bool { return provider.IsSecret(text) && len(text) <= maxTokenBytes }
