package sim

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

const (
	keepAlive    = 5 * time.Second // both engines close a connection that idles so long
	keepAliveMax = 100             // llama-server: requests on one connection
	bodyMax      = 100 << 20
)

// server answers as one engine process.
type server struct {
	opts    options
	started time.Time
	ready   chan struct{} // closed when the model is loaded
	routes  *http.ServeMux
	counts  counts
	slots   chan struct{} // llama: a place is a running request; nil for vLLM
	served  atomic.Int64  // inference requests that came in
	core    *core         // vllm's; nil for llama and in tests
	sleep   sleepState    // vllm's
	logf    func(format string, args ...any)
	exit    func(status int)
}

func newServer(opts options) *server {
	s := &server{
		opts:    opts,
		started: time.Now(),
		ready:   make(chan struct{}),
		routes:  http.NewServeMux(),
		logf:    func(string, ...any) {},
		exit:    func(int) {},
	}
	if !opts.vllm() {
		s.slots = make(chan struct{}, max(opts.slots, 1))
	}
	s.addRoutes()
	return s
}

// addRoutes lists the routes: first those that both flavours have.
func (s *server) addRoutes() {
	s.routes.HandleFunc("GET /v1/models", s.models)
	s.routes.HandleFunc("POST /v1/chat/completions", s.serve(chat{}))
	s.routes.HandleFunc("POST /v1/completions", s.serve(completions{}))
	s.routes.HandleFunc("POST /v1/responses", s.serve(responses{}))
	s.routes.HandleFunc("POST /v1/messages", s.serve(messages{}))
	s.routes.HandleFunc("POST /v1/messages/count_tokens", s.countTokens)
	s.routes.HandleFunc("POST /v1/embeddings", s.embed)
	s.routes.HandleFunc("POST /v1/rerank", s.rerank)
	s.routes.HandleFunc("POST /rerank", s.rerank)
	s.routes.HandleFunc("POST /tokenize", s.tokenize)
	s.routes.HandleFunc("GET /metrics", s.metrics)
	s.routes.HandleFunc("GET /health", s.health)
	if s.opts.vllm() {
		s.routes.HandleFunc("GET /ping", s.health)
		s.routes.HandleFunc("GET /version", s.version)
		s.addSleepRoutes()
	} else {
		s.routes.HandleFunc("GET /v1/health", s.health)
		s.routes.HandleFunc("GET /models", s.models)
		s.routes.HandleFunc("GET /props", s.props)
		s.routes.HandleFunc("GET /slots", s.listSlots)
	}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Date"] = nil
	if s.opts.vllm() {
		h.Set("Server", "uvicorn")
		select { // bound and mute
		case <-s.ready:
		case <-r.Context().Done():
			return
		}
	} else {
		h.Set("Server", "llama.cpp")
		h["Access-Control-Allow-Origin"] = []string{""}
		select {
		case <-s.ready:
		default:
			s.writeEarly(w, 503, "Loading model")
			return
		}
		h.Set("Keep-Alive", "timeout=5, max=100")
		if n, ok := r.Context().Value(connKey{}).(*atomic.Int64); ok && n.Add(1) >= keepAliveMax {
			h.Set("Connection", "close")
		}
	}
	if !s.allowed(r) {
		if s.opts.vllm() {
			s.writeBody(w, 401, obj{{"error", "Unauthorized"}})
		} else {
			s.writeEarly(w, 401, "Invalid API Key")
		}
		return
	}
	if s.misbehaves(w, r) {
		return
	}
	if _, pattern := s.routes.Handler(r); pattern == "" {
		if s.opts.vllm() {
			s.writeError(w, apiError{status: 404, message: "Not Found"})
		} else {
			s.writeEarly(w, 404, "File Not Found")
		}
		return
	}
	s.routes.ServeHTTP(w, r)
}

// misbehaves answers in the engine's place as -hang-on, -fail-on and -garbage ask.
func (s *server) misbehaves(w http.ResponseWriter, r *http.Request) bool {
	switch path := r.URL.Path; {
	case path == s.opts.hangOn:
		<-r.Context().Done()
	case path == s.opts.failOn:
		s.writeError(w, apiError{status: 500, message: "simulated failure"})
	case s.opts.garbage != "" && r.Method == http.MethodPost && strings.HasPrefix(path, "/v1/") && s.sleep.hasSlept():
		io.WriteString(w, s.opts.garbage)
	default:
		return false
	}
	return true
}

// connKey is the context key of a connection's count of requests.
type connKey struct{}

func countRequests(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, new(atomic.Int64))
}

// allowed checks the key: llama-server everywhere but on its health, and in two
// headers; vLLM on the paths of its dialects alone, and in one.
func (s *server) allowed(r *http.Request) bool {
	if s.opts.key == "" {
		return true
	}
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	given := []string{bearer}
	if s.opts.vllm() {
		guarded := false
		for _, prefix := range []string{"/v1", "/v2", "/inference", "/cohere"} {
			guarded = guarded || strings.HasPrefix(r.URL.Path, prefix)
		}
		if !guarded {
			return true
		}
	} else {
		if r.URL.Path == "/health" || r.URL.Path == "/v1/health" {
			return true
		}
		given = append(given, r.Header.Get("X-Api-Key"))
	}
	for _, key := range given {
		if subtle.ConstantTimeCompare([]byte(key), []byte(s.opts.key)) == 1 {
			return true
		}
	}
	return false
}

// read decodes the body, or answers the error itself.
func (s *server) read(w http.ResponseWriter, r *http.Request) (*request, bool) {
	body, err := io.ReadAll(io.LimitReader(r.Body, bodyMax))
	if err != nil {
		return nil, false
	}
	var req request
	if err := json.Unmarshal(body, &req); err != nil {
		var syntax *json.SyntaxError
		if !s.opts.vllm() && errors.As(err, &syntax) {
			// The recorded build's own status; newer ones say 400.
			s.writeError(w, apiError{status: 500, message: fmt.Sprintf(
				"[json.exception.parse_error.101] parse error at line 1, column %d: %v", syntax.Offset, err)})
		} else {
			s.writeError(w, apiError{status: 400, message: err.Error()})
		}
		return nil, false
	}
	if s.opts.vllm() && req.Model != "" && req.Model != s.opts.model {
		s.writeError(w, apiError{status: 404, message: fmt.Sprintf("The model `%s` does not exist.", req.Model)})
		return nil, false
	}
	if s.opts.vllm() && req.StreamOptions != nil && !req.Stream {
		s.writeError(w, apiError{status: 400, message: "Stream options can only be defined when `stream=True`."})
		return nil, false
	}
	return &req, true
}

// dialect writes one API's answers. Its methods are called in the order of their
// declaration; those that take a stream only for streams.
type dialect interface {
	prompts(*request) ([]prompt, error)
	start(*job, *stream)             // before the first token
	token(*job, *sequence, *stream)  // after each
	finish(*job, *sequence, *stream) // after the last of a sequence
	end(*job, *stream)               // after all sequences
	fail(*job, apiError, *stream)    // in place of the rest
	whole(*job) obj                  // the answer of a request that does not stream
}

// serve is the handler of a dialect.
func (s *server) serve(d dialect) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if int(s.served.Add(1)) == s.opts.exitOn {
			s.exit(s.opts.exitCode)
		}
		req, ok := s.read(w, r)
		if !ok {
			return
		}
		prompts, err := d.prompts(req)
		if err != nil {
			s.refuse(w, d, err)
			return
		}
		j, err := s.newJob(req, prompts)
		if errors.Is(err, errTooLong) {
			s.writeError(w, s.tooLong(prompts[0].tokens))
			return
		}
		if err != nil {
			s.writeError(w, apiError{status: 400, message: err.Error()})
			return
		}
		s.logf("request %s: %.200q", r.URL.Path, prompts[0].text) // real engines do
		s.crashIfAsleep()
		if !s.takeSlot(r.Context()) {
			return
		}
		defer s.freeSlot()
		if req.Stream {
			s.serveStream(w, r, d, j)
		} else {
			s.serveWhole(w, r, d, j)
		}
	}
}

// refuse answers a prompt that is absent or malformed.
func (s *server) refuse(w http.ResponseWriter, d dialect, err error) {
	e := apiError{status: 400, message: err.Error()}
	if errors.Is(err, errAbsent) {
		name := "messages"
		switch d.(type) {
		case completions:
			name = "prompt"
		case responses:
			name = "input"
		}
		e.message = fmt.Sprintf("'%s' is required", name)
	} else if strings.HasPrefix(e.message, "Failed to parse") && !s.opts.vllm() {
		e.status = 500
	}
	s.writeError(w, e)
}

func (s *server) serveWhole(w http.ResponseWriter, r *http.Request, d dialect, j *job) {
	err := s.run(r.Context(), j, func() {}, func(*sequence) {})
	switch {
	case errors.Is(err, errDrop):
		panic(http.ErrAbortHandler)
	case errors.Is(err, errFail):
		s.writeError(w, apiError{status: 500, message: err.Error()})
	case err == nil:
		s.writeBody(w, 200, d.whole(j))
	}
}

func (s *server) serveStream(w http.ResponseWriter, r *http.Request, d dialect, j *job) {
	st := s.openStream(w)
	if j.faults.NullEvent {
		st.raw("data: null", nil)
	}
	err := s.run(r.Context(), j,
		func() { d.start(j, st) },
		func(q *sequence) {
			d.token(j, q, st)
			if q.done() {
				d.finish(j, q, st)
			}
		})
	switch {
	case errors.Is(err, errDrop):
		panic(http.ErrAbortHandler)
	case errors.Is(err, errFail):
		d.fail(j, apiError{status: 500, message: err.Error()}, st)
	case err == nil:
		for _, q := range j.seqs {
			if len(q.words) == 0 {
				d.finish(j, q, st)
			}
		}
		d.end(j, st)
	}
}

// doneStream is the failure of the dialects that end with [DONE]. llama-server leaves
// [DONE] out after an error, vLLM doesn't.
type doneStream struct{}

func (doneStream) fail(j *job, e apiError, st *stream) {
	st.data(e.body(j.vllm))
	if j.vllm {
		st.done()
	}
}

// eventStream is the failure of the dialects with named events.
type eventStream struct{}

func (eventStream) fail(j *job, e apiError, st *stream) {
	if j.vllm {
		st.event("error", obj{{"type", "error"}, {"error", obj{{"type", e.kind(true)}, {"message", e.message}}}})
		return
	}
	st.event("error", obj{{"code", e.status}, {"message", e.message}, {"type", e.kind(false)}})
}

// takeSlot waits for one of llama-server's slots; a client that waits sees no byte.
func (s *server) takeSlot(ctx context.Context) bool {
	if s.slots == nil {
		s.counts.running.Add(1)
		return true
	}
	s.counts.waiting.Add(1)
	defer s.counts.waiting.Add(-1)
	select {
	case s.slots <- struct{}{}:
		s.counts.running.Add(1)
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *server) freeSlot() {
	s.counts.running.Add(-1)
	if s.slots != nil {
		<-s.slots
	}
}
