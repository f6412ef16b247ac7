package api

import (
	"errors"

	"github.com/valyala/fasthttp"

	"spotinference/budget"
	"spotinference/server/meter"
	"spotinference/server/refusal"
)

// writeRefusal makes r the response. sign adds what every answer has.
func writeRefusal(ctx *fasthttp.RequestCtx, d meter.Dialect, id string, r *refusal.Refusal) {
	resp := &ctx.Response
	resp.Reset()
	resp.SetStatusCode(r.Status)
	resp.Header.SetContentType("application/json")
	if wait := r.RetryAfterSeconds(); wait != "" {
		resp.Header.Set(fasthttp.HeaderRetryAfter, wait)
	}
	if r.Hopeless {
		resp.Header.Set("X-Should-Retry", "false")
	}
	resp.SetBodyRaw(r.Body(d, id))
}

// gateRefusal says why the gate is closed.
func (s *Server) gateRefusal(err error) *refusal.Refusal {
	return refusal.Gate(err).WithQuotaStatus(s.cfg.QuotaStatus)
}

// gateWord is the gate's state in one word.
func gateWord(err error) string {
	if err == nil {
		return "open"
	}
	var r *budget.Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return "closed"
}
