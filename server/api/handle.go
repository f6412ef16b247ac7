package api

import (
	"bytes"
	"errors"
	"runtime/debug"

	"github.com/valyala/fasthttp"

	"spotinference/server/meter"
	"spotinference/server/queue"
	"spotinference/server/refusal"
)

// handle is the outermost handler: nothing that happens inside takes the
// process down, or leaves a client without an answer in its dialect.
func (s *Server) handle(ctx *fasthttp.RequestCtx) {
	started := s.cfg.Now()
	id := newID(started)
	rt := s.router.find(ctx.URI().PathOriginal())
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Metrics.panics.Inc()
			s.cfg.Log.Error("BUG: panic in a handler", "request", id, "panic", p, "stack", string(debug.Stack()))
			writeRefusal(ctx, rt.Dialect, id, refusal.New(refusal.Internal))
		}
		s.addHeaders(ctx, rt, id, started)
		s.releaseBody(ctx)
	}()
	if c, ok := ctx.Conn().(Conn); ok && c.Refusal() != nil {
		s.refuse(ctx, rt, id, c.Refusal())
		ctx.SetConnectionClose()
		return
	}
	switch {
	case rt == unknownRoute:
		s.refuse(ctx, rt, id, refusal.UnknownPath(s.router.served))
	case !s.admitPage(ctx, rt, id): // it has answered
	case rt.action == actionGenerate && ctx.Request.Header.ConnectionUpgrade() && bytes.EqualFold(ctx.Request.Header.Peek(fasthttp.HeaderUpgrade), []byte("websocket")):
		s.refuse(ctx, rt, id, refusal.New(refusal.WebSocket))
	case string(ctx.Method()) != rt.Method && !(rt.Method == fasthttp.MethodGet && ctx.IsHead()):
		ctx.Response.Header.Set(fasthttp.HeaderAllow, rt.Method)
		s.refuse(ctx, rt, id, refusal.WrongMethod(rt.Method))
	case rt.Access == WithoutKey || rt.Access == WithKeyOrLocally && s.loopback:
		s.serve(ctx, rt, id)
	default:
		k, r := s.keys.find(&ctx.Request.Header, started)
		if r != nil {
			s.refuse(ctx, rt, id, r)
			return
		}
		if k != nil {
			ctx.SetUserValue(keySlot, k)
		}
		s.serve(ctx, rt, id)
	}
}

// serve answers a request that may come in.
func (s *Server) serve(ctx *fasthttp.RequestCtx, rt *Route, id string) {
	switch rt.action {
	case actionGenerate:
		s.generate(ctx, rt, id)
	case actionQuery, actionList:
		s.query(ctx, rt, id)
	case actionHealth:
		s.writeHealth(ctx)
	case actionReadiness:
		s.writeReadiness(ctx)
	case actionMetrics:
		s.writeMetrics(ctx)
	default:
		panic("BUG: a route without an action: " + rt.Path)
	}
}

// refuse answers a request that never reached the engine.
func (s *Server) refuse(ctx *fasthttp.RequestCtx, rt *Route, id string, r *refusal.Refusal) {
	s.cfg.Metrics.Refused(r)
	allow := string(ctx.Response.Header.Peek(fasthttp.HeaderAllow))
	writeRefusal(ctx, rt.Dialect, id, r)
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
func toEngine(ctx *fasthttp.RequestCtx, rt *Route, body []byte) *fasthttp.Request {
	req := fasthttp.AcquireRequest()
	req.Header.SetMethod(rt.Method) // a HEAD is a GET whose body fasthttp leaves out
	req.SetRequestURI(rt.Path)
	for _, name := range forwarded {
		if v := ctx.Request.Header.Peek(name); len(v) > 0 {
			req.Header.SetBytesV(name, v)
		}
	}
	if body != nil {
		req.Header.SetContentType("application/json")
		if rt.Form {
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
		return s.gateRefusal(err)
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
	if r := k.mayUse(model); r != nil {
		return r
	}
	now := s.cfg.Now()
	if r := s.keys.budget(k, now); r != nil {
		return r
	}
	return k.limits.admit(now)
}

// newCall makes a call whose handler has not answered. When the handler returns, the answer
// begins: asking must allow nothing any more.
func (s *Server) newCall(ctx *fasthttp.RequestCtx, rt *Route, id string, ask meter.Ask) *call {
	c := &call{id: id, route: rt, ask: ask, started: s.cfg.Now(), key: keyOf(ctx), client: ctx.Conn(), isHTTP11: ctx.Request.Header.IsHTTP11()}
	if c.isHTTP11 {
		c.asking.allow(interim) // until its answer begins
	}
	return c
}

// engineFault is what a client is told when the engine could not be talked to.
func (s *Server) engineFault(c *call, err error) *refusal.Refusal {
	if cause := c.cutCause(); cause != nil {
		return cause
	}
	s.cfg.Log.Warn("talk to the engine", "request", c.id, "err", err)
	if errors.Is(err, errUnsent) {
		return refusal.EngineNotReady(0) // it has just ended, and its supervisor is about to see it
	}
	return refusal.New(refusal.EngineFailed)
}
