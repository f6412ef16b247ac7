package api_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"spotinference/ledger"
	"spotinference/server/queue"
)

const (
	twoBody  = `{"model":"m","n":2,"messages":[{"role":"user","content":"hi"}]}`
	twoFirst = `data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"model":"tiny","object":"chat.completion.chunk"}` + "\n\n" +
		`data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" a"}}],"model":"tiny","object":"chat.completion.chunk","timings":{"cache_n":1,"prompt_n":4,"predicted_n":2}}` + "\n\n"
	twoSecond = `data: {"choices":[{"finish_reason":"stop","index":1,"delta":{"content":" b"}}],"model":"tiny","object":"chat.completion.chunk","timings":{"cache_n":1,"prompt_n":4,"predicted_n":3}}` + "\n\n"
)

// TestSeveralResults are streamed by the engine and leave as one JSON answer.
func TestSeveralResults(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		asked <- string(body)
		sse(nil, twoFirst, twoSecond, usageChunk, usageChunk, doneEvent)(rw, r)
	}, nil)
	resp, body := w.do("POST", "/v1/chat/completions", twoBody)
	if got := <-asked; !strings.Contains(got, `"stream":true`) {
		t.Errorf("the engine was asked %s", got)
	}
	const want = `{"choices":[{"finish_reason":null,"index":0,"message":{"role":"assistant","content":" a"}},{"finish_reason":"stop","index":1,"message":{"content":" b"}}],` +
		`"model":"tiny","object":"chat.completion","usage":{"completion_tokens":4,"prompt_tokens":5,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":1}}}`
	if resp.StatusCode != 200 || body != want || mediaTypeOf(resp) != "application/json" {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
	if r := w.row(); r.Status != ledger.OK || r.LowerBound || r.Stream || r.Usage != (ledger.Usage{PromptTokens: 5, CachedTokens: 1, CompletionTokens: 4}) {
		t.Errorf("row = %+v", r)
	}
}

func mediaTypeOf(r *http.Response) string {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return kind
}

// TestSeveralResultsThatFail: the status still tells, and the count so far is kept.
func TestSeveralResultsThatFail(t *testing.T) {
	t.Parallel()
	f := func(name string, h http.HandlerFunc, status int, completion int64, want string) {
		t.Helper()
		w := newWorld(t, queue.Llama, h, nil)
		resp, body := w.do("POST", "/v1/chat/completions", twoBody)
		if resp.StatusCode != status || !strings.Contains(body, want) || mediaTypeOf(resp) != "application/json" {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
		if r := w.row(); r.Status != ledger.Failed || r.HTTP != status || !r.LowerBound && status >= 500 || r.Usage.CompletionTokens != completion {
			t.Errorf("%s: row = %+v", name, r)
		}
	}
	f("cut", func(w http.ResponseWriter, r *http.Request) { sse(nil, twoFirst)(w, r); panic(http.ErrAbortHandler) }, 502, 2, `"code":"engine_failed"`)
	f("ended early", sse(nil, twoFirst, twoSecond), 502, 5, `"code":"engine_failed"`)
	f("error event", sse(nil, twoFirst, `data: {"error":{"code":500,"message":"kv cache full","type":"server_error"}}`+"\n\n"), 502, 2, `"kv cache full"`)
	f("refused", jsonAnswer(400, `{"error":{"code":400,"message":"no","type":"invalid_request_error"}}`), 400, 0, `"no"`)

	w := newWorld(t, queue.Llama, sse(nil, twoFirst, twoSecond, usageChunk, usageChunk, doneEvent), nil)
	w.ledger.breaks()
	if resp, body := w.do("POST", "/v1/chat/completions", twoBody); resp.StatusCode != 500 || !strings.Contains(body, "ledger_unwritable") {
		t.Errorf("without a row: %d %s", resp.StatusCode, body)
	}
}

// TestAClientOfSeveralResultsThatLeaves: what was made is counted, though the
// client had asked for no stream.
func TestAClientOfSeveralResultsThatLeaves(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
		sse(nil, twoFirst, twoSecond)(rw, r)
		<-r.Context().Done()
		close(left)
	}, nil)
	conn := w.send("/v1/chat/completions", twoBody)
	eventually(t, "the count is known", func() bool {
		w.ledger.mu.Lock()
		defer w.ledger.mu.Unlock()
		return len(w.ledger.open) == 1 && w.ledger.open[0].Usage.CompletionTokens == 5
	})
	conn.Close()
	<-left
	if r := w.row(); r.Status != ledger.Aborted || !r.LowerBound || r.Usage.CompletionTokens != 5 {
		t.Errorf("row = %+v", r)
	}
}
