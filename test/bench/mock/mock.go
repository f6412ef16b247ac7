// Package mock is an engine that costs next to nothing: its answers are made
// once, and an event of a stream is one write. It stands behind a gateway whose
// own price is to be seen; server/engine/sim is the one that imitates engines
// faithfully.
//
// It answers /health, /v1/models and /v1/chat/completions in llama-server's
// words. What a stream is like stands in the request's body: see [Plan].
package mock

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// Plan is what a stream is like.
type Plan struct {
	Tokens int           // events with content
	Pace   time.Duration // between two of them
}

// String is the plan as a prompt holds it.
func (p Plan) String() string { return fmt.Sprintf("plan(%d,%d)", p.Tokens, p.Pace.Microseconds()) }

// planIn reads the plan in a body; 16 tokens at once where it has none.
func planIn(body []byte) Plan {
	p := Plan{Tokens: 16}
	if at := bytes.Index(body, []byte("plan(")); at >= 0 {
		var us int64
		if n, _ := fmt.Sscanf(string(body[at:min(at+40, len(body))]), "plan(%d,%d)", &p.Tokens, &us); n == 2 {
			p.Pace = time.Duration(us) * time.Microsecond
		}
	}
	return p
}

// Word is the content of a stream's event i.
func Word(i int) string { return fmt.Sprintf(" w%d", i) }

// Prompt and Completion are the tokens that an answer without a stream reports.
const (
	Prompt     = 96
	Completion = 12
)

// Engine answers on any number of connections.
type Engine struct {
	json, models, health []byte
	role, stop, done     []byte
	head                 []byte

	mu    sync.Mutex
	words [2][][]byte // events by index: plain, and with timings; guarded by mu
}

// New makes the answers.
func New() *Engine {
	whole := func(body string) []byte {
		return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	return &Engine{
		json: whole(fmt.Sprintf(`{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"The bill is a difference of two bills."}}],"created":1795436993,"model":"mock","system_fingerprint":"b0-mock","object":"chat.completion","usage":{"completion_tokens":%d,"prompt_tokens":%d,"total_tokens":%d},"id":"chatcmpl-mock"}`,
			Completion, Prompt, Prompt+Completion)),
		models: whole(`{"object":"list","data":[{"id":"mock","object":"model","created":1795436993,"owned_by":"mock"}]}`),
		health: whole(`{"status":"ok"}`),
		head:   []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"),
		role:   event(`{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],` + rest + `}`),
		stop:   event(`{"choices":[{"finish_reason":"stop","index":0,"delta":{}}],` + rest + `}`),
		done:   append(chunk("data: [DONE]\n\n"), "0\r\n\r\n"...),
	}
}

const rest = `"created":1795436993,"id":"chatcmpl-mock","model":"mock","system_fingerprint":"b0-mock","object":"chat.completion.chunk"`

func chunk(s string) []byte    { return fmt.Appendf(nil, "%x\r\n%s\r\n", len(s), s) }
func event(json string) []byte { return chunk("data: " + json + "\n\n") }

// events are the first n events with content.
func (e *Engine) events(n int, timed bool) [][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	kind := 0
	if timed {
		kind = 1
	}
	for i := len(e.words[kind]); i < n; i++ {
		end := rest
		if timed {
			end += fmt.Sprintf(`,"timings":{"cache_n":0,"prompt_n":%d,"prompt_ms":12.304,"prompt_per_token_ms":0.12816666666666668,"prompt_per_second":7802.340702210663,"predicted_n":%d,"predicted_ms":%d.628,"predicted_per_token_ms":5.125634920634921,"predicted_per_second":195.09907692307693}`, Prompt, i+1, i*5)
		}
		e.words[kind] = append(e.words[kind], event(fmt.Sprintf(`{"choices":[{"finish_reason":null,"index":0,"delta":{"content":%q}}],%s}`, Word(i), end)))
	}
	return e.words[kind][:n]
}

// Serve answers on ln until it is closed.
func (e *Engine) Serve(ln net.Listener) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go e.serve(c)
	}
}

// serve answers the requests of one connection.
func (e *Engine) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReaderSize(c, 16<<10)
	var req fasthttp.Request
	for req.Read(r) == nil {
		answer := e.json
		switch path := string(req.RequestURI()); {
		case path == "/health":
			answer = e.health
		case path == "/v1/models":
			answer = e.models
		case says(req.Body(), "stream"):
			if e.stream(c, req.Body()) != nil {
				return
			}
			continue
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// says reports whether a body has the member set to true.
func says(body []byte, name string) bool { return bytes.Contains(body, []byte(`"`+name+`":true`)) }

func (e *Engine) stream(c net.Conn, body []byte) error {
	plan := planIn(body)
	if _, err := c.Write(append(e.head[:len(e.head):len(e.head)], e.role...)); err != nil {
		return err
	}
	next := time.Now()
	for _, ev := range e.events(plan.Tokens, says(body, "timings_per_token")) {
		if plan.Pace > 0 {
			next = next.Add(plan.Pace)
			time.Sleep(time.Until(next))
		}
		if _, err := c.Write(ev); err != nil {
			return err
		}
	}
	end := [][]byte{e.stop, nil, e.done}
	if says(body, "include_usage") {
		end[1] = event(fmt.Sprintf(`{"choices":[],%s,"usage":{"completion_tokens":%d,"prompt_tokens":%d,"total_tokens":%d}}`,
			rest, plan.Tokens, Prompt, plan.Tokens+Prompt))
	}
	for _, p := range end {
		if _, err := c.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// Listen listens where llama-server's --host and --port say. Other flags are
// passed over.
func Listen(args []string) (net.Listener, error) {
	host, port := "127.0.0.1", "8080"
	for i := 0; i+1 < len(args); i++ {
		switch args[i] {
		case "--host":
			host = args[i+1]
		case "--port":
			port = args[i+1]
		}
	}
	if strings.HasSuffix(host, ".sock") {
		os.Remove(host)
		return net.Listen("unix", host)
	}
	return net.Listen("tcp", net.JoinHostPort(host, port))
}
