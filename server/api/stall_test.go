package api_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/queue"
)

// page is llama-server's metrics with so many steps made.
func page(w http.ResponseWriter, steps int64) {
	fmt.Fprintf(w, "llamacpp:prompt_tokens_total 5\nllamacpp:tokens_predicted_total 7\nllamacpp:n_decode_total %d\nllamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n", steps)
}

func stallSoon(c *api.Config) { c.StallTimeout = 400 * time.Millisecond }

// TestAnEngineThatHangs: the client is told in its dialect, the engine sees it
// leave, and what was made is counted.
func TestAnEngineThatHangs(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := func(name, path, body string, events []string, completion int64, want ...string) {
			t.Helper()
			left := make(chan struct{})
			w := newWorldOf(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/metrics" {
					page(rw, 3)
					return
				}
				io.Copy(io.Discard, r.Body)
				if events != nil {
					rw.Header().Set("Content-Type", "text/event-stream")
				}
				for _, e := range events {
					io.WriteString(rw, e)
					rw.(http.Flusher).Flush()
				}
				for r.Context().Err() == nil { // its connections stay alive
					if events != nil {
						io.WriteString(rw, ":\n\n")
						rw.(http.Flusher).Flush()
					}
					select {
					case <-r.Context().Done():
					case <-time.After(20 * time.Millisecond):
					}
				}
				close(left)
			}, setting{inMemory: true, config: stallSoon})
			resp, answer := w.do("POST", path, body)
			<-left
			for _, part := range want {
				if !strings.Contains(answer, part) {
					t.Errorf("%s: no %q in %q", name, part, answer)
				}
			}
			r := w.row()
			if r.Status != ledger.Failed || !r.LowerBound || r.Usage.CompletionTokens != completion {
				t.Errorf("%s: row = %+v", name, r)
			}
			if resp.StatusCode != r.HTTP {
				t.Errorf("%s: the client got %d, the row has %d", name, resp.StatusCode, r.HTTP)
			}
		}
		f("mid-stream", "/v1/chat/completions", streamBody, []string{delta(" a", 1), delta(" b", 2)}, 2, `" b"`, `"code":"engine_stalled"`, doneEvent)
		f("in prefill", "/v1/chat/completions", streamBody, []string{": ping\n\n"}, 0, `"code":"engine_stalled"`, doneEvent)
		f("no stream", "/v1/chat/completions", chatBody, nil, 0, `{"error":{"message":"The engine has stopped`, `"code":"engine_stalled"`)
		f("several results", "/v1/chat/completions", twoBody, []string{twoFirst}, 2, `{"error":{"message":"The engine has stopped`)
		f("anthropic", "/v1/messages", streamBody, []string{"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":4,\"output_tokens\":0}}}\n\n"}, 0,
			"event: error\ndata: {\"type\":\"error\"")
	})
}

// TestASlowEngineIsNotCut: nothing comes for longer than the limit, but its own
// counters move: it is in a prefill, or at the requests before this one.
func TestASlowEngineIsNotCut(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		for _, body := range []string{chatBody, streamBody} {
			var steps atomic.Int64
			w := newWorldOf(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/metrics" {
					page(rw, steps.Add(1))
					return
				}
				// A look begins when half the limit has passed, and the next one sees
				// whether it moved: after ten, the limit has passed twice over.
				for steps.Load() < 10 && r.Context().Err() == nil {
					time.Sleep(time.Millisecond)
				}
				if body == streamBody {
					sse(nil, delta(" a", 2), usageChunk, doneEvent)(rw, r)
					return
				}
				jsonAnswer(200, chatAnswer)(rw, r)
			}, setting{inMemory: true, config: stallSoon})
			if resp, answer := w.do("POST", "/v1/chat/completions", body); resp.StatusCode != 200 || strings.Contains(answer, "error") {
				t.Errorf("%s: %d %s", body, resp.StatusCode, answer)
			}
			if r := w.row(); r.Status != ledger.OK {
				t.Errorf("row = %+v", r)
			}
		}
	})
}
