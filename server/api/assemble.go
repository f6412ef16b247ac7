package api

import (
	"errors"
	"io"

	"github.com/valyala/fasthttp"

	"spotinference/server/meter"
	"spotinference/server/refusal"
)

// assemble serves a client that did not ask for a stream from an answer that is
// one: see [meter.Prepare]. Nothing leaves before the row is on disk, so that
// the status can still say how it went.
func (s *Server) assemble(ctx *fasthttp.RequestCtx, c *call, m *meter.Meter, x *exchange) {
	b := &body{s: s, c: c, m: m, x: x, src: x.resp.BodyStream(), status: fasthttp.StatusOK}
	defer b.drop()
	defer b.letGo()
	b.take()
	var err error
	for err == nil && !m.Done() {
		_, err = b.read()
		b.buf.out = b.buf.out[:0]
		b.tell()
	}
	if err != nil {
		m.Close(nil)
	}
	b.first = s.cfg.Now()
	var e *refusal.Refusal
	var answer []byte
	if _, failed := m.Failed(); failed {
		e = refusal.Engine(fasthttp.StatusBadGateway, m.Fault())
	} else if !m.Done() {
		if err == io.EOF {
			err = errors.New("the engine ended an answer before its end")
		}
		e = s.fault(c, err)
	} else if answer, err = m.Answer(); err != nil {
		e = s.fault(c, err)
	}
	if e = b.conclude(e); e != nil {
		writeRefusal(ctx, c.dialect, c.id, e)
		return
	}
	ctx.Response.Header.SetContentType("application/json; charset=utf-8")
	ctx.Response.SetBodyRaw(answer)
}
