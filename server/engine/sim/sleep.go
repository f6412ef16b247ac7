package sim

import (
	"net/http"
	"slices"
	"sync"
	"time"
)

// rest is vLLM's sleep: what of the engine is on the GPU, and whether the weights hold
// what they should (vllm/entrypoints/serve/dev/sleep/api_router.py and rpc/api_router.py).
type rest struct {
	mu      sync.Mutex
	weights bool // asleep: they are not on the GPU
	cache   bool // asleep: the KV cache is not on the GPU
	dropped bool // the weights' memory is there, or will be, without what it held
	woken   bool // it slept once
}

func (r *rest) asleep() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.weights || r.cache
}

// spoilt reports whether the model's answers mean nothing.
func (r *rest) spoilt() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

func (r *rest) hasSlept() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.woken
}

// routeSleep adds the routes of vLLM's development mode.
func (s *server) routeSleep() {
	if !s.opts.devMode {
		return
	}
	// What is asked for stands in the query: a body is ignored.
	s.routes.HandleFunc("POST /sleep", s.sleeps(func(r *http.Request) error {
		level := r.URL.Query().Get("level")
		if level == "0" { // scheduling pauses, and the GPU is held
			return nil
		}
		if err := s.tell(coreSleep); err != nil {
			return err
		}
		s.rest.weights, s.rest.cache = true, true
		s.rest.dropped = level == "2"
		return nil
	}))
	s.routes.HandleFunc("POST /wake_up", s.sleeps(func(r *http.Request) error {
		tags := r.URL.Query()["tags"]
		if s.rest.weights && (len(tags) == 0 || slices.Contains(tags, "weights")) {
			time.Sleep(s.opts.wakeTime)
			if err := s.tell(coreWake); err != nil {
				return err
			}
			s.rest.weights, s.rest.woken = false, true
		}
		if len(tags) == 0 || slices.Contains(tags, "kv_cache") {
			s.rest.cache = false
		}
		return nil
	}))
	s.routes.HandleFunc("GET /is_sleeping", func(w http.ResponseWriter, r *http.Request) {
		s.writeBody(w, 200, obj{{"is_sleeping", s.rest.asleep()}})
	})
	s.routes.HandleFunc("POST /collective_rpc", func(w http.ResponseWriter, r *http.Request) {
		req, ok := s.read(w, r)
		if !ok {
			return
		}
		s.rest.mu.Lock()
		defer s.rest.mu.Unlock()
		switch {
		case req.Method != "reload_weights":
			s.writeError(w, apiError{status: 500, message: "no such method: " + req.Method})
		case s.rest.weights: // there is no memory that it could read them into
			s.writeError(w, apiError{status: 500, message: "CUDA error: an illegal memory access was encountered"})
		default:
			time.Sleep(s.opts.wakeTime)
			s.rest.dropped = false
			s.writeBody(w, 200, obj{{"results", list{nil}}})
		}
	})
}

// sleeps is the handler of a route that changes what is on the GPU; it holds rest.mu
// around change.
func (s *server) sleeps(change func(*http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.opts.sleepMode {
			s.writeError(w, apiError{status: 500, message: "Sleep mode is not enabled."})
			return
		}
		s.rest.mu.Lock()
		defer s.rest.mu.Unlock()
		if err := change(r); err != nil {
			s.writeError(w, apiError{status: 500, message: err.Error()})
			return
		}
		w.WriteHeader(http.StatusOK)
	}
}

// tell gives the engine core an order, where there is one.
func (s *server) tell(order string) error {
	if s.core == nil {
		return nil
	}
	return s.core.ask(order)
}

// crashIfAsleep is what several releases did when a request met a sleeping engine.
func (s *server) crashIfAsleep() {
	if s.opts.crashAsleep && s.rest.asleep() {
		s.logf("CUDA error: an illegal memory access was encountered")
		s.exit(1)
	}
}
