package api_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/queue"
)

// refusal is what a client must be told.
type refusal struct {
	status    int
	typ, code string // OpenAI's; "" is null
	anthropic string // Anthropic's type
	retry     string // Retry-After
	hopeless  bool   // x-should-retry: false
}

// TestEveryRefusal: its status, its body in the words of each dialect, and the
// headers by which the official SDKs decide whether to try again.
func TestEveryRefusal(t *testing.T) {
	t.Parallel()
	die := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	engineSays := func(status int, typ string) http.HandlerFunc {
		return jsonAnswer(status, fmt.Sprintf(`{"error":{"code":%d,"message":"no","type":%q}}`, status, typ))
	}
	gate := func(err error) func(*world) { return func(w *world) { w.gate.set(err) } }
	is := func(s ledger.EngineState) func(*world) { return func(w *world) { w.engine.set(s) } }
	const length, goOn = "Content-Length: ", "Expect: 100-continue\r\n"
	for name, c := range map[string]struct {
		h     http.HandlerFunc // the engine; nil where it must not be asked
		setup func(*world)
		first string // the request's first line; {} stands for the path
		head  string // its other fields
		body  string
		want  refusal
	}{
		"no key":       {head: "Authorization: Bearer sk-wrong\r\n", body: chatBody, want: refusal{401, "invalid_request_error", "invalid_api_key", "authentication_error", "", true}},
		"a page":       {head: "Origin: https://evil.example\r\n", body: chatBody, want: refusal{403, "invalid_request_error", "origin_not_allowed", "permission_error", "", true}},
		"wrong method": {first: "GET {} HTTP/1.1", want: refusal{405, "invalid_request_error", "", "invalid_request_error", "", false}},
		"a WebSocket":  {first: "GET {} HTTP/1.1", head: "Connection: Upgrade\r\nUpgrade: websocket\r\n", want: refusal{426, "invalid_request_error", "", "invalid_request_error", "", true}},
		"no JSON":      {body: "{", want: refusal{400, "invalid_request_error", "", "invalid_request_error", "", false}},
		"too large":    {head: length + "2000000\r\n", want: refusal{413, "invalid_request_error", "", "request_too_large", "", false}},
		"HTTP/2.0":     {first: "POST {} HTTP/2.0", body: chatBody, want: refusal{505, "invalid_request_error", "", "api_error", "", true}},
		"a stream to HTTP/1.0": {first: "POST {} HTTP/1.0", body: streamBody,
			want: refusal{505, "invalid_request_error", "", "api_error", "", true}},
		"a folded header":         {head: "X-A: b\r\n c\r\n", body: chatBody, want: refusal{400, "invalid_request_error", "", "invalid_request_error", "", false}},
		"an expectation":          {head: "Expect: x\r\n", body: chatBody, want: refusal{417, "invalid_request_error", "", "invalid_request_error", "", false}},
		"many headers":            {head: strings.Repeat("A: b\r\n", 200), body: chatBody, want: refusal{431, "invalid_request_error", "", "invalid_request_error", "", false}},
		"the budget is spent":     {setup: gate(&budget.Refusal{Err: budget.ErrExhausted, Reason: budget.ReasonExhausted, RetryAfter: 90*time.Minute + time.Millisecond}), body: chatBody, want: refusal{402, "insufficient_quota", "insufficient_quota", "billing_error", "", true}},
		"the bill is not seen":    {setup: gate(&budget.Refusal{Err: budget.ErrUnobservable, Reason: budget.ReasonStale, RetryAfter: time.Minute}), body: chatBody, want: refusal{503, "billing_unobservable", "billing_unobservable", "overloaded_error", "60", true}},
		"the bill needs a person": {setup: gate(&budget.Refusal{Err: budget.ErrUnobservable, Reason: budget.ReasonNoTruth}), body: chatBody, want: refusal{402, "billing_unobservable", "billing_unobservable", "billing_error", "", true}},
		"the ledger is full":      {setup: gate(&budget.Refusal{Err: budget.ErrUnobservable, Reason: budget.ReasonDiskFull, RetryAfter: time.Minute}), body: chatBody, want: refusal{503, "ledger_unavailable", "ledger_unavailable", "overloaded_error", "60", true}},
		"a gate that just began":  {setup: gate(&budget.Refusal{Err: budget.ErrUnobservable, Reason: budget.ReasonStart, RetryAfter: time.Second}), body: chatBody, want: refusal{503, "billing_unobservable", "billing_unobservable", "overloaded_error", "1", false}},
		"the gate says no more":   {setup: gate(errDisk), body: chatBody, want: refusal{503, "billing_unobservable", "billing_unobservable", "overloaded_error", "60", true}},
		"the engine stopped":      {setup: is(ledger.Stopped), body: chatBody, want: refusal{503, "server_error", "engine_not_ready", "overloaded_error", "10", false}},
		"the engine starts":       {setup: is(ledger.Starting), body: streamBody, want: refusal{503, "server_error", "engine_not_ready", "overloaded_error", "10", false}},
		"the engine crashed":      {setup: is(ledger.Crashed), body: chatBody, want: refusal{503, "server_error", "engine_not_ready", "overloaded_error", "10", false}},
		"the engine is gone":      {setup: func(w *world) { os.Remove(w.engine.sock) }, body: chatBody, want: refusal{503, "server_error", "engine_not_ready", "overloaded_error", "10", false}},
		"the engine dies":         {h: die, body: chatBody, want: refusal{502, "server_error", "engine_failed", "api_error", "5", false}},
		"the engine dies before a stream begins": {h: die, body: streamBody,
			want: refusal{502, "server_error", "engine_failed", "api_error", "5", false}},
		"the engine loads":            {h: engineSays(503, "unavailable_error"), body: chatBody, want: refusal{503, "server_error", "", "overloaded_error", "5", false}},
		"the engine has a limit":      {h: engineSays(429, "anything"), body: chatBody, want: refusal{429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error", "5", false}},
		"the engine cannot":           {h: engineSays(501, "not_supported_error"), body: chatBody, want: refusal{501, "server_error", "", "api_error", "", true}},
		"the engine says 500":         {h: engineSays(500, "server_error"), body: chatBody, want: refusal{500, "server_error", "", "api_error", "", true}},
		"the engine says 400":         {h: engineSays(400, "invalid_request_error"), body: chatBody, want: refusal{400, "invalid_request_error", "", "invalid_request_error", "", false}},
		"the engine refuses our key":  {h: engineSays(401, "authentication_error"), body: chatBody, want: refusal{502, "server_error", "engine_failed", "api_error", "5", false}},
		"the answer is not recorded":  {h: jsonAnswer(200, chatAnswer), setup: func(w *world) { w.ledger.breaks() }, body: chatBody, want: refusal{500, "server_error", "ledger_unwritable", "api_error", "", true}},
		"nothing more, it shuts down": {setup: func(w *world) { w.shutDown() }, head: goOn, body: chatBody, want: refusal{503, "server_error", "shutting_down", "overloaded_error", "10", false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/rerank", "/v1/messages"} {
				h := c.h
				if h == nil {
					h = func(http.ResponseWriter, *http.Request) { t.Errorf("%s: the engine was asked", path) }
				}
				w := newWorld(t, queue.Llama, h, func(cfg *api.Config) {
					cfg.MaxBody = 1 << 20
					if strings.Contains(c.head, "Authorization") {
						cfg.Key = "sk-right"
					}
				})
				conn, err := net.Dial("tcp", w.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				r := bufio.NewReader(conn)
				first, head := c.first, c.head
				if first == "" {
					first = "POST {} HTTP/1.1"
				}
				if !strings.Contains(head, length) {
					head += fmt.Sprintf(length+"%d\r\n", len(c.body))
				}
				text := strings.Replace(first, "{}", path, 1) + "\r\nHost: x\r\n" + head + "\r\n" + c.body
				io.WriteString(conn, text[:len(text)-1])
				if strings.Contains(head, goOn) {
					// The request has begun: what shuts down closes connections
					// that wait for one.
					if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != http.StatusContinue {
						t.Fatalf("%s: %v, %v", path, resp, err)
					}
				}
				if c.setup != nil {
					c.setup(w)
				}
				io.WriteString(conn, text[len(text)-1:])
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				c.want.check(t, path, resp, body)
			}
		})
	}
}

var idForm = regexp.MustCompile(`^req_[0-9a-z]{24}$`)

// check holds an answer against what it must be.
func (want refusal) check(t *testing.T, path string, resp *http.Response, body []byte) {
	t.Helper()
	h := resp.Header
	if resp.StatusCode != want.status || h.Get("Retry-After") != want.retry || (h.Get("X-Should-Retry") == "false") != want.hopeless ||
		h.Get("Content-Type") != "application/json" || !idForm.MatchString(h.Get("X-Request-Id")) {
		t.Errorf("%s: %d %v %s, want %+v", path, resp.StatusCode, h, body, want)
	}
	for name := range h {
		if strings.HasPrefix(name, "X-Ratelimit") {
			t.Errorf("%s: %s, and nothing is limited by rate", path, name)
		}
	}
	orNull := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	var got map[string]any
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatalf("%s: %v in %s", path, err, body)
	}
	inner, _ := got["error"].(map[string]any)
	if m, _ := inner["message"].(string); m == "" || strings.Contains(m, "/"+filepath.Base(t.TempDir())) {
		t.Errorf("%s: message %q", path, m)
	}
	delete(inner, "message")
	expect := map[string]any{"error": map[string]any{"type": want.typ, "param": nil, "code": orNull(want.code)}}
	if path == "/v1/messages" {
		id := h.Get("Request-Id")
		expect = map[string]any{"type": "error", "error": map[string]any{"type": want.anthropic}, "request_id": id}
		if id != h.Get("X-Request-Id") || h.Get("Openai-Processing-Ms") != "" {
			t.Errorf("%s: %v", path, h)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(expect) {
		t.Errorf("%s: %s, want %v and a message", path, body, expect)
	}
}

// shutDown begins a shutdown, and returns when it goes on: then it closes the
// connections that wait for a request.
func (w *world) shutDown() {
	w.t.Helper()
	idle, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer idle.Close()
	io.WriteString(idle, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	r := bufio.NewReader(idle)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	go w.stop()
	if b, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		w.t.Errorf("an idle connection: %q, %v, want its end", b, err)
	}
}

// TestWhatCouldNotBeRead has no path, and so no dialect: its error can be read
// by the SDKs of both.
func TestWhatCouldNotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, jsonAnswer(200, chatAnswer), func(c *api.Config) { c.MaxBody = 1 << 20 })
	for text, status := range map[string]int{
		"GARBAGE\r\n\r\n": 400,
		"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 40<<10) + "\r\n\r\n":                  431,
		"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n":      400,
		"POST /v1/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + "fffffff\r\n":  413,
		"POST /v1/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + "nonsense\r\n": 400,
	} {
		got := rawAnswer(t, w.addr, text)
		_, body, _ := strings.Cut(got, "\r\n\r\n")
		var e struct {
			Type      string `json:"type"`
			Error     map[string]any
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal([]byte(body), &e); err != nil || e.Type != "error" || !idForm.MatchString(e.RequestID) || len(e.Error) != 4 || e.Error["type"] != "invalid_request_error" {
			t.Errorf("%.80q: %s, %v", text, body, err)
		}
		for _, want := range []string{fmt.Sprintf("HTTP/1.1 %d ", status), "\r\nConnection: close\r\n", "\r\nX-Request-Id: " + e.RequestID + "\r\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("%.80q: no %q in %q", text, want, got)
			}
		}
	}
}

// TestWhatEveryAnswerCarries, also where nothing is refused.
func TestWhatEveryAnswerCarries(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64 // a millisecond passes each time that somebody looks
	w := newWorld(t, queue.Llama, jsonAnswer(200, chatAnswer), func(c *api.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(asked.Add(1)) * time.Millisecond) }
	})
	ms := regexp.MustCompile(`^[1-9][0-9]*$`)
	for path, anthropic := range map[string]bool{"/v1/chat/completions": false, "/v1/messages": true} {
		resp, _ := w.do("POST", path, chatBody)
		h := resp.Header
		if id := h.Get("X-Request-Id"); resp.StatusCode != 200 || !idForm.MatchString(id) || anthropic != (h.Get("Request-Id") == id) || anthropic == ms.MatchString(h.Get("Openai-Processing-Ms")) {
			t.Errorf("%s: %d %v", path, resp.StatusCode, h)
		}
	}
}
