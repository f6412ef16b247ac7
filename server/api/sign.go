package api

import (
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/server/meter"
)

// sign adds what every answer of ours has, whatever it says. It is the last
// thing that happens to one before its head leaves. started is zero where
// the request was not read.
//
// x-ratelimit-* is there for a key that has such a limit only: for others, all it
// could say would be made up.
func (s *Server) sign(ctx *fasthttp.RequestCtx, rt *Route, id string, started time.Time) {
	h := &ctx.Response.Header
	h.Set("X-Request-Id", id)
	now := s.cfg.Now()
	switch {
	case rt.Dialect == meter.Messages:
		h.Set("Request-Id", id) // the name that Anthropic's SDKs look for
	case !started.IsZero() && rt.Access != WithoutKey:
		h.Set("Openai-Processing-Ms", strconv.FormatInt(now.Sub(started).Milliseconds(), 10))
	}
	if k := keyOf(ctx); k != nil {
		k.limits.writeHeaders(h, now)
	}
	s.shareAnswer(ctx)
	// A write deadline of the handler's own makes fasthttp send this answer
	// before it looks at the next request of a client that pipelines: without
	// one, a short answer waits until the next one is made, minutes perhaps.
	_ = ctx.SetWriteDeadline(time.Now().Add(writeTimeout))
}
