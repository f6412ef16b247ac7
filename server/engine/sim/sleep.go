package sim

import (
	"net/http"
	"slices"
	"sync"
	"time"
)

// sleepState is vLLM's sleep: what of the engine is off the GPU, and whether the weights
// are what they should be (vllm/entrypoints/serve/dev/sleep/api_router.py and
// rpc/api_router.py).
type sleepState struct {
	mu          sync.Mutex
	weightsOff  bool // the weights are not on the GPU; guarded by mu, as all below
	cacheOff    bool // the KV cache is not on the GPU
	weightsLost bool // the weights' memory is on the GPU, or will be, without its content
	woken       bool // it slept once
}

func (s *sleepState) asleep() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.weightsOff || s.cacheOff
}

// answersNonsense reports whether the model answers from weights without content.
func (s *sleepState) answersNonsense() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.weightsLost
}

func (s *sleepState) hasSlept() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.woken
}

// addSleepRoutes adds the routes of vLLM's development mode.
func (s *server) addSleepRoutes() {
	if !s.opts.devMode {
		return
	}
	// What is asked for stands in the query: a body is ignored.
	s.routes.HandleFunc("POST /sleep", s.sleepRoute(func(r *http.Request) error {
		level := r.URL.Query().Get("level")
		if level == "0" { // scheduling pauses, and the GPU is held
			return nil
		}
		if err := s.orderCore(coreSleep); err != nil {
			return err
		}
		s.sleep.weightsOff, s.sleep.cacheOff = true, true
		s.sleep.weightsLost = level == "2"
		return nil
	}))
	s.routes.HandleFunc("POST /wake_up", s.sleepRoute(func(r *http.Request) error {
		tags := r.URL.Query()["tags"]
		if s.sleep.weightsOff && (len(tags) == 0 || slices.Contains(tags, "weights")) {
			time.Sleep(s.opts.wakeTime)
			if err := s.orderCore(coreWake); err != nil {
				return err
			}
			s.sleep.weightsOff, s.sleep.woken = false, true
		}
		if len(tags) == 0 || slices.Contains(tags, "kv_cache") {
			s.sleep.cacheOff = false
		}
		return nil
	}))
	s.routes.HandleFunc("GET /is_sleeping", func(w http.ResponseWriter, r *http.Request) {
		s.writeBody(w, 200, obj{{"is_sleeping", s.sleep.asleep()}})
	})
	s.routes.HandleFunc("POST /collective_rpc", func(w http.ResponseWriter, r *http.Request) {
		req, ok := s.read(w, r)
		if !ok {
			return
		}
		s.sleep.mu.Lock()
		defer s.sleep.mu.Unlock()
		switch {
		case req.Method != "reload_weights":
			s.writeError(w, apiError{status: 500, message: "no such method: " + req.Method})
		case s.sleep.weightsOff: // there is no memory that it could read them into
			s.writeError(w, apiError{status: 500, message: "CUDA error: an illegal memory access was encountered"})
		default:
			time.Sleep(s.opts.wakeTime)
			s.sleep.weightsLost = false
			s.writeBody(w, 200, obj{{"results", list{nil}}})
		}
	})
}

// sleepRoute is the handler of a route that changes what is on the GPU. It holds sleep.mu
// during change.
func (s *server) sleepRoute(change func(*http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.opts.sleepMode {
			s.writeError(w, apiError{status: 500, message: "Sleep mode is not enabled."})
			return
		}
		s.sleep.mu.Lock()
		defer s.sleep.mu.Unlock()
		if err := change(r); err != nil {
			s.writeError(w, apiError{status: 500, message: err.Error()})
			return
		}
		w.WriteHeader(http.StatusOK)
	}
}

// orderCore gives the engine core an order, where there is one.
func (s *server) orderCore(order string) error {
	if s.core == nil {
		return nil
	}
	return s.core.ask(order)
}

// crashIfAsleep is what several releases did when a request met a sleeping engine.
func (s *server) crashIfAsleep() {
	if s.opts.crashAsleep && s.sleep.asleep() {
		s.logf("CUDA error: an illegal memory access was encountered")
		s.exit(1)
	}
}
