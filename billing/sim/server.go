package sim

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

type object = map[string]any

// routes are those of the simulator's own side, and of every API that it speaks.
func (s *Sim) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for _, a := range apis {
		a.routes(s, mux)
	}
	mux.HandleFunc("GET /sim/books", s.getBooks)
	mux.HandleFunc("GET /sim/answers", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, s.Answers()) })
	mux.HandleFunc("GET /sim/fault", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, s.Fault()) })
	mux.HandleFunc("POST /sim/fault", s.postFault)
	mux.HandleFunc("POST /sim/status", func(w http.ResponseWriter, r *http.Request) {
		s.SetStatus(r.FormValue("status"))
		reply(w, 200, object{"status": true})
	})
	mux.HandleFunc("POST /sim/other", nanosHandler(s.SetOther))
	mux.HandleFunc("POST /sim/topup", nanosHandler(s.TopUp))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 404, object{"status": false, "message": "Not found", "error_reason": "not_found"})
	})
	return mux
}

// nanosHandler calls set with the amount that is asked for.
func nanosHandler(set func(nanos int64)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		nanos, err := strconv.ParseInt(r.FormValue("nanos"), 10, 64)
		if err != nil {
			reply(w, 400, object{"error": "nanos is not a whole number"})
			return
		}
		set(nanos)
		reply(w, 200, object{"status": true})
	}
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(body) // to a client that may have left
}

func pathID(r *http.Request) int64 {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return 0
	}
	return id
}

// isDeleted reports whether a resource was deleted.
func (s *Sim) isDeleted(r *resource) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.deleted
}

// shown is the second up to which bills are shown. Called with mu held.
func (s *Sim) shown() int64 {
	if s.fault.Mode == Frozen {
		return s.frozenAt
	}
	return s.cfg.Now().Unix()
}

// find is called with mu held.
func (s *Sim) find(kind string, id int64) *resource {
	for _, r := range s.all() {
		if r.kind == kind && r.id == id {
			return r
		}
	}
	return nil
}

func (s *Sim) nameOf(r *resource) string {
	for _, v := range s.cfg.Volumes {
		if r.kind == "volume" && v.ID == r.id {
			return v.Name
		}
	}
	return s.cfg.VM.Name
}

func (s *Sim) sizeOf(r *resource) int64 {
	for _, v := range s.cfg.Volumes {
		if v.ID == r.id {
			return v.SizeGB
		}
	}
	return 0
}

func (s *Sim) getBooks(w http.ResponseWriter, r *http.Request) {
	from, err := time.Parse(time.RFC3339, r.FormValue("from"))
	if err != nil {
		reply(w, 400, object{"error": "from is not an RFC 3339 time"})
		return
	}
	to := s.cfg.Now()
	if text := r.FormValue("to"); text != "" {
		if to, err = time.Parse(time.RFC3339, text); err != nil {
			reply(w, 400, object{"error": "to is not an RFC 3339 time"})
			return
		}
	}
	reply(w, 200, s.Books(from, to))
}
