package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// recorder stands between one agent and what it asks. It passes everything on at once,
// and notes each try; it keeps neither keys nor what was asked.
type recorder struct {
	url   string
	srv   *http.Server
	first chan struct{} // closed at the first try
	// tools tells an agent's prompts from what else it asks, such as a title: they have
	// tools. A library's have none.
	tools bool
	// onStream is called once, when the answer to a prompt streams. May be nil.
	onStream func()

	mu       sync.Mutex
	tries    []*attempt // guarded by mu
	streamed bool       // guarded by mu
}

// attempt is one request and what became of it. Its fields are guarded by the
// recorder's mu.
type attempt struct {
	At         time.Time `json:"at"`
	Method     string    `json:"method"`
	Path       string    `json:"path"`
	Upgrade    string    `json:"upgrade,omitempty"`
	Bytes      int       `json:"bytes"`
	Stream     bool      `json:"stream"`
	Tools      int       `json:"tools"`
	Prompt     bool      `json:"prompt"` // it is no title or the like
	Status     int       `json:"status"` // 0: none came
	RetryAfter string    `json:"retry_after,omitempty"`
	ID         string    `json:"id,omitempty"` // of the answer
	Took       float64   `json:"seconds"`
	Left       bool      `json:"left,omitempty"` // the agent did not wait for the end
	Said       said      `json:"answer"`

	body bytes.Buffer
}

// quietLog takes what net/http says of agents that leave.
var quietLog = log.New(io.Discard, "", 0)

// keptBody is how much of an answer is read for what it says.
const keptBody = 8 << 20

// record listens on a port of its own and passes on to target. For tools and onStream see
// recorder.
func record(target string, tools bool, onStream func()) (*recorder, error) {
	to, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &recorder{url: "http://" + ln.Addr().String(), first: make(chan struct{}), tools: tools, onStream: onStream}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to)
			p.Out.Host = p.In.Host
		},
		FlushInterval: -1,
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 8},
		ModifyResponse: func(resp *http.Response) error {
			r.head(resp)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		ErrorLog:     quietLog,
	}
	r.srv = &http.Server{Handler: r.noting(proxy), ErrorLog: quietLog}
	go func() { _ = r.srv.Serve(ln) }()
	return r, nil
}

// attemptKey is the context key of the try that a request is.
type attemptKey struct{}

// noting notes each try from its arrival to the end of its answer.
func (r *recorder) noting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		a := &attempt{At: time.Now(), Method: req.Method, Path: req.URL.Path, Upgrade: req.Header.Get("Upgrade")}
		r.mu.Lock()
		if r.tries = append(r.tries, a); len(r.tries) == 1 {
			close(r.first)
		}
		r.mu.Unlock()
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		var asked struct {
			Stream bool              `json:"stream"`
			Tools  []json.RawMessage `json:"tools"`
		}
		_ = json.Unmarshal(body, &asked) // what is no JSON asks for no stream
		req.Body = io.NopCloser(bytes.NewReader(body))
		r.mu.Lock()
		a.Bytes, a.Stream, a.Tools = len(body), asked.Stream, len(asked.Tools)
		a.Prompt = a.Tools > 0 || !r.tools
		r.mu.Unlock()
		defer func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			a.Took = time.Since(a.At).Seconds()
			a.Left = req.Context().Err() != nil
			a.Said = read(a.Path, a.body.Bytes())
		}()
		next.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), attemptKey{}, a)))
	})
}

// head notes the head of an answer, and has its body noted on its way.
func (r *recorder) head(resp *http.Response) {
	a, ok := resp.Request.Context().Value(attemptKey{}).(*attempt)
	if !ok {
		return
	}
	r.mu.Lock()
	a.Status, a.RetryAfter, a.ID = resp.StatusCode, resp.Header.Get("Retry-After"), resp.Header.Get("X-Request-Id")
	r.mu.Unlock()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = &notedBody{ReadCloser: resp.Body, note: func(p []byte) { r.note(a, p) }}
	}
}

// note keeps a piece of an answer.
func (r *recorder) note(a *attempt, p []byte) {
	r.mu.Lock()
	if a.body.Len() < keptBody {
		a.body.Write(p)
	}
	speaks := !r.streamed && a.Stream && a.Prompt && a.Status == http.StatusOK && bytes.Contains(a.body.Bytes(), []byte("delta"))
	r.streamed = r.streamed || speaks
	r.mu.Unlock()
	if speaks && r.onStream != nil {
		r.onStream()
	}
}

type notedBody struct {
	io.ReadCloser
	note func([]byte)
}

func (b *notedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.note(p[:n])
	}
	return n, err
}

// close ends it, and returns the tries.
func (r *recorder) close() []attempt {
	_ = r.srv.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []attempt
	for _, a := range r.tries {
		one := *a
		one.body = bytes.Buffer{}
		all = append(all, one)
	}
	return all
}
