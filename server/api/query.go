package api

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/valyala/fasthttp"

	"spotinference/server/meter"
	"spotinference/server/refusal"
)

// How a request that makes no tokens is served: by the engine, or a list of models from
// memory.

// reply is an engine's answer to such a request.
type reply struct {
	contentType string
	body        []byte
}

// query serves a request that makes no tokens. The list of models does not wake a
// sleeping engine, nor keep one awake: it is answered from memory then.
func (s *Server) query(ctx *fasthttp.RequestCtx, rt *Route, id string) {
	c := s.newCall(ctx, rt, id, meter.Ask{})
	s.calls.add(c)
	defer s.end(c)
	defer c.asking.allow(nil)
	var body []byte
	if rt.Method == fasthttp.MethodPost {
		body = ctx.Request.Body()
		s.bodies.whole(&ctx.Request.Header, int64(cap(body)))
		if !json.Valid(body) {
			s.refuse(ctx, rt, id, refusal.New(refusal.BodyNotJSON))
			return
		}
	}
	isList := rt.action == actionList
	r := s.admit()
	if isList && (r != nil || !s.tryEnter(c)) {
		if known := s.models.Load(); known != nil && s.cfg.Engine.Status().Admits {
			s.writeReply(ctx, known)
			return
		}
	}
	if r == nil && !isList {
		r = s.admitKey(ctx, modelOf(rt, c.key, body))
	}
	if r == nil && c.at() == callArrived {
		r = s.enter(c)
	}
	if r != nil {
		s.refuse(ctx, rt, id, r)
		return
	}
	got, r := s.ask(ctx, c, body)
	if r != nil {
		s.refuse(ctx, rt, id, r)
		return
	}
	if isList {
		s.models.Store(got)
	}
	s.writeReply(ctx, got)
}

// ask sends a call that makes no tokens to the engine, and reads the whole answer.
func (s *Server) ask(ctx *fasthttp.RequestCtx, c *call, body []byte) (*reply, *refusal.Refusal) {
	req := toEngine(ctx, c.route, body)
	defer fasthttp.ReleaseRequest(req)
	x, err := s.upstream.do(c, req)
	if err != nil {
		return nil, s.engineFault(c, err)
	}
	answer, err := io.ReadAll(io.LimitReader(x, maxHeld+1))
	if len(answer) > maxHeld {
		err = fmt.Errorf("an answer of over %d bytes", maxHeld)
	}
	status, contentType := x.resp.StatusCode(), string(x.resp.Header.ContentType())
	s.upstream.end(c, x, err == nil)
	if err != nil {
		return nil, s.engineFault(c, err)
	}
	if status != fasthttp.StatusOK {
		return nil, refusal.Engine(status, meter.OpenAIError(status, answer))
	}
	return &reply{contentType, answer}, nil
}

// writeReply answers with r. A key that may use some models only sees those of a list.
func (s *Server) writeReply(ctx *fasthttp.RequestCtx, r *reply) {
	body := r.body
	if k := keyOf(ctx); k != nil && k.Models != nil && !ctx.IsPost() {
		body = k.visibleModels(body)
	}
	ctx.Response.Header.SetContentType(r.contentType)
	ctx.Response.SetBody(body)
}

// visibleModels is a list of models less those that k may not use. llama-server has the
// list twice: as OpenAI's API has it in data, by id, and as Ollama's in models, by name.
// What is in neither place as it should be is left out.
func (k *key) visibleModels(list []byte) []byte {
	var all map[string]json.RawMessage
	_ = json.Unmarshal(list, &all) // what is no object names no model
	out := map[string]any{"object": "list", "data": k.visibleEntries(all["data"])}
	if models, ok := all["models"]; ok {
		out["models"] = k.visibleEntries(models)
	}
	b, err := json.Marshal(out)
	if err != nil {
		panic("BUG: models: " + err.Error())
	}
	return b
}

// visibleEntries are the entries of a list whose model k may use.
func (k *key) visibleEntries(list json.RawMessage) []json.RawMessage {
	out := []json.RawMessage{}
	var entries []json.RawMessage
	_ = json.Unmarshal(list, &entries)
	for _, e := range entries {
		var named struct{ ID, Name string }
		if json.Unmarshal(e, &named) == nil && (k.lists(named.ID) || named.ID == "" && k.lists(named.Name)) {
			out = append(out, e)
		}
	}
	return out
}

// modelOf is the model that a request without tokens is for: asked where it matters.
func modelOf(rt *Route, k *key, body []byte) string {
	if k == nil || k.Models == nil {
		return ""
	}
	ask, _, err := meter.Prepare(rt.Dialect, meter.LlamaServer, body)
	if err != nil {
		return "" // and so it is refused
	}
	return ask.Model
}
