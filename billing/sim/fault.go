package sim

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The ways to misbehave. A server that is gone altogether is the caller's to make:
// end Run's context, then Listen on the same address again.
const (
	None          = "none"
	Dark          = "dark"           // takes the call and never answers
	Slow          = "slow"           // answers after Delay
	ServerError   = "500"            // the API's own intermittent error
	TooMany       = "429"            // with RetryAfter, if that is set
	Unauthorized  = "401"            // as if the key had been withdrawn
	HTML          = "html"           // a gateway's page, with 200
	Truncated     = "truncated"      // half of the JSON
	Cut           = "cut"            // the connection breaks half-way
	NaN           = "nan"            // a bill that is no number
	Negative      = "negative"       // a bill below zero
	Euro          = "euro"           // a bill in another currency, of Hyperstack alone
	Frozen        = "frozen"         // good answers whose bill stands still
	Empty         = "empty"          // a bill without an entry
	StatusFalse   = "status_false"   // 200, status false, nothing else
	Elsewhere     = "redirect"       // to To
	Huge          = "huge"           // a body without end
	MissingVolume = "missing_volume" // the volumes are gone
	Refund        = "refund"         // the machine's bill falls by Nanos, once
	Skew          = "skew"           // the clock in the Date header is off by Delay
)

// Fault is how the API misbehaves.
type Fault struct {
	Mode       string        `json:"mode"`
	Times      int           `json:"times"`       // so many calls, then none; 0 until changed
	Only       string        `json:"only"`        // calls whose path holds this; "" for all
	RetryAfter int           `json:"retry_after"` // seconds
	Delay      time.Duration `json:"delay"`
	Nanos      int64         `json:"nanos"`
	To         string        `json:"to"`
}

var errFault = errors.New("sim: unknown fault")

// SetFault makes every call from now on go wrong as f says. Refund happens at once
// and leaves no fault behind.
func (s *Sim) SetFault(f Fault) error {
	switch f.Mode {
	case "":
		f.Mode = None
	case Slow:
		defaultTo(&f.Delay, 3*time.Second)
	case Skew:
		defaultTo(&f.Delay, 2*time.Minute)
	case None, Dark, ServerError, TooMany, Unauthorized, HTML, Truncated, Cut, NaN, Negative, Euro, Frozen, Empty, StatusFalse,
		Elsewhere, Huge, MissingVolume, Refund:
	default:
		return fmt.Errorf("%w %q", errFault, f.Mode)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now().Unix()
	if f.Mode == Refund {
		// From the next second on, as every change: no answer is made untrue.
		s.vm.refunds = append(s.vm.refunds, refund{at: now + 1, nanos: f.Nanos})
		f = Fault{Mode: None}
	}
	s.frozenAt = now
	s.set(f)
	return nil
}

// set lets go of the calls that the old fault holds. Called with mu held.
func (s *Sim) set(f Fault) {
	s.fault = f
	close(s.changed)
	s.changed = make(chan struct{})
}

// Fault returns the fault in force.
func (s *Sim) Fault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fault
	defaultTo(&f.Mode, None)
	return f
}

func (s *Sim) postFault(w http.ResponseWriter, r *http.Request) {
	f := Fault{Mode: r.FormValue("mode"), Only: r.FormValue("only"), To: r.FormValue("to")}
	var errs []error
	number := func(name string) int64 {
		text := r.FormValue(name)
		if text == "" {
			return 0
		}
		n, err := strconv.ParseInt(text, 10, 64)
		errs = append(errs, err)
		return n
	}
	f.Times, f.RetryAfter, f.Nanos = int(number("times")), int(number("retry_after")), number("nanos")
	if text := r.FormValue("delay"); text != "" {
		d, err := time.ParseDuration(text)
		errs = append(errs, err)
		f.Delay = d
	}
	if err := errors.Join(append(errs, s.SetFault(f))...); err != nil {
		reply(w, 400, object{"error": err.Error()})
		return
	}
	reply(w, 200, s.Fault())
}

// take returns the fault for a call to path, and what is closed when that changes.
func (s *Sim) take(path string) (Fault, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fault
	if f.Mode == "" || f.Mode == None || !strings.Contains(path, f.Only) {
		return Fault{Mode: None}, s.changed
	}
	if !said(f.Mode) {
		s.count()
	}
	return f, s.changed
}

// said tells the faults of what is said from those of how. They must last until
// the answer is made.
func said(mode string) bool { return mode == Frozen || mode == Empty || mode == MissingVolume }

// done ends a call that had the fault f.
func (s *Sim) done(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if said(f.Mode) && s.fault.Mode == f.Mode {
		s.count()
	}
}

// count ends a fault that was for so many calls only. Called with mu held.
func (s *Sim) count() {
	if s.fault.Times == 0 {
		return
	}
	if s.fault.Times--; s.fault.Times == 0 {
		s.set(Fault{Mode: None})
	}
}

func (s *Sim) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "spotinference-sim")
	w.Header().Set("Date", s.cfg.Now().UTC().Format(http.TimeFormat))
	if strings.HasPrefix(r.URL.Path, "/sim/") {
		s.mux.ServeHTTP(w, r)
		return
	}
	f, changed := s.take(r.URL.Path)
	defer s.done(f)
	for _, a := range apis {
		if a.fault != nil && a.fault(s, w, r, f) {
			return
		}
	}
	switch f.Mode {
	case Dark:
		select {
		case <-r.Context().Done():
		case <-changed:
		}
		panic(http.ErrAbortHandler)
	case Slow:
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-r.Context().Done():
		case <-t.C:
		}
		s.mux.ServeHTTP(w, r)
	case ServerError:
		reply(w, 500, object{"message": "Internal Server Error"})
	case TooMany:
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
		}
		reply(w, 429, object{"status": false, "message": "Too many requests"})
	case Unauthorized:
		code, body := refusal(401, "Unauthorized", "unauthorized")
		reply(w, code, body)
	case HTML:
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html><body>Welcome</body></html>")
	case StatusFalse:
		reply(w, 200, object{"status": false, "message": "something"})
	case Elsewhere:
		w.Header().Set("Location", f.To)
		w.WriteHeader(http.StatusFound)
	case Huge:
		s.huge(w, r)
	case Skew:
		w.Header().Set("Date", s.cfg.Now().Add(f.Delay).UTC().Format(http.TimeFormat))
		s.mux.ServeHTTP(w, r)
	case Truncated, Cut, NaN, Negative, Euro:
		s.spoiled(w, r, f.Mode)
	default: // None, and the faults of what is said rather than how
		s.mux.ServeHTTP(w, r)
	}
}

// bills are the amounts of every API, with their names.
var bills = regexp.MustCompile(`("(?:incurred_bill|totalAmount|amount)":)[-+.0-9eE]+`)

// spoiled makes the right answer and breaks it.
func (s *Sim) spoiled(w http.ResponseWriter, r *http.Request, mode string) {
	rec := &recorder{header: make(http.Header), code: 200}
	s.mux.ServeHTTP(rec, r)
	body := rec.body.Bytes()
	w.Header().Set("Content-Type", "application/json")
	switch mode {
	case NaN:
		body = bills.ReplaceAll(body, []byte("${1}NaN"))
		w.WriteHeader(rec.code)
		w.Write(body)
	case Negative:
		w.WriteHeader(rec.code)
		w.Write(bills.ReplaceAll(body, []byte("${1}-1")))
	case Euro:
		w.WriteHeader(rec.code)
		w.Write(bytes.ReplaceAll(body, []byte(`"org_id":`), []byte(`"currency":"EUR","org_id":`)))
	case Truncated:
		w.WriteHeader(rec.code)
		w.Write(body[:len(body)/2])
	case Cut:
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(rec.code)
		w.Write(body[:len(body)/2])
		panic(http.ErrAbortHandler)
	}
}

// huge writes white space until the client has had enough, or 64 MiB.
func (s *Sim) huge(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, "{")
	block := bytes.Repeat([]byte(" "), 1<<20)
	for range 64 {
		if _, err := w.Write(block); err != nil || r.Context().Err() != nil {
			return
		}
	}
}

// recorder keeps an answer, to be broken before it is sent.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(code int)        { r.code = code }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
