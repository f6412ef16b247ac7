package api

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"spotinference/server/refusal"

	"github.com/valyala/fasthttp"
)

// AnyOrigin lets the pages of every origin use the API.
const AnyOrigin = "*"

// CheckOrigin says whether o is an origin as browsers write one, or AnyOrigin.
// What is not written like that would never match.
func CheckOrigin(o string) error {
	if o == AnyOrigin {
		return nil
	}
	u, err := url.Parse(o)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != o || strings.ToLower(o) != o || strings.ContainsAny(o, "*, ") {
		return fmt.Errorf("origin %q: not a scheme, a host and perhaps a port", o)
	}
	if p := u.Port(); u.Scheme == "https" && p == "443" || u.Scheme == "http" && p == "80" {
		return fmt.Errorf("origin %q: browsers leave out the default port", o)
	}
	return nil
}

// origins are those whose pages may use the API: cross-origin resource sharing,
// as https://fetch.spec.whatwg.org/#http-cors-protocol has it. Credentials in its
// sense (cookies) are never allowed; a key is a header of the page's own.
type origins struct {
	any    bool
	listed []string
}

func newOrigins(list []string) origins {
	return origins{any: slices.Contains(list, AnyOrigin), listed: list}
}

func (o origins) allow(origin []byte) bool {
	return o.any || slices.Contains(o.listed, string(origin))
}

// admitPage decides by what a browser says of the page that sends a request. It is false
// where it has answered: a preflight, or a page that is refused.
func (s *Server) admitPage(ctx *fasthttp.RequestCtx, rt *Route, id string) bool {
	h := &ctx.Request.Header
	origin := h.Peek(fasthttp.HeaderOrigin)
	if len(origin) == 0 {
		return true
	}
	preflight := ctx.IsOptions() && len(h.Peek(fasthttp.HeaderAccessControlRequestMethod)) > 0
	switch {
	case s.origins.allow(origin) && preflight:
		// It carries no key, and asks for nothing but this.
		r := &ctx.Response.Header
		ctx.SetStatusCode(fasthttp.StatusNoContent)
		r.Set(fasthttp.HeaderAccessControlAllowMethods, rt.Method)
		if names := h.Peek(fasthttp.HeaderAccessControlRequestHeaders); len(names) > 0 {
			r.SetBytesV(fasthttp.HeaderAccessControlAllowHeaders, names) // the SDKs send a dozen of their own
		}
		r.Set(fasthttp.HeaderAccessControlMaxAge, "7200") // no browser keeps it for longer
		return false
	case s.origins.allow(origin):
		return true
	case preflight && len(s.origins.listed) > 0:
		s.refuse(ctx, rt, id, refusal.New(refusal.OriginNotAllowed))
		return false
	case !s.keys.required() && rt.Access != WithoutKey:
		// Without a key, any page that the machine's user opens could spend: a
		// browser sends it, and only keeps the answer from the page.
		s.refuse(ctx, rt, id, refusal.New(refusal.OriginNotAllowed))
		return false
	}
	return true
}

// addCORS lets the page of an allowed origin read the answer.
func (s *Server) addCORS(ctx *fasthttp.RequestCtx) {
	if len(s.origins.listed) == 0 {
		return
	}
	r := &ctx.Response.Header
	allowed := AnyOrigin
	if !s.origins.any {
		r.Set(fasthttp.HeaderVary, fasthttp.HeaderOrigin)
		origin := ctx.Request.Header.Peek(fasthttp.HeaderOrigin)
		if len(origin) == 0 || !s.origins.allow(origin) {
			return
		}
		allowed = string(origin)
	}
	r.Set(fasthttp.HeaderAccessControlAllowOrigin, allowed)
	r.Set(fasthttp.HeaderAccessControlExposeHeaders, "X-Request-Id, Request-Id, Openai-Processing-Ms, Retry-After, X-Should-Retry, "+
		"X-Ratelimit-Limit-Requests, X-Ratelimit-Remaining-Requests, X-Ratelimit-Reset-Requests, "+
		"X-Ratelimit-Limit-Tokens, X-Ratelimit-Remaining-Tokens, X-Ratelimit-Reset-Tokens")
}
