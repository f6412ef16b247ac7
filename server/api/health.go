package api

import (
	"encoding/json"

	"github.com/valyala/fasthttp"

	"spotinference/budget"
)

// What the gateway says of itself.

func (s *Server) writeHealth(ctx *fasthttp.RequestCtx) {
	ctx.Response.Header.SetContentType("application/json")
	ctx.Response.SetBodyString(`{"status":"ok"}` + "\n")
}

// writeReadiness says whether a request would be served now, and if not, why.
func (s *Server) writeReadiness(ctx *fasthttp.RequestCtx) {
	v := struct {
		Ready  bool   `json:"ready"`
		Engine string `json:"engine"`
		Gate   string `json:"gate"`                  // "open", or the reason for which it is closed
		Why    string `json:"gate_closed,omitempty"` // what that means
	}{Engine: string(s.cfg.Engine.Status().State), Gate: gateWord(s.cfg.Gate.Allow())}
	v.Why = budget.Sentence(v.Gate)
	r := s.admit()
	v.Ready = r == nil
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: readyz: " + err.Error())
	}
	if r != nil {
		ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
	}
	ctx.Response.Header.SetContentType("application/json")
	ctx.Response.SetBodyRaw(append(b, '\n'))
}

func (s *Server) writeMetrics(ctx *fasthttp.RequestCtx) {
	ctx.Response.Header.SetContentType("text/plain; version=0.0.4; charset=utf-8")
	s.cfg.Metrics.Write(ctx.Response.BodyWriter())
}
