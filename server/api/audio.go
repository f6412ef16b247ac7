package api

import (
	"github.com/valyala/fasthttp"

	"spotinference/server/meter"
)

// prepare reads a request's body, in the form that its route has.
func (s *Server) prepare(ctx *fasthttp.RequestCtx, rt route) (meter.Ask, []byte, error) {
	if rt.form {
		return meter.PrepareForm(rt.dialect, s.dialectOf(), string(ctx.Request.Header.ContentType()), ctx.Request.Body())
	}
	return meter.Prepare(rt.dialect, s.dialectOf(), ctx.Request.Body())
}

// isAudio reports whether the dialect's answers may be in forms of their own:
// sound, subtitles, plain text.
func isAudio(d meter.Dialect) bool {
	return d == meter.Transcriptions || d == meter.Translations || d == meter.Speech
}

// bytes serves an answer in a form that nothing is read of. It leaves as it
// comes, but for its last piece, which waits for the row.
func (s *Server) bytes(ctx *fasthttp.RequestCtx, c *call, m *meter.Meter, x *exchange) {
	m.Opaque()
	ctx.Response.Header.SetContentTypeBytes(x.resp.Header.ContentType())
	b := &body{s: s, c: c, m: m, x: x, src: x.resp.BodyStream(), json: true, status: fasthttp.StatusOK}
	ctx.Response.ImmediateHeaderFlush = true
	ctx.Response.SetBodyStream(b, x.resp.Header.ContentLength())
}
