package billing

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// How Verda's API lets in: OAuth 2.0 client credentials (RFC 6749, section 4.4),
// as verdacloud-sdk-go, pkg/verda/auth.go, asks for them. A token is refreshed
// half a minute before it ends; where that is refused, the credentials are sent
// again.

const (
	verdaTokenCall  = "POST /oauth2/token"
	verdaEarly      = 30 * time.Second
	maxTokenBytes   = 8 << 10
	maxTokenSeconds = 366 * 24 * 3600
)

// verdaToken is the answer to a grant.
type verdaToken struct {
	access  string
	refresh string // "" where none came
	life    time.Duration
}

// verdaAuth holds the credentials and what they were last exchanged for.
type verdaAuth struct {
	api        *client
	id, secret string
	hint       string

	token verdaToken
	ends  time.Time // of token, by the monotonic clock
}

// ensure leaves a token that is good for a while, and says whether it had to be
// asked for.
func (a *verdaAuth) ensure(ctx context.Context, clk clock) (asked bool, f *Failure) {
	if a.token.access != "" && time.Until(a.ends) > verdaEarly {
		return false, nil
	}
	if old := a.token.refresh; old != "" {
		a.drop()
		if f := a.grant(ctx, clk, map[string]string{"grant_type": "refresh_token", "refresh_token": old}); f == nil {
			return true, nil
		} else if ctx.Err() != nil {
			return true, f
		}
	}
	a.drop()
	form := map[string]string{"grant_type": "client_credentials", "client_id": a.id, "client_secret": a.secret}
	for try := 1; ; try++ {
		f := a.grant(ctx, clk, form)
		if f == nil || try == maxTries || !retriable(f.Class) || !pause(ctx, try, f.RetryAfter) {
			return true, f
		}
	}
}

// drop forgets the token: it ended, or was withdrawn before its end.
func (a *verdaAuth) drop() { a.token, a.ends = verdaToken{}, time.Time{} }

// grant exchanges form for a token. A grant that is asked for twice does no harm.
func (a *verdaAuth) grant(ctx context.Context, clk clock, form map[string]string) *Failure {
	asked := time.Now()
	body, f := a.post(ctx, clk, form)
	if f == nil {
		a.token, f = decodeVerdaToken(body)
	}
	if f != nil {
		f.Err = scrub(f.Err, a.api.secrets)
		return f.at(verdaTokenCall)
	}
	a.ends = asked.Add(a.token.life)
	a.api.secrets = []string{a.secret, a.token.access}
	if a.token.refresh != "" {
		a.api.secrets = append(a.api.secrets, a.token.refresh)
	}
	return nil
}

func (a *verdaAuth) post(ctx context.Context, clk clock, form map[string]string) ([]byte, *Failure) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	b, err := json.Marshal(form)
	if err != nil {
		return nil, fail(Internal, "build request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.api.base.JoinPath("oauth2/token").String(), bytes.NewReader(b))
	if err != nil {
		return nil, fail(Internal, "build request: %w", bare(err))
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "spotinference")
	body, f := send(a.api.http, req, clk)
	if f != nil && (f.Class == HTTP401 || f.Class == HTTP403 || f.Class == HTTP4xx) {
		f.WithHint(a.hint)
	}
	return body, f
}

// decodeVerdaToken reads the answer to a grant. What it says is sent back in a
// header, so it must be fit for one.
func decodeVerdaToken(body []byte) (verdaToken, *Failure) {
	var reply struct {
		Access  *string `json:"access_token"`
		Refresh *string `json:"refresh_token"`
		Type    *string `json:"token_type"`
		Life    *int64  `json:"expires_in"`
	}
	none := verdaToken{}
	if f := decode(body, &reply); f != nil {
		return none, f
	}
	if reply.Access == nil || reply.Type == nil || reply.Life == nil {
		return none, fail(Incomplete, "reply lacks one of access_token, token_type, expires_in")
	}
	t := verdaToken{access: *reply.Access, life: time.Duration(*reply.Life) * time.Second}
	if reply.Refresh != nil {
		t.refresh = *reply.Refresh
	}
	switch {
	case !strings.EqualFold(*reply.Type, "Bearer"):
		return none, fail(Malformed, "the token is not of the type Bearer")
	case *reply.Life <= 0 || *reply.Life > maxTokenSeconds:
		return none, fail(Malformed, "the token's life is out of range")
	case !tokenText(t.access) || (t.refresh != "" && !tokenText(t.refresh)):
		return none, fail(Malformed, "the token cannot be sent in a header")
	}
	return t, nil
}

func tokenText(s string) bool {
	return len(s) >= minKey && len(s) <= maxTokenBytes &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
