package api

import (
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/server/meter"
)

// addHeaders adds what every answer has. It is the last thing that happens to an answer
// before its head leaves. started is zero where the request was not read.
//
// x-ratelimit-* is there only for a key that has such a limit.
func (s *Server) addHeaders(ctx *fasthttp.RequestCtx, rt *Route, id string, started time.Time) {
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
	s.addCORS(ctx)
	// A write deadline of the handler's own makes fasthttp send this answer
	// before it reads the next request of a client that pipelines. Without one, a
	// short answer would wait until the next answer is made, minutes perhaps.
	_ = ctx.SetWriteDeadline(time.Now().Add(writeTimeout))
}
