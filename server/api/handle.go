package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/ledger"
	"spotinference/server/meter"
	"spotinference/server/queue"
	"spotinference/server/refusal"
)

// route is one path that is served. Everything else of the engine is out of
// reach: this list is the allow-list.
type route struct {
	method  string
	dialect meter.Dialect
	serve   func(*Server, *fasthttp.RequestCtx, route, string)
	public  bool // needs no key
	form    bool // its body is a multipart form
}

// routes is the API. The engine is asked for the same paths.
func routes(path string) (route, bool) {
	infer := func(d meter.Dialect) (route, bool) {
		return route{method: fasthttp.MethodPost, dialect: d, serve: (*Server).infer}, true
	}
	switch path {
	case "/v1/chat/completions":
		return infer(meter.Chat)
	case "/v1/completions":
		return infer(meter.Completions)
	case "/v1/responses":
		return infer(meter.Responses)
	case "/v1/messages":
		return infer(meter.Messages)
	case "/v1/embeddings":
		return infer(meter.Embeddings)
	case "/v1/rerank":
		return infer(meter.Rerank)
	case "/v1/audio/transcriptions":
		return route{method: fasthttp.MethodPost, dialect: meter.Transcriptions, serve: (*Server).infer, form: true}, true
	case "/v1/audio/translations":
		return route{method: fasthttp.MethodPost, dialect: meter.Translations, serve: (*Server).infer, form: true}, true
	case "/v1/audio/speech":
		return infer(meter.Speech)
	case "/v1/messages/count_tokens":
		return route{method: fasthttp.MethodPost, dialect: meter.Messages, serve: (*Server).pass}, true
	case "/v1/models":
		return route{method: fasthttp.MethodGet, serve: (*Server).pass}, true
	case "/healthz":
		return route{method: fasthttp.MethodGet, serve: (*Server).healthz, public: true}, true
	case "/readyz":
		return route{method: fasthttp.MethodGet, serve: (*Server).readyz, public: true}, true
	case "/metrics":
		return route{method: fasthttp.MethodGet, serve: (*Server).metrics}, true
	}
	return route{}, false
}

// handle is the outermost handler: nothing that happens inside takes the
// process down, or leaves a client without an answer in its dialect.
func (s *Server) handle(ctx *fasthttp.RequestCtx) {
	started := s.cfg.Now()
	id := newID(started)
	path := string(ctx.URI().PathOriginal()) // nothing is decoded or tidied
	rt, known := routes(path)
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Metrics.panics.Inc()
			s.cfg.Log.Error("BUG: panic in a handler", "request", id, "panic", p, "stack", string(debug.Stack()))
			writeRefusal(ctx, rt.dialect, id, refusal.New(refusal.Internal))
		}
		s.sign(ctx, rt, id, started)
	}()
	if c, ok := ctx.Conn().(Conn); ok && c.Refusal() != nil {
		s.refuse(ctx, rt, id, c.Refusal())
		ctx.SetConnectionClose()
		return
	}
	switch {
	case !known:
		s.refuse(ctx, rt, id, refusal.UnknownPath(servedPaths))
	case !s.admitPage(ctx, rt, id): // it has answered
	case string(ctx.Method()) != rt.method && !(rt.method == fasthttp.MethodGet && ctx.IsHead()):
		ctx.Response.Header.Set(fasthttp.HeaderAllow, rt.method)
		s.refuse(ctx, rt, id, refusal.WrongMethod(rt.method))
	case rt.public || path == "/metrics" && s.loopback:
		rt.serve(s, ctx, rt, id)
	default:
		k, e := s.keys.find(&ctx.Request.Header, started)
		if e != nil {
			s.refuse(ctx, rt, id, e)
			return
		}
		if k != nil {
			ctx.SetUserValue(keySlot, k)
		}
		rt.serve(s, ctx, rt, id)
	}
}

// refuse answers a request that never reached the engine.
func (s *Server) refuse(ctx *fasthttp.RequestCtx, rt route, id string, e *refusal.Refusal) {
	s.cfg.Metrics.Refused(e)
	allow := string(ctx.Response.Header.Peek(fasthttp.HeaderAllow))
	writeRefusal(ctx, rt.dialect, id, e)
	if allow != "" {
		ctx.Response.Header.Set(fasthttp.HeaderAllow, allow)
	}
}

// forwarded are the request headers that an engine may see. X-Conversation-Id
// is not among them: llama-server would go on generating for a client that left.
var forwarded = [...]string{
	fasthttp.HeaderAccept, "Anthropic-Version", "Anthropic-Beta", "Traceparent", "Tracestate",
}

// toEngine makes the request that the engine gets. It refers to body.
func toEngine(ctx *fasthttp.RequestCtx, rt route, body []byte) *fasthttp.Request {
	req := fasthttp.AcquireRequest()
	req.Header.SetMethod(rt.method) // a HEAD is a GET whose body fasthttp leaves out
	req.SetRequestURI(string(ctx.URI().PathOriginal()))
	for _, name := range forwarded {
		if v := ctx.Request.Header.Peek(name); len(v) > 0 {
			req.Header.SetBytesV(name, v)
		}
	}
	if body != nil {
		req.Header.SetContentType("application/json")
		if rt.form {
			req.Header.SetContentTypeBytes(ctx.Request.Header.ContentType()) // it holds the boundary
		}
		req.SetBodyRaw(body)
	}
	return req
}

func (s *Server) dialectOf() meter.Engine {
	if s.cfg.Engine.Kind() == queue.VLLM {
		return meter.VLLM
	}
	return meter.LlamaServer
}

// admit says whether a request may go to the engine.
func (s *Server) admit() *refusal.Refusal {
	select {
	case <-s.stopping:
		return refusal.New(refusal.ShuttingDown)
	default:
	}
	if err := s.cfg.Gate.Allow(); err != nil {
		return refusal.Gate(err)
	}
	if !s.cfg.Engine.Status().Admits {
		return s.notReady()
	}
	return nil
}

// admitKey says whether a request's key lets it have the model, and takes the request
// from what the key may have in a minute. It is asked last: what is refused for another
// reason costs a key nothing.
func (s *Server) admitKey(ctx *fasthttp.RequestCtx, model string) *refusal.Refusal {
	k := keyOf(ctx)
	if k == nil {
		return nil
	}
	if e := k.mayUse(model); e != nil {
		return e
	}
	now := s.cfg.Now()
	if e := s.keys.budget(k, now); e != nil {
		return e
	}
	return k.limits.take(now)
}

// pass forwards a request that makes no tokens. The list of models does not wake a
// sleeping engine, nor keep one awake: it is answered from memory then.
func (s *Server) pass(ctx *fasthttp.RequestCtx, rt route, id string) {
	c := s.newCall(ctx, rt, id, meter.Ask{})
	c.uncounted = true
	s.calls.add(c)
	defer s.forget(c)
	var body []byte
	if rt.method == fasthttp.MethodPost {
		body = ctx.Request.Body()
		if !json.Valid(body) {
			s.refuse(ctx, rt, id, refusal.New(refusal.BodyNotJSON))
			return
		}
	}
	c.glance = rt.method == fasthttp.MethodGet
	e := s.admit()
	if c.glance && (e != nil || !s.tryEnter(c)) {
		if m := s.models.Load(); m != nil && s.cfg.Engine.Status().Admits {
			s.show(ctx, m)
			return
		}
	}
	if e == nil && !c.glance {
		e = s.admitKey(ctx, modelOf(rt, c.key, body))
	}
	if e == nil && !c.inside.Load() {
		e = s.enter(c)
	}
	if e != nil {
		s.refuse(ctx, rt, id, e)
		return
	}
	req := toEngine(ctx, rt, body)
	defer fasthttp.ReleaseRequest(req)
	x, err := s.upstream.do(c, req, s.cfg.Now())
	if err != nil {
		s.refuse(ctx, rt, id, s.fault(c, err))
		return
	}
	answer, err := io.ReadAll(io.LimitReader(x.resp.BodyStream(), maxHeld+1))
	if len(answer) > maxHeld {
		err = fmt.Errorf("an answer of over %d bytes", maxHeld)
	}
	status, kind := x.resp.StatusCode(), string(x.resp.Header.ContentType())
	s.upstream.end(c, x, err == nil, s.cfg.Now())
	switch {
	case err != nil:
		s.refuse(ctx, rt, id, s.fault(c, err))
	case status != fasthttp.StatusOK:
		s.refuse(ctx, rt, id, refusal.Engine(status, meter.OpenAIError(status, answer)))
	default:
		m := &models{kind, answer}
		if c.glance {
			s.models.Store(m)
		}
		s.show(ctx, m)
	}
}

func (s *Server) newCall(ctx *fasthttp.RequestCtx, rt route, id string, ask meter.Ask) *call {
	return &call{id: id, dialect: rt.dialect, ask: ask, started: s.cfg.Now(), key: keyOf(ctx), client: ctx.Conn()}
}

// fault is what a client is told when the engine could not be talked to.
func (s *Server) fault(c *call, err error) *refusal.Refusal {
	if cause := c.why(); cause != nil {
		return cause
	}
	s.cfg.Log.Warn("talk to the engine", "request", c.id, "err", err)
	if errors.Is(err, errUnsent) {
		return refusal.EngineNotReady(0) // it has just ended, and its supervisor is about to see it
	}
	return refusal.New(refusal.EngineFailed)
}

// failed records a call that got no answer of the engine's, and returns what its
// client is told.
func (s *Server) failed(c *call, m *meter.Meter, err error) *refusal.Refusal {
	e := s.fault(c, err)
	if s.record(c, m, statusFor(e), e.Status, time.Time{}) != nil {
		return refusal.New(refusal.LedgerUnwritable)
	}
	return e
}

// infer serves a request that makes tokens.
func (s *Server) infer(ctx *fasthttp.RequestCtx, rt route, id string) {
	ask, body, err := s.prepare(ctx, rt)
	if err != nil {
		s.refuse(ctx, rt, id, refusal.InvalidBody(err.Error()))
		return
	}
	if e := s.admit(); e != nil {
		s.refuse(ctx, rt, id, e)
		return
	}
	if ask.Stream && !ctx.Request.Header.IsHTTP11() {
		s.refuse(ctx, rt, id, refusal.New(refusal.NeedsHTTP11))
		return
	}
	if e := s.admitKey(ctx, ask.Model); e != nil {
		s.refuse(ctx, rt, id, e)
		return
	}
	c := s.newCall(ctx, rt, id, ask)
	m := meter.New(rt.dialect, s.dialectOf(), ask)
	s.calls.add(c)
	defer func() {
		if p := recover(); p != nil {
			c.cut(refusal.New(refusal.Internal))
			if !c.recorded {
				_ = s.record(c, m, ledger.Failed, fasthttp.StatusInternalServerError, time.Time{})
			}
			panic(p) // handle answers
		}
	}()
	req := toEngine(ctx, rt, body)
	switch e, entered := s.await(c); {
	case e != nil:
		fasthttp.ReleaseRequest(req)
		s.forget(c) // it never reached the engine: there is nothing to record
		s.refuse(ctx, rt, id, e)
		return
	case entered != nil:
		s.hold(ctx, &held{s: s, c: c, m: m, req: req, entered: entered})
		return
	}
	x, err := s.upstream.do(c, req, c.started)
	fasthttp.ReleaseRequest(req)
	ctx.Request.ReleaseBody(keptBody)
	switch {
	case errors.Is(err, errUnsent):
		s.forget(c) // as above
		s.refuse(ctx, rt, id, s.fault(c, err))
	case err != nil:
		writeRefusal(ctx, rt.dialect, id, s.failed(c, m, err))
	case x.resp.StatusCode() == fasthttp.StatusOK && isType(x.resp, "text/event-stream"):
		if ask.Assembled() {
			s.assemble(ctx, c, m, x)
		} else {
			s.stream(ctx, c, m, x)
		}
	case x.resp.StatusCode() == fasthttp.StatusOK && isAudio(rt.dialect) && !isType(x.resp, "application/json"):
		s.bytes(ctx, c, m, x)
	default:
		s.whole(ctx, c, m, x)
	}
}

// keptBody is the largest buffer of a body that a connection keeps: of a request
// while its answer runs, and of both for the next request.
const keptBody = 64 << 10

// statusFor is how a call that ended with e stands in the ledger.
func statusFor(e *refusal.Refusal) ledger.Status {
	if e.Kind == refusal.ClientClosed {
		return ledger.Aborted
	}
	return ledger.Failed
}

// record writes the row of a call and forgets the call. Only after a nil error
// may the answer's last bytes leave.
func (s *Server) record(c *call, m *meter.Meter, status ledger.Status, http int, first time.Time) error {
	defer s.forget(c)
	c.recorded = true
	r := ledger.Request{
		ID: c.id, Endpoint: c.dialect.String(), Model: m.Model(), Key: c.key.id(), Stream: c.ask.Stream,
		Status: status, HTTP: http, Started: c.started, First: first, Finished: s.cfg.Now(),
		Usage: m.Usage(),
		// A request that the engine refused made nothing: that is exact.
		LowerBound: !m.Exact() && !(status == ledger.Failed && http >= 400 && http < 500 && c.why() == nil),
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

// whole serves an answer that is one JSON body, or an engine's error.
func (s *Server) whole(ctx *fasthttp.RequestCtx, c *call, m *meter.Meter, x *exchange) {
	b := &body{s: s, c: c, m: m, x: x, src: x.resp.BodyStream(), json: true, status: x.resp.StatusCode(),
		held: ctx.Response.SwapBody(nil)[:0]} // the buffer of the connection's last answer
	length := x.resp.Header.ContentLength()
	ctx.Response.Header.SetContentTypeBytes(x.resp.Header.ContentType()) // an error says its own
	var e *refusal.Refusal
	if err := b.hold(maxHeld); err != nil {
		e = s.fault(c, err)
	} else if _, failed := m.Failed(); b.status != fasthttp.StatusOK {
		e = refusal.Engine(b.status, meter.OpenAIError(b.status, b.held))
	} else if failed {
		e = refusal.Engine(fasthttp.StatusBadGateway, m.Fault())
	} else if b.eof && !m.Done() {
		e = s.fault(c, errors.New("the answer is not a JSON body"))
	}
	if e == nil && !b.eof && length < 0 && !ctx.Request.Header.IsHTTP11() {
		e = refusal.New(refusal.NeedsHTTP11) // it would not see that the answer was cut
	}
	if e == nil && !b.eof {
		b.release()
		ctx.Response.SetBodyStream(b, length)
		return
	}
	defer b.letGo()
	if e = b.conclude(e); e != nil {
		writeRefusal(ctx, c.dialect, c.id, e)
		return
	}
	if cap(b.held) > keptBody {
		ctx.Response.SetBodyRaw(b.held)
		return
	}
	ctx.Response.SwapBody(b.held)
}

// stream serves an answer that is a stream of events.
func (s *Server) stream(ctx *fasthttp.RequestCtx, c *call, m *meter.Meter, x *exchange) {
	streamHead(ctx)
	b := &body{s: s, c: c, m: m, x: x, src: x.resp.BodyStream(), status: fasthttp.StatusOK}
	// The head goes along with the first event, but does not wait for one.
	if x.conn.br.Buffered() > 0 {
		if err := b.fill(); err != nil {
			ctx.SetConnectionClose() // nobody is there to be told
			_ = b.Close()
			return
		}
	}
	ctx.Response.ImmediateHeaderFlush = b.buf == nil || len(b.buf.out) == 0
	ctx.Response.SetBodyStream(b, -1)
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

func (s *Server) healthz(ctx *fasthttp.RequestCtx, _ route, _ string) {
	ctx.Response.Header.SetContentType("application/json")
	ctx.Response.SetBodyString(`{"status":"ok"}` + "\n")
}

// readyz says whether a request would be served now, and if not, why.
func (s *Server) readyz(ctx *fasthttp.RequestCtx, _ route, _ string) {
	v := struct {
		Ready  bool   `json:"ready"`
		Engine string `json:"engine"`
		Gate   string `json:"gate"` // "open", or the reason for which it is closed
	}{Engine: string(s.cfg.Engine.Status().State), Gate: gateWord(s.cfg.Gate.Allow())}
	e := s.admit()
	v.Ready = e == nil
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: readyz: " + err.Error())
	}
	if e != nil {
		ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
	}
	ctx.Response.Header.SetContentType("application/json")
	ctx.Response.SetBodyRaw(append(b, '\n'))
}

func (s *Server) metrics(ctx *fasthttp.RequestCtx, _ route, _ string) {
	ctx.Response.Header.SetContentType("text/plain; version=0.0.4; charset=utf-8")
	s.cfg.Metrics.Write(ctx.Response.BodyWriter())
}
