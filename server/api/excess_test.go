package api_test

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/queue"
)

// countedWorld is a server whose engine has counters: each request moves them by a prompt of
// prompt and an answer of completion tokens, and is answered by h. rows are read of a real
// ledger.
func countedWorld(t *testing.T, kind queue.Kind, prompt, completion int64, h http.HandlerFunc) (w *world, rows func() []ledger.Request) {
	t.Helper()
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { led.Close() })
	names := map[queue.Kind]string{
		queue.Llama: "llamacpp:prompt_tokens_total %d\nllamacpp:tokens_predicted_total %d\nllamacpp:requests_processing 0\nllamacpp:requests_deferred 0\n",
		queue.VLLM:  "vllm:prompt_tokens_total %d\nvllm:generation_tokens_total %d\nvllm:num_requests_running 0\nvllm:num_requests_waiting 0\n",
	}
	var asked atomic.Int64
	kept := &keptLedger{Ledger: led}
	w = newWorld(t, kind, func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/metrics":
			fmt.Fprintf(rw, names[kind], asked.Load()*prompt, asked.Load()*completion)
		case "/v1/models":
			io.WriteString(rw, `{"data":[{"max_model_len":100,"meta":{"n_ctx":100}}]}`)
		default:
			asked.Add(1)
			h(rw, r)
		}
	}, func(c *api.Config) { c.Ledger, c.Audit, c.AuditEvery = kept, led, time.Hour })
	w.engine.mu.Lock()
	w.engine.started = time.Now().Add(-time.Minute)
	w.engine.mu.Unlock()
	return w, kept.all
}

// keptLedger remembers the rows, too.
type keptLedger struct {
	*ledger.Ledger
	fakeLedger
}

func (l *keptLedger) AddRequest(r ledger.Request) error {
	if err := l.Ledger.AddRequest(r); err != nil {
		return err
	}
	return l.fakeLedger.AddRequest(r)
}

func (l *keptLedger) SaveOpen(open []ledger.OpenRequest) error { return l.Ledger.SaveOpen(open) }

// TestAnErrorsRowByTheCounters: an error status does not say whether anything was made, the
// engine's counters do. vLLM answers some requests with 400 after it has generated.
func TestAnErrorsRowByTheCounters(t *testing.T) {
	t.Parallel()
	f := func(kind queue.Kind, status int, prompt, completion int64, want bool) {
		t.Helper()
		w, rows := countedWorld(t, kind, prompt, completion, jsonAnswer(status, `{"error":{"code":500,"message":"no","type":"server_error"}}`))
		w.do("POST", "/v1/chat/completions", chatBody)
		got := rows()
		if len(got) != 1 || got[0].Status != ledger.Failed || got[0].LowerBound != want || got[0].Usage != (ledger.Usage{}) {
			t.Errorf("%s %d with %d and %d: %+v, want a lower bound %t", kind, status, prompt, completion, got, want)
		}
	}
	f(queue.Llama, 500, 0, 0, false) // an image without mmproj
	f(queue.Llama, 501, 0, 0, false) // an endpoint that the model has not
	f(queue.Llama, 400, 0, 0, false)
	f(queue.Llama, 500, 5, 7, true)
	f(queue.VLLM, 400, 5, 7, true)
	f(queue.VLLM, 400, 5, 0, true)
	f(queue.VLLM, 500, 0, 0, false)
	f(queue.VLLM, 400, 0, 0, false)
}

// TestWhatACutRequestCouldHaveMade is in the ledger with its row: up to its own limit, else
// up to the context's.
func TestWhatACutRequestCouldHaveMade(t *testing.T) {
	t.Parallel()
	f := func(kind queue.Kind, body string, prompt, completion int64) {
		t.Helper()
		asked := make(chan struct{})
		w, rows := countedWorld(t, kind, 0, 0, func(rw http.ResponseWriter, r *http.Request) {
			sse(nil, `data: {"choices":[{"index":0,"delta":{"content":"a"}}]}`+"\n\n", `data: {"choices":[{"index":0,"delta":{"content":"b"}}]}`+"\n\n")(rw, r)
			close(asked)
			<-r.Context().Done()
		})
		w.server.SampleCounters(t.Context()) // reads the context's size
		conn := w.send("/v1/chat/completions", body)
		<-asked
		eventually(t, "two tokens are seen", func() bool {
			buf := make([]byte, 4096)
			n, _ := conn.Read(buf)
			return n > 0
		})
		conn.Close()
		eventually(t, "it has its row", func() bool { return len(rows()) == 1 })
		x := rows()[0].Excess
		made := rows()[0].Usage.CompletionTokens
		if !x.Completion.Known || x.Completion.N+made != completion || !x.Prompt.Known || x.Prompt.N != prompt {
			t.Errorf("%s %s: %+v beside %d tokens, want %d and %d together", kind, body, x, made, prompt, completion)
		}
	}
	const message = `"messages":[{"role":"user","content":"hi"}]`
	f(queue.Llama, `{"stream":true,"max_tokens":20,`+message+`}`, 100, 20)
	f(queue.Llama, `{"stream":true,"max_completion_tokens":20.0,"max_tokens":3,`+message+`}`, 100, 20)
	f(queue.Llama, `{"stream":true,`+message+`}`, 100, 100)
	f(queue.Llama, `{"stream":true,"max_tokens":-1,`+message+`}`, 100, 100)
	f(queue.Llama, `{"stream":true,"max_tokens":5000,`+message+`}`, 100, 100)
	f(queue.Llama, `{"stream":true,"n":2,"max_tokens":20,`+message+`}`, 100, 40)
	f(queue.VLLM, `{"stream":true,"n":2,"max_tokens":20,`+message+`}`, 200, 40)
}

// TestAMissingCounterIsNamed, once for each process of the engine.
func TestAMissingCounterIsNamed(t *testing.T) {
	t.Parallel()
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { led.Close() })
	w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
		io.WriteString(rw, "llamacpp:prompt_tokens_total 1\nllamacpp:requests_processing 0\nllamacpp:requests_deferred 0\n")
	}, func(c *api.Config) { c.Audit, c.AuditEvery = led, time.Hour })
	w.engine.mu.Lock()
	w.engine.started = time.Now().Add(-time.Minute)
	w.engine.mu.Unlock()
	for range 2 {
		w.server.SampleCounters(t.Context())
	}
	missing, err := led.MissingCounters(time.Time{}, time.Now())
	if err != nil || len(missing) != 1 || fmt.Sprint(missing[0].Counters) != "[llamacpp:tokens_predicted_total]" || missing[0].Engine != "llama" {
		t.Errorf("%+v, %v", missing, err)
	}
}
