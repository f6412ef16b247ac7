package api_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/queue"
)

// The words of a stream that waits, as a client is sent them: runs of comments by their
// number, events by what they are.
func words(t *testing.T, stream string) (out []string) {
	t.Helper()
	comments := 0
	flush := func() {
		if comments > 0 {
			out = append(out, fmt.Sprint(comments, " comments"))
		}
		comments = 0
	}
	for ev := range strings.SplitSeq(strings.TrimSuffix(stream, "\n\n"), "\n\n") {
		switch {
		case ev == ": waiting for the engine":
			comments++
			continue
		case strings.HasPrefix(ev, "event: "):
			ev, _, _ = strings.Cut(strings.TrimPrefix(ev, "event: "), "\n")
		case strings.Contains(ev, `"delta":{},"finish_reason":null`):
			ev = "empty delta"
		case strings.Contains(ev, `"text":"","finish_reason":null`):
			ev = "empty text"
		}
		flush()
		out = append(out, ev)
	}
	flush()
	return out
}

// silent is an engine that says nothing for so long: before its head, or after it.
func silent(before, after time.Duration, then http.HandlerFunc) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		time.Sleep(before)
		if after > 0 {
			rw.Header().Set("Content-Type", "text/event-stream")
			rw.WriteHeader(200)
			rw.(http.Flusher).Flush()
			time.Sleep(after)
		}
		then(rw, r)
	}
}

// TestHeartbeats: in each dialect, in a prefill of five minutes before the engine's head, as
// llama-server's is, and after it, as vLLM's. What the engine then says is whole.
func TestHeartbeats(t *testing.T) {
	t.Parallel()
	said := map[string]struct {
		events []string // the engine's
		beats  []string
		ends   string
	}{
		"/v1/chat/completions": {[]string{delta(" a", 1), usageChunk + doneEvent}, []string{"empty delta", "empty delta"}, doneEvent},
		"/v1/completions":      {[]string{`data: {"choices":[{"index":0,"text":"a","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}` + "\n\n" + doneEvent}, []string{"empty text", "empty text"}, doneEvent},
		"/v1/messages": {[]string{"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":4,\"output_tokens\":0}}}\n\n" +
			"event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":1}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"},
			[]string{"ping", "ping"}, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"},
		"/v1/responses": {[]string{"event: response.created\ndata: {\"type\":\"response.created\",\"response\":{}}\n\n" +
			"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n"},
			[]string{"response.created", "keepalive"}, "\n\n"},
	}
	inBubble(t, func(t *testing.T) {
		for path, c := range said {
			for name, gap := range map[string][2]time.Duration{"llama-server": {5*time.Minute + time.Second, 0}, "vLLM": {0, 5*time.Minute + time.Second}} {
				w := newWorldOf(t, queue.Llama, silent(gap[0], gap[1], sse(nil, c.events...)), setting{inMemory: true})
				resp, body := w.do("POST", path, streamBody)
				if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || !strings.HasSuffix(body, c.ends) {
					t.Errorf("%s, %s: %d %v %q", path, name, resp.StatusCode, resp.Header, body)
				}
				want := []string{"11 comments", c.beats[0], "11 comments", c.beats[1], "6 comments"}
				if got := words(t, body); !slices.Equal(got[:min(len(got), 5)], want) {
					t.Errorf("%s, %s: %q, want %q", path, name, got, want)
				}
				row := w.row()
				if row.Status != ledger.OK || row.LowerBound || row.Usage.CompletionTokens == 0 || row.First.Sub(row.Started) < 5*time.Minute {
					t.Errorf("%s, %s: row = %+v", path, name, row)
				}
			}
		}
	})
}

// TestHeartbeatsInAnAnswer that pauses; never in the midst of an event that is passed on
// unread.
func TestHeartbeatsInAnAnswer(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		long := "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" + strings.Repeat("a", 17<<20)
		w := newWorldOf(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			rw.Header().Set("Content-Type", "text/event-stream")
			for _, part := range []string{delta("b", 1), long, "\"}}]}\n\n", usageChunk + doneEvent} {
				io.WriteString(rw, part)
				rw.(http.Flusher).Flush()
				time.Sleep(25 * time.Second)
			}
		}, setting{inMemory: true})
		_, body := w.do("POST", "/v1/chat/completions", streamBody)
		body = strings.Replace(body, long, "LONG", 1)
		at := strings.Index(body, "LONG")
		if at < 0 || !strings.HasPrefix(body[at:], "LONG\"}}]}\n\n: waiting for the engine\n\n: waiting") || strings.Count(body[:at], ": waiting") != 2 {
			t.Errorf("%q", body)
		}
		if r := w.row(); r.Status != ledger.OK {
			t.Errorf("row = %+v", r)
		}
	})
}

// TestALateRefusal: what the engine refuses within ten seconds has its status; after that it
// is an error event, and the row has the status. What does not stream has it whenever.
func TestALateRefusal(t *testing.T) {
	t.Parallel()
	refuses := jsonAnswer(400, `{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}`)
	inBubble(t, func(t *testing.T) {
		f := func(path, body string, after time.Duration, status int, want string) {
			t.Helper()
			w := newWorldOf(t, queue.Llama, silent(after, 0, refuses), setting{inMemory: true})
			resp, got := w.do("POST", path, body)
			if resp.StatusCode != status || !strings.Contains(got, want) || !strings.Contains(got, "exceeds the available") {
				t.Errorf("%s after %s: %d %s, want %d %s", path, after, resp.StatusCode, got, status, want)
			}
			if r := w.row(); r.Status != ledger.Failed || r.HTTP != 400 || r.LowerBound {
				t.Errorf("%s after %s: row = %+v", path, after, r)
			}
			if _, page := w.do("GET", "/metrics", ""); strings.Contains(page, `spotinference_refused_requests_total{`) {
				t.Errorf("it is counted as refused by us:\n%s", page)
			}
		}
		for _, path := range []string{"/v1/chat/completions", "/v1/responses", "/v1/messages"} {
			f(path, streamBody, 9*time.Second, 400, `"error":{`)
			f(path, chatBody, time.Minute, 400, `"error":{`)
		}
		f("/v1/chat/completions", streamBody, 11*time.Second, 200, "data: {\"error\":{")
		f("/v1/messages", streamBody, 11*time.Second, 200, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\"")
		f("/v1/responses", streamBody, 11*time.Second, 200, `"error":{"code":"context_length_exceeded"`)
	})
}

// TestALateDeath: an engine that dies in a prefill that our head has left for, and one that
// answers with no stream.
func TestALateDeath(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		for name, then := range map[string]http.HandlerFunc{
			"dies":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			"no stream": jsonAnswer(200, chatAnswer),
		} {
			w := newWorldOf(t, queue.Llama, silent(time.Minute, 0, then), setting{inMemory: true})
			if resp, body := w.do("POST", "/v1/chat/completions", streamBody); resp.StatusCode != 200 || !strings.Contains(body, `"code":"engine_failed"`) {
				t.Errorf("%s: %d %s", name, resp.StatusCode, body)
			}
			if r := w.row(); r.Status != ledger.Failed || r.HTTP != 502 {
				t.Errorf("%s: row = %+v", name, r)
			}
		}
	})
}

// TestAClientThatLeavesAPrefill that our head has left for: the engine is told, and the row
// says so.
func TestAClientThatLeavesAPrefill(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	w := newWorld(t, queue.Llama, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		close(left)
	}, func(c *api.Config) { c.Heartbeat = 5 * time.Millisecond })
	resp := w.begin("POST", "/v1/chat/completions", streamBody)
	if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	<-left
	if r := w.row(); r.Status != ledger.Aborted || r.HTTP != 499 || !r.LowerBound {
		t.Errorf("row = %+v", r)
	}
}

// TestWakeHold: a request that does not stream is sent away before the proxies between
// cut it; one that streams waits on, as does one without the setting.
func TestWakeHold(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		world := func(hold time.Duration) *world {
			w := newWorldOf(t, queue.Llama, jsonAnswer(200, chatAnswer), setting{inMemory: true, config: func(c *api.Config) { c.WakeHold = hold }})
			w.engine.set(ledger.Suspended)
			return w
		}
		w := world(45 * time.Second)
		for _, path := range []string{"/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"} {
			start := time.Now()
			resp, body := w.do("POST", path, chatBody)
			if took := time.Since(start); resp.StatusCode != 503 || took < 45*time.Second || took > 46*time.Second ||
				resp.Header.Get("Retry-After") != "30" || resp.Header.Get("X-Should-Retry") != "" || !strings.Contains(body, "still waking") {
				t.Errorf("%s: %d after %s, %v %s", path, resp.StatusCode, took, resp.Header, body)
			}
		}
		if n := len(w.ledger.all()); n > 0 {
			t.Errorf("%d rows", n)
		}
		for _, c := range []struct {
			hold time.Duration
			body string
		}{{45 * time.Second, streamBody}, {0, chatBody}} {
			w := world(c.hold)
			go func() {
				time.Sleep(9 * time.Minute)
				w.wake(errors.Join(queue.ErrWakeTimeout))
			}()
			if _, body := w.do("POST", "/v1/chat/completions", c.body); !strings.Contains(body, "wake_timeout") {
				t.Errorf("hold %s: %s", c.hold, body)
			}
		}
	})
}

// TestRoutesWithoutVersion: a base URL may lack /v1; the engine is asked for its own path.
func TestRoutesWithoutVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v1/") {
			t.Errorf("the engine was asked for %s", r.URL.Path)
		}
		jsonAnswer(200, chatAnswer)(rw, r)
	}, nil)
	for _, route := range api.Routes() {
		path, versioned := strings.CutPrefix(route.Path, "/v1")
		if !versioned || route.Form {
			continue
		}
		body := chatBody
		if route.Method == "GET" {
			body = ""
		}
		if resp, got := w.do(route.Method, path, body); resp.StatusCode == 404 || resp.StatusCode == 405 {
			t.Errorf("%s: %d %s", path, resp.StatusCode, got)
		}
	}
}
