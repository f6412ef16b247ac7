package api

import (
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/ledger"
	"spotinference/server/meter"
	"spotinference/server/refusal"
)

// How a request that makes tokens is served.

// prepare reads a request's body, in the form that its route has. Where another one goes to
// the engine, the client's is let go of.
func (s *Server) prepare(ctx *fasthttp.RequestCtx, rt *Route) (ask meter.Ask, body []byte, err error) {
	sent := ctx.Request.Body()
	if rt.Form {
		ask, body, err = meter.PrepareForm(rt.Dialect, s.dialectOf(), string(ctx.Request.Header.ContentType()), sent)
	} else {
		ask, body, err = meter.Prepare(rt.Dialect, s.dialectOf(), sent)
	}
	takes := cap(sent)
	if len(body) > 0 && &body[0] != &sent[0] {
		takes = min(takes, keptBody) + cap(body)
		ctx.Request.ReleaseBody(keptBody)
	}
	s.bodies.whole(&ctx.Request.Header, int64(takes))
	return ask, body, err
}

// releaseBody lets go of a request's body. Safe twice.
func (s *Server) releaseBody(ctx *fasthttp.RequestCtx) {
	ctx.Request.ReleaseBody(keptBody)
	s.bodies.release(s.bodies.take(&ctx.Request.Header))
}

// generate serves a request that makes tokens.
func (s *Server) generate(ctx *fasthttp.RequestCtx, rt *Route, id string) {
	whole := time.Now()
	ask, body, err := s.prepare(ctx, rt)
	if err != nil {
		s.refuse(ctx, rt, id, refusal.InvalidBody(err.Error()))
		return
	}
	if r := s.admit(); r != nil {
		s.refuse(ctx, rt, id, r)
		return
	}
	if ask.Stream && !ctx.Request.Header.IsHTTP11() {
		s.refuse(ctx, rt, id, refusal.New(refusal.NeedsHTTP11))
		return
	}
	if r := s.admitKey(ctx, ask.Model); r != nil {
		s.refuse(ctx, rt, id, r)
		return
	}
	c := s.newCall(ctx, rt, id, ask)
	m := meter.New(rt.Dialect, s.dialectOf(), ask)
	if s.cfg.CompleteResponses {
		m.Complete(c.started.Unix())
	}
	s.calls.add(c)
	defer c.asking.allow(nil)
	defer func() {
		if p := recover(); p != nil {
			c.cut(refusal.New(refusal.Internal))
			if !c.isRecorded() {
				_ = s.record(c, m, ledger.Failed, fasthttp.StatusInternalServerError, time.Time{})
			}
			panic(p) // handle answers
		}
	}()
	req := toEngine(ctx, rt, body)
	head := whole.Add(s.cfg.Heartbeat) // when ours leaves, if the engine's is not there
	switch r, entered := s.enterSoon(c, head); {
	case r != nil:
		fasthttp.ReleaseRequest(req)
		s.releaseBody(ctx)
		s.end(c) // it never reached the engine: there is nothing to record
		s.refuse(ctx, rt, id, r)
		return
	case entered != nil:
		ctx.Request.ReleaseBody(keptBody) // req has it
		kept := s.bodies.take(&ctx.Request.Header)
		s.startWaiting(ctx, &waitingStream{s: s, c: c, m: m, req: req, kept: kept, beat: s.newHeart(c, m, whole), entered: entered})
		return
	}
	x, err := s.upstream.send(c, req)
	fasthttp.ReleaseRequest(req)
	s.releaseBody(ctx)
	if err == nil && c.streams() && !x.readable(head) {
		s.startWaiting(ctx, &waitingStream{s: s, c: c, m: m, beat: s.newHeart(c, m, whole), state: streamAsked, x: x})
		return
	}
	if err == nil {
		err = s.upstream.readHead(c, x)
	}
	switch {
	case errors.Is(err, errUnsent):
		s.end(c) // as above
		s.refuse(ctx, rt, id, s.engineFault(c, err))
	case err != nil:
		writeRefusal(ctx, rt.Dialect, id, s.noAnswer(c, m, err))
	case x.resp.StatusCode() == fasthttp.StatusOK && isType(x.resp, "text/event-stream"):
		if ask.Assembled() {
			s.answerAssembled(ctx, c, m, x)
		} else {
			s.answerStream(ctx, c, m, x)
		}
	case x.resp.StatusCode() == fasthttp.StatusOK && isAudio(rt.Dialect) && !isType(x.resp, "application/json"):
		s.answerOpaque(ctx, c, m, x)
	default:
		s.answerJSON(ctx, c, m, x)
	}
}

// keptBody is the largest buffer of a body that a connection keeps: of a request
// while its answer runs, and of both for the next request.
const keptBody = 64 << 10

// statusFor is how a call that ended with r stands in the ledger.
func statusFor(r *refusal.Refusal) ledger.Status {
	if r.Kind == refusal.ClientClosed {
		return ledger.Aborted
	}
	return ledger.Failed
}

// noAnswer records a call that got no answer of the engine's, and returns what its
// client is told.
func (s *Server) noAnswer(c *call, m *meter.Meter, err error) *refusal.Refusal {
	r := s.engineFault(c, err)
	if s.record(c, m, statusFor(r), r.Status, time.Time{}) != nil {
		return refusal.New(refusal.LedgerUnwritable)
	}
	return r
}

// record writes the row of a call and ends the call. Only after a nil error
// may the answer's last bytes leave.
func (s *Server) record(c *call, m *meter.Meter, status ledger.Status, http int, first time.Time) error {
	defer s.end(c)
	c.beginRecord()
	lowerBound, unseen := false, false
	if !m.Exact() {
		lowerBound, unseen = s.judge(c, status)
	}
	r := ledger.Request{
		ID: c.id, Endpoint: c.route.Endpoint(), Model: m.Model(), Key: c.key.id(), Stream: c.ask.Stream,
		Status: status, HTTP: http, Started: c.started, First: first, Finished: s.cfg.Now(),
		Usage: m.Usage(), LowerBound: lowerBound, Excess: s.excess(c, m, unseen),
	}
	if r.Model == "" {
		r.Model = c.ask.Model
	}
	if c.key != nil {
		c.key.limits.charge(r.Finished, r.Usage)
	}
	err := s.cfg.Ledger.AddRequest(r)
	if err != nil {
		s.ledgerFailed(err)
		return err
	}
	s.cfg.Metrics.finished(r)
	return nil
}

// maxHeld is the largest answer that is held whole until its row is on disk,
// so that its status can still say that it was not recorded. A larger one
// streams, and is cut before its end where the row cannot be written.
const maxHeld = 1 << 20

// answerJSON serves an answer that is one JSON body, or an engine's error.
func (s *Server) answerJSON(ctx *fasthttp.RequestCtx, c *call, m *meter.Meter, x *exchange) {
	a := s.newAnswer(c, m, x, formatBody)
	a.tail = ctx.Response.SwapBody(nil)[:0] // the buffer of the connection's last answer
	length := x.resp.Header.ContentLength()
	ctx.Response.Header.SetContentTypeBytes(x.resp.Header.ContentType()) // an error says its own
	var r *refusal.Refusal
	if err := a.holdWhole(maxHeld); err != nil {
		r = s.engineFault(c, err)
	} else if _, failed := m.Failed(); a.status != fasthttp.StatusOK {
		r = refusal.Engine(a.status, meter.OpenAIError(a.status, a.tail))
	} else if failed {
		r = refusal.Engine(fasthttp.StatusBadGateway, m.Fault())
	} else if x.readToEnd && !m.Done() {
		r = s.engineFault(c, errors.New("the answer is not a JSON body"))
	}
	if r == nil && !x.readToEnd && length < 0 && !ctx.Request.Header.IsHTTP11() {
		r = refusal.New(refusal.NeedsHTTP11) // it would not see that the answer was cut
	}
	if r == nil && !x.readToEnd {
		a.releaseTail()
		ctx.Response.SetBodyStream(a, length)
		return
	}
	defer a.endExchange()
	if r = a.settle(r); r != nil {
		writeRefusal(ctx, c.route.Dialect, c.id, r)
		return
	}
	if cap(a.tail) > keptBody {
		ctx.Response.SetBodyRaw(a.tail)
		return
	}
	ctx.Response.SwapBody(a.tail)
}

// answerStream serves an answer that is a stream of events.
func (s *Server) answerStream(ctx *fasthttp.RequestCtx, c *call, m *meter.Meter, x *exchange) {
	streamHead(ctx)
	a := s.newAnswer(c, m, x, formatEvents)
	a.beat = s.newHeart(c, m, time.Now())
	// The head goes along with the first event, but does not wait for one.
	if x.conn.br.Buffered() > 0 {
		if a.copy(); a.state == answerSevered {
			ctx.SetConnectionClose() // the client is not there any more
			_ = a.Close()
			return
		}
	}
	ctx.Response.ImmediateHeaderFlush = a.buf == nil || len(a.buf.out) == 0
	ctx.Response.SetBodyStream(a, -1)
}

// answerAssembled serves a client that did not ask for a stream from an answer that is
// one: see [meter.Prepare]. Nothing leaves before the row is on disk, so that
// the status can still say how it went.
func (s *Server) answerAssembled(ctx *fasthttp.RequestCtx, c *call, m *meter.Meter, x *exchange) {
	a := s.newAnswer(c, m, x, formatEvents)
	defer a.returnBuffers()
	defer a.endExchange()
	a.takeBuffers()
	var err error
	for err == nil && !m.Done() {
		_, err = a.read()
		a.buf.out = a.buf.out[:0]
		a.publish()
	}
	if err != nil {
		m.Close(nil)
	}
	a.first = s.cfg.Now()
	var r *refusal.Refusal
	var answer []byte
	if _, failed := m.Failed(); failed {
		r = refusal.Engine(fasthttp.StatusBadGateway, m.Fault())
	} else if !m.Done() {
		if err == io.EOF {
			err = errors.New("the engine ended an answer before its end")
		}
		r = s.engineFault(c, err)
	} else if answer, err = m.Answer(); err != nil {
		r = s.engineFault(c, err)
	}
	if r = a.settle(r); r != nil {
		writeRefusal(ctx, c.route.Dialect, c.id, r)
		return
	}
	ctx.Response.Header.SetContentType("application/json; charset=utf-8")
	ctx.Response.SetBodyRaw(answer)
}

// isAudio reports whether the dialect's answers may be other than JSON and events: sound,
// subtitles, plain text.
func isAudio(d meter.Dialect) bool {
	return d == meter.Transcriptions || d == meter.Translations || d == meter.Speech
}

// answerOpaque serves an answer that is not read. It leaves as it comes, but for its last
// piece, which waits for the row.
func (s *Server) answerOpaque(ctx *fasthttp.RequestCtx, c *call, m *meter.Meter, x *exchange) {
	m.Opaque()
	ctx.Response.Header.SetContentTypeBytes(x.resp.Header.ContentType())
	ctx.Response.ImmediateHeaderFlush = true
	ctx.Response.SetBodyStream(s.newAnswer(c, m, x, formatBody), x.resp.Header.ContentLength())
}

// streamHead is the head of a stream of events.
func streamHead(ctx *fasthttp.RequestCtx) {
	h := &ctx.Response.Header
	h.SetContentType("text/event-stream")
	h.Set(fasthttp.HeaderCacheControl, "no-cache")
	h.Set("X-Accel-Buffering", "no")
}

// isType reports whether an answer is of the media type, whatever its parameters.
func isType(r *fasthttp.Response, media string) bool {
	t, _, _ := bytes.Cut(r.Header.ContentType(), []byte(";"))
	return string(bytes.TrimRight(t, " ")) == media
}
