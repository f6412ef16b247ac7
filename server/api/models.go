package api

import (
	"encoding/json"

	"github.com/valyala/fasthttp"

	"spotinference/server/meter"
)

// models is an engine's answer to GET /v1/models, or to another question that makes no
// tokens.
type models struct {
	kind string
	body []byte
}

// show answers with m. A key that may use some models only sees those of a list.
func (s *Server) show(ctx *fasthttp.RequestCtx, m *models) {
	body := m.body
	if k := keyOf(ctx); k != nil && k.Models != nil && !ctx.IsPost() {
		body = k.visible(body)
	}
	ctx.Response.Header.SetContentType(m.kind)
	ctx.Response.SetBody(body)
}

// visible is a list of models less those that k may not use. llama-server has the list
// twice: as OpenAI's API has it in data, by id, and as Ollama's in models, by name. What
// is in neither place as it should be is left out.
func (k *key) visible(list []byte) []byte {
	var all map[string]json.RawMessage
	_ = json.Unmarshal(list, &all) // what is no object names no model
	out := map[string]any{"object": "list", "data": k.listed(all["data"])}
	if models, ok := all["models"]; ok {
		out["models"] = k.listed(models)
	}
	b, err := json.Marshal(out)
	if err != nil {
		panic("BUG: models: " + err.Error())
	}
	return b
}

// listed are the entries of a list that k may use.
func (k *key) listed(list json.RawMessage) []json.RawMessage {
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
func modelOf(rt route, k *key, body []byte) string {
	if k == nil || k.Models == nil {
		return ""
	}
	ask, _, err := meter.Prepare(rt.dialect, meter.LlamaServer, body)
	if err != nil {
		return "" // and so it is refused
	}
	return ask.Model
}
