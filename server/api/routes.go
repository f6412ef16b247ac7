package api

import (
	"strings"

	"github.com/valyala/fasthttp"

	"spotinference/server/meter"
	"spotinference/server/refusal"
)

// Route is one path that is served. Everything else of the engine is out of reach: the
// table of routes is the allow-list. The engine is asked for the same paths. A path of the
// engine's is served without its /v1, too: llama-server has some of them so, and a client's
// base URL may lack it.
type Route struct {
	Method  string
	Path    string
	Dialect meter.Dialect // of its answers and refusals; OpenAI's where it has none of its own
	Does    string        // what it does, for people
	Access  Access
	Form    bool // its body is a multipart form

	action action
}

// Access is whom a path is served to, where keys are asked for.
type Access uint8

const (
	WithKey          Access = iota
	WithKeyOrLocally        // without a key where the listener is on a loopback address
	WithoutKey
)

func (a Access) String() string {
	return [...]string{"with a key", "with a key, or on loopback", "without a key"}[a]
}

// action is what serves a path.
type action uint8

const (
	actionGenerate action = iota // the engine makes tokens, which are counted
	actionQuery                  // the engine answers, and makes no tokens
	actionList                   // likewise, and a sleeping engine is not woken
	actionHealth
	actionReadiness
	actionMetrics
)

// Routes is the table of all paths.
func Routes() []Route {
	return []Route{
		{Method: fasthttp.MethodPost, Path: "/v1/chat/completions", Dialect: meter.Chat, action: actionGenerate,
			Does: "answers a conversation"},
		{Method: fasthttp.MethodPost, Path: "/v1/completions", Dialect: meter.Completions, action: actionGenerate,
			Does: "continues a text"},
		{Method: fasthttp.MethodPost, Path: "/v1/responses", Dialect: meter.Responses, action: actionGenerate,
			Does: "answers a conversation, in OpenAI's newer dialect"},
		{Method: fasthttp.MethodPost, Path: "/v1/messages", Dialect: meter.Messages, action: actionGenerate,
			Does: "answers a conversation, in Anthropic's dialect"},
		{Method: fasthttp.MethodPost, Path: "/v1/messages/count_tokens", Dialect: meter.Messages, action: actionQuery,
			Does: "counts the tokens of a conversation, in Anthropic's dialect"},
		{Method: fasthttp.MethodPost, Path: "/v1/embeddings", Dialect: meter.Embeddings, action: actionGenerate,
			Does: "turns texts into vectors"},
		{Method: fasthttp.MethodPost, Path: "/v1/rerank", Dialect: meter.Rerank, action: actionGenerate,
			Does: "orders documents by how well they answer a query"},
		{Method: fasthttp.MethodPost, Path: "/v1/audio/transcriptions", Dialect: meter.Transcriptions, Form: true, action: actionGenerate,
			Does: "writes down speech"},
		{Method: fasthttp.MethodPost, Path: "/v1/audio/translations", Dialect: meter.Translations, Form: true, action: actionGenerate,
			Does: "writes down speech in English"},
		{Method: fasthttp.MethodPost, Path: "/v1/audio/speech", Dialect: meter.Speech, action: actionGenerate,
			Does: "speaks a text"},
		{Method: fasthttp.MethodGet, Path: "/v1/models", action: actionList,
			Does: "lists the models; from memory while the engine sleeps"},
		{Method: fasthttp.MethodGet, Path: "/healthz", Access: WithoutKey, action: actionHealth,
			Does: "says that the gateway is there"},
		{Method: fasthttp.MethodGet, Path: "/readyz", Access: WithoutKey, action: actionReadiness,
			Does: "says whether a request would be served now, with status 503 where not, and why"},
		{Method: fasthttp.MethodGet, Path: "/metrics", Access: WithKeyOrLocally, action: actionMetrics,
			Does: "shows the metrics in Prometheus' text format"},
	}
}

// Endpoint is what the ledger and the metrics call the path; "" where it makes no tokens.
func (r *Route) Endpoint() string {
	if r.action != actionGenerate {
		return ""
	}
	return r.Dialect.String()
}

// forwards reports whether the engine is asked.
func (r *Route) forwards() bool { return r.action <= actionList }

// Routes without a path, for what is refused before it has one that is served.
var (
	unknownRoute = &Route{}
	unreadRoute  = &Route{Dialect: refusal.AnyDialect} // the request could not be read
)

// router finds routes by their paths.
type router struct {
	byPath map[string]*Route
	served string // the paths that the engine is asked for, as a sentence has them
}

func newRouter() router {
	r := router{byPath: map[string]*Route{}}
	var paths []string
	for _, route := range Routes() {
		r.byPath[route.Path] = &route
		if route.forwards() {
			r.byPath[strings.TrimPrefix(route.Path, "/v1")] = &route
			paths = append(paths, route.Path)
		}
	}
	last := len(paths) - 1
	r.served = strings.Join(paths[:last], ", ") + " and " + paths[last]
	return r
}

// find returns the route of a path, unknownRoute where there is none. The path is taken
// as it was written: nothing is decoded or tidied.
func (r *router) find(path []byte) *Route {
	if route := r.byPath[string(path)]; route != nil {
		return route
	}
	return unknownRoute
}
