package api_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/queue"
)

const (
	chatBody   = `{"model":"m","messages":[{"role":"user","content":"hi"}]}`
	streamBody = `{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}`

	chatAnswer = `{"id":"x","object":"chat.completion","model":"tiny","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Yes."}}],` +
		`"usage":{"completion_tokens":3,"prompt_tokens":59,"total_tokens":62,"prompt_tokens_details":{"cached_tokens":58}}}`
)

func jsonAnswer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func delta(text string, n int) string {
	return fmt.Sprintf(`data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":%q}}],"model":"tiny","object":"chat.completion.chunk","timings":{"cache_n":1,"prompt_n":4,"predicted_n":%d}}`+"\n\n", text, n)
}

const (
	usageChunk = `data: {"choices":[],"model":"tiny","object":"chat.completion.chunk","usage":{"completion_tokens":2,"prompt_tokens":5,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":1}},"timings":{"cache_n":1,"prompt_n":4,"predicted_n":2}}` + "\n\n"
	doneEvent  = "data: [DONE]\n\n"
)

// sse answers with events, each flushed, waiting on step before all but the first.
func sse(step <-chan struct{}, events ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for i, e := range events {
			if i > 0 && step != nil {
				select {
				case <-step:
				case <-r.Context().Done():
					return
				}
			}
			io.WriteString(w, e)
			w.(http.Flusher).Flush()
		}
	}
}

func TestAJSONAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, jsonAnswer(200, chatAnswer), nil)
	resp, body := w.do("POST", "/v1/chat/completions", chatBody, "X-Request-Id", "mine", "X-Conversation-Id", "c")
	if resp.StatusCode != 200 || body != chatAnswer || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
	r := w.row()
	if want := (ledger.Usage{PromptTokens: 59, CachedTokens: 58, CompletionTokens: 3}); r.Usage != want || r.Status != ledger.OK || r.LowerBound || r.Model != "tiny" || r.Endpoint != "chat" {
		t.Errorf("row = %+v", r)
	}
	if id := resp.Header.Get("X-Request-Id"); id != r.ID || !regexp.MustCompile(`^req_[0-9a-z]{24}$`).MatchString(id) {
		t.Errorf("x-request-id = %q, the row has %q", id, r.ID)
	}
}

// TestWhatTheEngineSees: our own key, no client's, no header that is not on the list.
func TestWhatTheEngineSees(t *testing.T) {
	t.Parallel()
	got := make(chan *http.Request, 1)
	w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
		got <- r.Clone(r.Context())
		jsonAnswer(200, chatAnswer)(rw, r)
	}, func(c *api.Config) { c.Key = "sk-client" })
	w.do("POST", "/v1/chat/completions?api-version=1", chatBody, "X-Api-Key", "sk-client", "X-Conversation-Id", "c", "Cookie", "a=b", "Anthropic-Version", "2023-06-01")
	r := <-got
	if r.URL.String() != "/v1/chat/completions" || r.Header.Get("Authorization") != "Bearer engine-key" || r.Header.Get("Anthropic-Version") == "" {
		t.Errorf("the engine saw %s %v", r.URL, r.Header)
	}
	for _, name := range []string{"X-Conversation-Id", "Cookie", "X-Api-Key"} {
		if r.Header.Get(name) != "" {
			t.Errorf("the engine saw %s", name)
		}
	}
}

// TestEachEventLeavesAsItComes and the last bytes only after the row.
func TestEachEventLeavesAsItComesAndTheLastAfterTheRow(t *testing.T) {
	t.Parallel()
	step := make(chan struct{})
	w := newWorld(t, queue.Llama, sse(step, delta(" a", 1), delta(" b", 2), usageChunk+doneEvent), nil)
	release := w.ledger.hold()
	resp := w.begin("POST", "/v1/chat/completions", streamBody)
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	event := func() string {
		t.Helper()
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if blank, err := r.ReadString('\n'); blank != "\n" {
			t.Fatalf("%q, %v", blank, err)
		}
		return line
	}
	for _, text := range []string{" a", " b"} {
		// The engine has sent no more than this event: it must be here.
		if got := event(); !strings.Contains(got, `"content":"`+text+`"`) || strings.Contains(got, "timings") {
			t.Errorf("event = %q", got)
		}
		step <- struct{}{}
	}
	last := make(chan string, 1)
	go func() { b, _ := io.ReadAll(r); last <- string(b) }()
	// The engine is done, the row is not written: the answer may not end. The
	// write waits for us, so there is nothing to time: it is held until we let go.
	eventually(t, "the row is being written", w.ledger.writing)
	select {
	case got := <-last:
		t.Errorf("before the row was on disk the client got %q", got)
	default:
	}
	release()
	if got := <-last; got != doneEvent {
		t.Errorf("last bytes = %q", got)
	}
	if r := w.row(); r.Usage != (ledger.Usage{PromptTokens: 5, CachedTokens: 1, CompletionTokens: 2}) || r.Status != ledger.OK || r.LowerBound || !r.Stream || r.First.IsZero() {
		t.Errorf("row = %+v", r)
	}
}

// TestNoTokenWaitsForTheRow: an engine that sends its whole answer at once is
// held up at the end of it only.
func TestNoTokenWaitsForTheRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, sse(nil, delta(" a", 1)+delta(" b", 2)+usageChunk+doneEvent), nil)
	release := w.ledger.hold()
	defer release()
	// The write waits for us: without a limit, a token that waits for it would never come.
	w.client.Timeout = 10 * time.Second
	resp := w.begin("POST", "/v1/chat/completions", streamBody)
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	for _, text := range []string{" a", " b"} {
		line, err := r.ReadString('\n')
		if err != nil || !strings.Contains(line, `"content":"`+text+`"`) {
			t.Fatalf("%q, %v: want %q before the row is written", line, err, text)
		}
		if blank, err := r.ReadString('\n'); blank != "\n" {
			t.Fatalf("%q, %v", blank, err)
		}
	}
	release()
	if last, err := io.ReadAll(r); err != nil || string(last) != doneEvent {
		t.Errorf("last bytes = %q, %v", last, err)
	}
}

func TestARowThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	f := func(name string, h http.HandlerFunc, path, body string, check func(status int, answer string)) {
		t.Helper()
		w := newWorld(t, queue.Llama, h, nil)
		w.ledger.breaks()
		resp, answer := w.do("POST", path, body)
		check(resp.StatusCode, answer)
		if !w.gate.wasTripped() {
			t.Errorf("%s: the gate was not told", name)
		}
	}
	f("json", jsonAnswer(200, chatAnswer), "/v1/chat/completions", chatBody, func(status int, answer string) {
		if status != 500 || !strings.Contains(answer, "ledger_unwritable") || strings.Contains(answer, "Yes.") || strings.Contains(answer, "disk full") {
			t.Errorf("json: %d %s", status, answer)
		}
	})
	f("stream", sse(nil, delta(" a", 1), usageChunk+doneEvent), "/v1/chat/completions", streamBody, func(_ int, answer string) {
		if !strings.Contains(answer, `data: {"error":{`) || !strings.Contains(answer, "ledger_unwritable") {
			t.Errorf("stream: %s", answer)
		}
	})
	f("engine's error", jsonAnswer(400, `{"error":{"code":400,"message":"no","type":"invalid_request_error"}}`), "/v1/chat/completions", chatBody, func(status int, answer string) {
		if status != 500 || !strings.Contains(answer, "ledger_unwritable") {
			t.Errorf("engine's error: %d %s", status, answer)
		}
	})
}

// TestALargeAnswer is longer than what is held: it streams, all but its end,
// and is cut where the row cannot be written.
func TestALargeAnswer(t *testing.T) {
	t.Parallel()
	big := `{"object":"list","data":[` + strings.Repeat(`{"object":"embedding","index":0,"embedding":[0.1,0.2]},`, 60_000) + `{}],"model":"tiny","usage":{"prompt_tokens":15,"total_tokens":15}}`
	for _, chunked := range []bool{false, true} {
		h := func(rw http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			rw.Header().Set("Content-Type", "application/json")
			if !chunked {
				rw.Header().Set("Content-Length", fmt.Sprint(len(big)))
			}
			io.WriteString(rw, big)
		}
		w := newWorld(t, queue.Llama, h, nil)
		if _, body := w.do("POST", "/v1/embeddings", `{"input":"x"}`); body != big {
			t.Errorf("chunked=%v: %d bytes of %d", chunked, len(body), len(big))
		}
		if r := w.row(); r.Usage.PromptTokens != 15 || r.Status != ledger.OK {
			t.Errorf("row = %+v", r)
		}
		w.ledger.breaks()
		resp := w.begin("POST", "/v1/embeddings", `{"input":"x"}`)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil || len(body) >= len(big) {
			t.Errorf("chunked=%v: without a row the client got %d bytes of %d, %v", chunked, len(body), len(big), err)
		}
	}
}

func TestAnEngineThatDiesMidAnswer(t *testing.T) {
	t.Parallel()
	f := func(name string, h http.HandlerFunc, path, body string, completion int64, want ...string) {
		t.Helper()
		w := newWorld(t, queue.Llama, h, nil)
		_, answer := w.do("POST", path, body)
		for _, part := range want {
			if !strings.Contains(answer, part) {
				t.Errorf("%s: no %q in %q", name, part, answer)
			}
		}
		if r := w.row(); r.Status != ledger.Failed || !r.LowerBound || r.Usage.CompletionTokens != completion {
			t.Errorf("%s: row = %+v", name, r)
		}
	}
	die := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { h(w, r); panic(http.ErrAbortHandler) }
	}
	f("cut stream", die(sse(nil, delta(" a", 1), delta(" b", 2))), "/v1/chat/completions", streamBody, 2,
		`" b"`, `data: {"error":{"message":"The engine failed`, `"code":"engine_failed"`, "\n\ndata: [DONE]\n\n")
	f("stream that ends without its end", sse(nil, delta(" a", 1)), "/v1/chat/completions", streamBody, 1,
		`"code":"engine_failed"`, doneEvent)
	f("half an event", die(sse(nil, delta(" a", 1), `data: {"choices":[{"delta":{"content":" b`)), "/v1/chat/completions", streamBody, 1,
		"}\n\ndata: {\"error\":")
	f("error event", sse(nil, delta(" a", 1), `data: {"error":{"code":500,"message":"kv cache full","type":"server_error"}}`+"\n\n"), "/v1/chat/completions", streamBody, 1,
		`"message":"kv cache full","type":"server_error","param":null,"code":null}}`, doneEvent)
	f("error event, then [DONE]", sse(nil, delta(" a", 1), `data: {"error":{"code":500,"message":"oom","type":"InternalServerError","param":null}}`+"\n\n"+doneEvent), "/v1/chat/completions", streamBody, 1,
		`"message":"oom","type":"server_error"`)
	f("a [DONE] that means nothing", sse(nil, delta(" a", 1), doneEvent), "/v1/chat/completions", streamBody, 1,
		`"message":"the engine ended its answer without finishing it","type":"server_error"`, doneEvent)
	f("an error whose answer is called a stream", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		rw.WriteHeader(500)
		io.WriteString(rw, `{"error":{"code":500,"message":"boom","type":"server_error"}}`)
	}, "/v1/chat/completions", streamBody, 0, `"boom"`)
	f("an answer without a body", func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(204) }, "/v1/chat/completions", chatBody, 0,
		`"code":"engine_failed"`)
	f("an answer that is no JSON", jsonAnswer(200, "oops"), "/v1/chat/completions", chatBody, 0, `"code":"engine_failed"`)
	f("anthropic", die(sse(nil, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"tiny\",\"usage\":{\"input_tokens\":4,\"output_tokens\":0}}}\n\n")), "/v1/messages", streamBody, 0,
		"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\"")
	f("responses", die(sse(nil, "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{}}\n\n")), "/v1/responses", `{"stream":true,"input":"x"}`, 0,
		"event: response.failed\ndata: {\"type\":\"response.failed\"", `"code":"engine_failed"`)

	w := newWorld(t, queue.Llama, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil)
	if resp, body := w.do("POST", "/v1/chat/completions", chatBody); resp.StatusCode != 502 || !strings.Contains(body, "engine_failed") {
		t.Errorf("cut before its head: %d %s", resp.StatusCode, body)
	}
	if r := w.row(); r.Status != ledger.Failed || r.HTTP != 502 {
		t.Errorf("row = %+v", r)
	}
}

// TestAClientThatLeaves: the engine sees it, and the row has what was counted.
func TestAClientThatLeaves(t *testing.T) {
	t.Parallel()
	f := func(name, body string, events []string, completion int64) {
		t.Helper()
		left := make(chan struct{})
		w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if events != nil {
				rw.Header().Set("Content-Type", "text/event-stream")
			}
			for _, e := range events {
				io.WriteString(rw, e)
				rw.(http.Flusher).Flush()
			}
			<-r.Context().Done()
			close(left)
		}, nil)
		conn, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		if events != nil {
			if _, err := bufio.NewReader(conn).ReadString('}'); err != nil {
				t.Fatal(err)
			}
		} else {
			eventually(t, "the request runs", func() bool { return w.metric("spotinference_requests_running") == "1" })
		}
		conn.Close()
		<-left
		if r := w.row(); r.Status != ledger.Aborted || !r.LowerBound || r.Usage.CompletionTokens != completion {
			t.Errorf("%s: row = %+v", name, r)
		}
	}
	f("mid-stream", streamBody, []string{delta(" a", 1), delta(" b", 2)}, 2)
	f("before the first byte, no stream", chatBody, nil, 0)
	f("before the first byte, stream", streamBody, nil, 0)
}

func (w *world) metric(name string) string {
	w.t.Helper()
	resp, err := w.client.Get(w.url + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, jsonAnswer(200, chatAnswer), func(c *api.Config) { c.Key = "sk-right"; c.MaxBody = 1 << 20 })
	f := func(name, method, path, body, key string, status int, want string) {
		t.Helper()
		resp, answer := w.do(method, path, body, "Authorization", "Bearer "+key)
		if resp.StatusCode != status || !strings.Contains(answer, want) {
			t.Errorf("%s: %d %s, want %d with %s", name, resp.StatusCode, answer, status, want)
		}
		if resp.Header.Get("X-Request-Id") == "" || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: headers %v", name, resp.Header)
		}
		var e struct{ Error map[string]any }
		if json.Unmarshal([]byte(answer), &e) != nil || e.Error == nil {
			t.Errorf("%s: not an error object: %s", name, answer)
			return
		}
		if strings.HasPrefix(path, "/v1/messages") {
			return
		}
		keys := []string{}
		for k := range e.Error {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		if !slices.Equal(keys, []string{"code", "message", "param", "type"}) {
			t.Errorf("%s: keys %v", name, keys)
		}
		if c := e.Error["code"]; c != nil {
			if _, ok := c.(string); !ok {
				t.Errorf("%s: code %v is no string", name, c)
			}
		}
	}
	const right = "sk-right"
	f("no key", "POST", "/v1/chat/completions", chatBody, "", 401, `"code":"invalid_api_key"`)
	f("wrong key", "POST", "/v1/chat/completions", chatBody, "sk-wrong", 401, `"code":"invalid_api_key"`)
	f("wrong key, anthropic", "POST", "/v1/messages", chatBody, "sk-wrong", 401, `"type":"authentication_error"`)
	f("models need the key too", "GET", "/v1/models", "", "", 401, `"code":"invalid_api_key"`)
	f("broken JSON", "POST", "/v1/chat/completions", `{"a":`, right, 400, `"invalid_request_error"`)
	f("no JSON", "POST", "/v1/chat/completions", ``, right, 400, `"invalid_request_error"`)
	f("no object", "POST", "/v1/chat/completions", `[1]`, right, 400, `"invalid_request_error"`)
	f("broken JSON, anthropic", "POST", "/v1/messages", `{`, right, 400, `{"type":"error","error":{"type":"invalid_request_error"`)
	f("too large", "POST", "/v1/chat/completions", strings.Repeat(" ", 1<<20+1), right, 413, `over 1 MiB`)
	f("unknown path", "GET", "/nope", "", right, 404, `Unknown path`)
	f("wrong method", "GET", "/v1/chat/completions", "", right, 405, `use POST`)
	f("wrong method", "POST", "/v1/models", "{}", right, 405, `use GET`)
	// What the engine has beyond the list is out of reach.
	for _, path := range []string{"/props", "/slots", "/tokenize", "/completion", "/chat", "/sleep", "/collective_rpc", "/v1/stream", "/v1", "/v1/chat/completions/", "/v1//chat/completions/../../props", "/lora-adapters", "/health"} {
		f("out of reach: "+path, "GET", path, "", right, 404, "Unknown path")
	}
	if rows := w.ledger.all(); len(rows) != 0 {
		t.Errorf("refusals left rows: %+v", rows)
	}

	w.engine.set(ledger.Starting)
	resp, body := w.do("POST", "/v1/chat/completions", chatBody, "Authorization", "Bearer "+right)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "10" || !strings.Contains(body, "engine_not_ready") {
		t.Errorf("engine not ready: %d %v %s", resp.StatusCode, resp.Header, body)
	}
	w.engine.set(ledger.Ready)
	resp, _ = w.do("POST", "/v1/chat/completions", `{"messages":[]}`, "Authorization", "Bearer "+right)
	if resp.StatusCode != 200 {
		t.Errorf("a body without a model: %d, want it forwarded", resp.StatusCode)
	}
}

func TestAClosedGate(t *testing.T) {
	t.Parallel()
	asked := false
	w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) { asked = true }, nil)
	f := func(err error, path string, status int, retry string, want ...string) {
		t.Helper()
		w.gate.set(err)
		resp, body := w.do("POST", path, chatBody)
		if resp.StatusCode != status || resp.Header.Get("Retry-After") != retry || resp.Header.Get("X-Should-Retry") != "false" {
			t.Errorf("%v: %d %v", err, resp.StatusCode, resp.Header)
		}
		for _, part := range want {
			if !strings.Contains(body, part) {
				t.Errorf("%v: no %q in %s", err, part, body)
			}
		}
		if strings.Contains(body, "secret") {
			t.Errorf("the operator's detail got out: %s", body)
		}
	}
	spent := &budget.Refusal{Err: budget.ErrExhausted, Reason: budget.ReasonExhausted, RetryAfter: 90 * time.Minute, Detail: "secret"}
	dark := &budget.Refusal{Err: budget.ErrUnobservable, Reason: budget.ReasonStale, RetryAfter: time.Minute, Detail: "secret"}
	f(spent, "/v1/chat/completions", 402, "", `"type":"insufficient_quota"`, `"code":"insufficient_quota"`, "still costs money")
	f(spent, "/v1/messages", 402, "", `{"type":"error","error":{"type":"billing_error"`)
	f(dark, "/v1/completions", 503, "60", `"code":"billing_unobservable"`, "stale", "still costs money")
	f(dark, "/v1/messages", 503, "60", `"overloaded_error"`)
	resp, body := w.do("GET", "/readyz", "")
	if resp.StatusCode != 503 || !strings.Contains(body, `"gate":"stale"`) {
		t.Errorf("readyz: %d %s", resp.StatusCode, body)
	}
	if resp, _ := w.do("GET", "/healthz", ""); resp.StatusCode != 200 {
		t.Errorf("healthz: %d", resp.StatusCode)
	}
	if asked {
		t.Error("the engine was asked behind a closed gate")
	}
}

func TestEngineErrorsInOpenAIsWords(t *testing.T) {
	t.Parallel()
	f := func(kind queue.Kind, status int, engineBody, path string, want int, parts ...string) {
		t.Helper()
		w := newWorld(t, kind, jsonAnswer(status, engineBody), nil)
		resp, body := w.do("POST", path, chatBody)
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d", engineBody, resp.StatusCode, want)
		}
		for _, p := range parts {
			if !strings.Contains(body, p) {
				t.Errorf("%s → %s: no %s", engineBody, body, p)
			}
		}
		if r := w.row(); r.Status != ledger.Failed || r.HTTP != want || r.Usage != (ledger.Usage{}) {
			t.Errorf("row = %+v", r)
		}
	}
	f(queue.Llama, 400, `{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_prompt_tokens":9013,"n_ctx":4096}}`, "/v1/chat/completions", 400,
		`"code":"context_length_exceeded"`, `"param":"messages"`)
	f(queue.Llama, 500, `{"error":{"code":500,"message":"boom","type":"server_error"}}`, "/v1/completions", 500, `"type":"server_error","param":null,"code":null`)
	f(queue.Llama, 501, `{"error":{"code":501,"message":"no embeddings","type":"not_supported_error"}}`, "/v1/embeddings", 501, `"no embeddings"`)
	f(queue.Llama, 503, `{"error":{"message":"Loading model","type":"unavailable_error","code":503}}`, "/v1/chat/completions", 503, `"Loading model"`)
	f(queue.VLLM, 401, `{"error":"Unauthorized"}`, "/v1/chat/completions", 502, `"code":"engine_failed"`)
	f(queue.VLLM, 404, `{"error":{"message":"The model x does not exist.","type":"NotFoundError","param":null,"code":404}}`, "/v1/chat/completions", 404, `"code":"model_not_found"`)
	f(queue.VLLM, 400, `{"error":{"message":"bad","type":"BadRequestError","param":null,"code":400}}`, "/v1/messages", 400, `{"type":"error","error":{"type":"invalid_request_error","message":"bad"}`)
	f(queue.VLLM, 500, `<html>oops</html>`, "/v1/chat/completions", 500, `"server_error"`)
}

func TestOpenRequestsAreSaved(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		step := make(chan struct{})
		w := newWorldOf(t, queue.Llama, sse(step, delta(" a", 1), usageChunk+doneEvent), setting{inMemory: true})
		resp := w.begin("POST", "/v1/chat/completions", streamBody)
		defer resp.Body.Close()
		eventually(t, "the running request is saved with its count", func() bool {
			w.ledger.mu.Lock()
			defer w.ledger.mu.Unlock()
			return len(w.ledger.open) == 1 && w.ledger.open[0].Usage.CompletionTokens == 1 && w.ledger.open[0].Model == "tiny"
		})
		step <- struct{}{}
		io.Copy(io.Discard, resp.Body)
		eventually(t, "and forgotten", func() bool {
			w.ledger.mu.Lock()
			defer w.ledger.mu.Unlock()
			return len(w.ledger.open) == 0
		})
	})
}

func TestDrain(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T, drain time.Duration) (*world, *http.Response, chan struct{}) {
		step := make(chan struct{})
		w := newWorld(t, queue.Llama, sse(step, delta(" a", 1), usageChunk+doneEvent), func(c *api.Config) { c.Drain = drain })
		resp := w.begin("POST", "/v1/chat/completions", streamBody)
		t.Cleanup(func() { resp.Body.Close() })
		return w, resp, step
	}
	t.Run("an answer may end", func(t *testing.T) {
		w, resp, step := begin(t, time.Minute)
		stopped := make(chan error, 1)
		go func() { stopped <- w.stop() }()
		eventually(t, "nobody comes in", func() bool {
			c, err := net.Dial("tcp", w.addr)
			if err == nil {
				c.Close()
			}
			return err != nil
		})
		step <- struct{}{}
		if body, err := io.ReadAll(resp.Body); err != nil || !strings.HasSuffix(string(body), doneEvent) {
			t.Errorf("%s, %v", body, err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if r := w.row(); r.Status != ledger.OK {
			t.Errorf("row = %+v", r)
		}
	})
	cut := func(t *testing.T, w *world, resp *http.Response) {
		t.Helper()
		body, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(body), `"code":"shutting_down"`) || !strings.HasSuffix(string(body), doneEvent) {
			t.Errorf("%s, %v", body, err)
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
		if r := w.row(); r.Status != ledger.Failed || !r.LowerBound || r.Usage.CompletionTokens != 1 {
			t.Errorf("row = %+v", r)
		}
	}
	t.Run("patience ends", func(t *testing.T) {
		w, resp, _ := begin(t, 50*time.Millisecond)
		go w.stop()
		cut(t, w, resp)
	})
	t.Run("a client that does not read", func(t *testing.T) {
		big := delta(strings.Repeat("x", 1<<20), 1)
		w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			rw.Header().Set("Content-Type", "text/event-stream")
			for r.Context().Err() == nil {
				io.WriteString(rw, big)
				rw.(http.Flusher).Flush()
			}
		}, func(c *api.Config) { c.Drain = 50 * time.Millisecond })
		resp := w.begin("POST", "/v1/chat/completions", streamBody)
		defer resp.Body.Close()
		if err := w.stop(); err != nil {
			t.Error(err)
		}
		if r := w.row(); r.Status != ledger.Failed || !r.LowerBound {
			t.Errorf("row = %+v", r)
		}
	})
	t.Run("before it serves", func(t *testing.T) {
		w := newWorld(t, queue.Llama, jsonAnswer(200, chatAnswer), nil)
		w.hard()
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("no patience at all", func(t *testing.T) {
		w, resp, _ := begin(t, time.Hour)
		go w.stop()
		w.hard()
		cut(t, w, resp)
	})
}

// TestNothingSaidUnaskedIsAnAnswer: what an engine sends beyond its answer is
// not the next client's.
func TestNothingSaidUnaskedIsAnAnswer(t *testing.T) {
	t.Parallel()
	late := make(chan struct{})
	w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		conn, buf, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprintf(buf, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(chatAnswer), chatAnswer)
		buf.Flush()
		<-late
		fmt.Fprintf(buf, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{\"late\":1}")
		buf.Flush()
		late <- struct{}{}
		defer conn.Close()
		<-late
	}, nil)
	w.do("POST", "/v1/chat/completions", chatBody)
	late <- struct{}{}
	<-late
	defer close(late)
	done := make(chan string, 1)
	go func() {
		_, body := w.do("POST", "/v1/chat/completions", chatBody)
		done <- body
	}()
	if body := <-done; body != chatAnswer {
		t.Errorf("the second client got %s", body)
	}
}

// TestTheEndOfAJSONAnswerWaits, also where white space follows it.
func TestTheEndOfALargeAnswerWaits(t *testing.T) {
	t.Parallel()
	step := make(chan struct{})
	w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		rw.Header().Set("Content-Type", "application/json")
		for _, part := range []string{`{"data":"` + strings.Repeat("x", 2<<20) + `","usage":{"prompt_tokens":1,"total_tokens":1}`, "}", "\n"} {
			io.WriteString(rw, part)
			rw.(http.Flusher).Flush()
			<-step
		}
	}, nil)
	release := w.ledger.hold()
	resp := w.begin("POST", "/v1/embeddings", `{"input":"x"}`)
	defer resp.Body.Close()
	got := make(chan byte, 8<<20)
	go func() {
		defer close(got)
		r := bufio.NewReader(resp.Body)
		for {
			b, err := r.ReadByte()
			if err != nil {
				return
			}
			got <- b
		}
	}()
	for range 3 {
		step <- struct{}{}
	}
	eventually(t, "the row is being written", w.ledger.writing)
	for len(got) > 0 {
		if b := <-got; b == '}' && len(got) == 0 {
			t.Error("the end left before its row was on disk")
		}
	}
	release()
	last := byte(0)
	for b := range got {
		last = b
	}
	if last != '\n' {
		t.Errorf("last byte = %q", last)
	}
}

func TestHead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, jsonAnswer(200, `{"object":"list","data":[]}`), nil)
	resp, body := w.do("HEAD", "/v1/models", "")
	if resp.StatusCode != 200 || body != "" || resp.ContentLength != 27 {
		t.Errorf("HEAD: %d %q %d", resp.StatusCode, body, resp.ContentLength)
	}
}

// TestABodyIsNotReadWithoutTheKey: the refusal comes before a byte of it.
func TestABodyIsNotReadWithoutTheKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, jsonAnswer(200, chatAnswer), func(c *api.Config) { c.Key = "sk-right" })
	f := func(head, want string) {
		t.Helper()
		conn, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, head)
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.Contains(line, want) {
			t.Errorf("%q → %q, %v, want %s", head, line, err, want)
		}
	}
	f("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n", " 401 ")
	f("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-right\r\nContent-Length: 600000000\r\n\r\n", " 413 ")
	f("POST /v1/chat/completions HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer sk-right\r\nContent-Length: "+fmt.Sprint(len(streamBody))+"\r\n\r\n"+streamBody, " 505 ")
	f("GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 40<<10)+"\r\n\r\n", " 431 ")
	f("GARBAGE\r\n\r\n", " 400 ")
}

// TestAnEngineThatCannotBeReached has seen nothing, so there is no row.
func TestAnEngineThatCannotBeReached(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, jsonAnswer(200, chatAnswer), nil)
	w.engine.sock += ".gone"
	if resp, body := w.do("POST", "/v1/chat/completions", chatBody); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "engine_not_ready") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if rows := w.ledger.all(); len(rows) != 0 || w.metric("spotinference_requests_running") != "0" {
		t.Errorf("rows = %+v", rows)
	}
}

// TestMetricNames: the names are an interface.
func TestMetricNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, jsonAnswer(200, chatAnswer), nil)
	w.do("POST", "/v1/chat/completions", chatBody)
	w.do("GET", "/nope", "")
	_, text := w.do("GET", "/metrics", "")
	var names []string
	for line := range strings.Lines(text) {
		name := strings.TrimSpace(line[:strings.LastIndexByte(strings.TrimSpace(line), ' ')])
		if strings.HasPrefix(line, "#") || strings.Contains(name, `le="`) && !strings.Contains(name, `le="+Inf"`) {
			continue
		}
		names = append(names, name)
	}
	var want = strings.Fields(metricNames)
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("names:\n%s\nwant:\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
}

// TestEngineStateMetric: in each state exactly one series is 1, that of the state.
func TestEngineStateMetric(t *testing.T) {
	w := newWorld(t, queue.Llama, jsonAnswer(200, chatAnswer), nil)
	for _, row := range ledger.EngineStates() {
		state := row.Name
		w.engine.set(state)
		_, text := w.do("GET", "/metrics", "")
		var ones []string
		for line := range strings.Lines(text) {
			if name, ok := strings.CutSuffix(strings.TrimSpace(line), " 1"); ok && strings.HasPrefix(name, "spotinference_engine_state{") {
				ones = append(ones, name)
			}
		}
		if want := []string{fmt.Sprintf("spotinference_engine_state{state=%q}", state)}; !slices.Equal(ones, want) {
			t.Errorf("while the engine is %s, %q are 1, want %q", state, ones, want)
		}
	}
}

// TestBalanceMetrics: what is not known has no value.
func TestBalanceMetrics(t *testing.T) {
	t.Parallel()
	m := api.NewMetrics(func() (time.Time, bool) { return time.Time{}, false })
	says := func(want ...string) {
		t.Helper()
		var b strings.Builder
		m.Write(&b)
		var got []string
		for line := range strings.Lines(b.String()) {
			if strings.HasPrefix(line, "spotinference_balance") || strings.HasPrefix(line, "spotinference_residuals") {
				got = append(got, strings.TrimSpace(line))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	says()
	m.LowBalance(false)
	says("spotinference_balance_low 0", "spotinference_residuals_total 0")
	m.LowBalance(true)
	m.Residual()
	says("spotinference_balance_low 1", "spotinference_residuals_total 1")
}

const metricNames = `
spotinference_body_memory_bytes
spotinference_cached_tokens_total
spotinference_completion_tokens_total
spotinference_engine_restarts
spotinference_engine_state{state="crashed"}
spotinference_engine_state{state="ready"}
spotinference_engine_state{state="starting"}
spotinference_engine_state{state="stopped"}
spotinference_engine_state{state="suspended"}
spotinference_engine_state{state="suspending"}
spotinference_engine_state{state="waking"}
spotinference_gate_closed{reason="clock_back"}
spotinference_gate_closed{reason="clock_jumped"}
spotinference_gate_closed{reason="disk_full"}
spotinference_gate_closed{reason="exhausted"}
spotinference_gate_closed{reason="headroom"}
spotinference_gate_closed{reason="failed"}
spotinference_gate_closed{reason="frozen"}
spotinference_gate_closed{reason="ledger_unreadable"}
spotinference_gate_closed{reason="ledger_unwritable"}
spotinference_gate_closed{reason="no_rate"}
spotinference_gate_closed{reason="no_sample"}
spotinference_gate_closed{reason="no_truth"}
spotinference_gate_closed{reason="not_evaluated"}
spotinference_gate_closed{reason="stale"}
spotinference_gate_closed{reason="unknown_bill"}
spotinference_gate_cut_answers_total
spotinference_gate_open
spotinference_ledger_errors_total
spotinference_meter_drifts_total
spotinference_on_close_failed
spotinference_on_close_failures_total
spotinference_panics_total
spotinference_prompt_tokens_total
spotinference_refusals_total{code="",status="404"}
spotinference_request_duration_seconds_bucket{endpoint="chat",le="+Inf"}
spotinference_request_duration_seconds_count{endpoint="chat"}
spotinference_request_duration_seconds_sum{endpoint="chat"}
spotinference_requests_running
spotinference_requests_total{endpoint="chat",status="ok"}
spotinference_sample_timestamp_seconds
spotinference_ttft_seconds_bucket{endpoint="chat",le="+Inf"}
spotinference_ttft_seconds_count{endpoint="chat"}
spotinference_ttft_seconds_sum{endpoint="chat"}
`

// TestConnectionsToTheEngine are used again after JSON, but after a stream only
// where the engine keeps them: llama-server closes those without a word.
func TestConnectionsToTheEngine(t *testing.T) {
	t.Parallel()
	f := func(kind queue.Kind, want int) {
		t.Helper()
		w := newWorld(t, kind, func(rw http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			if bytes.Contains(body, []byte(`"stream":true`)) {
				sse(nil, delta(" a", 1), usageChunk+doneEvent)(rw, r)
				return
			}
			jsonAnswer(200, chatAnswer)(rw, r)
		}, nil)
		for _, body := range []string{chatBody, chatBody, streamBody, chatBody, streamBody, chatBody, chatBody} {
			if resp, answer := w.do("POST", "/v1/chat/completions", body); resp.StatusCode != 200 {
				t.Fatalf("%d %s", resp.StatusCode, answer)
			}
		}
		if n := w.engine.dialled(); n != want {
			t.Errorf("%s: %d connections for 7 requests, 2 of them streams, want %d", kind, n, want)
		}
	}
	f(queue.Llama, 3)
	f(queue.VLLM, 1)
}
