package api_test

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/queue"
)

var (
	spent = &budget.Refusal{Err: budget.ErrExhausted, Reason: budget.ReasonExhausted, Per: budget.Day, RetryAfter: time.Hour}
	stale = &budget.Refusal{Err: budget.ErrUnobservable, Reason: budget.ReasonStale, RetryAfter: time.Minute}
)

func (g *fakeGate) set(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

// TestAClosedGateAsksNoEngine walks every path that is served, by what the gateway
// itself says they are, for each reason, whatever the engine is doing: it is not asked,
// not woken, and not even dialled.
func TestAClosedGateAsksNoEngine(t *testing.T) {
	t.Parallel()
	for _, state := range []ledger.EngineState{ledger.Ready, ledger.Suspended, ledger.Waking} {
		w := newWorld(t, queue.Llama, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("the engine was asked for %s", r.URL.Path) }, nil)
		w.engine.set(state)
		_, unknown := w.do("POST", "/v1/nothing", "")
		paths := regexp.MustCompile(`/v1/[a-z_/]+[a-z]`).FindAllString(unknown, -1)
		if len(paths) < 11 || !slices.Contains(paths, "/v1/audio/speech") {
			t.Fatalf("paths = %q", paths)
		}
		for _, reason := range budget.Reasons() {
			w.gate.set(&budget.Refusal{Err: budget.ErrUnobservable, Reason: reason, RetryAfter: time.Minute})
			status := http.StatusServiceUnavailable
			if reason == budget.ReasonExhausted {
				w.gate.set(spent)
				status = http.StatusPaymentRequired
			}
			for _, path := range paths {
				method, body, kind := "POST", streamBody, "application/json"
				switch {
				case path == "/v1/models":
					method, body = "GET", ""
				case strings.HasSuffix(path, "tions") && strings.Contains(path, "audio"):
					kind = soundType
					body = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nx\r\n--b--\r\n"
				}
				resp, answer := w.do(method, path, body, "Content-Type", kind)
				if resp.StatusCode != status || (resp.Header.Get("x-should-retry") == "false") == (reason == budget.ReasonStart) || !strings.Contains(answer, "("+reason+")") {
					t.Errorf("%s, %s, the engine %s: %d %s", path, reason, state, resp.StatusCode, answer)
				}
			}
			if _, ready := w.do("GET", "/readyz", ""); !strings.Contains(ready, `"gate":"`+reason+`"`) {
				t.Errorf("readyz: %s", ready)
			}
			if _, page := w.do("GET", "/metrics", ""); !strings.Contains(page, `spotinference_gate_closed{reason="`+reason+`"} 1`) {
				t.Errorf("metrics do not say %s:\n%s", reason, page)
			}
		}
		w.engine.mu.Lock()
		if w.engine.asked != 0 || w.engine.dials != 0 {
			t.Errorf("the engine %s: asked %d times, dialled %d times", state, w.engine.asked, w.engine.dials)
		}
		w.engine.mu.Unlock()
	}
}

// TestModelsBehindAClosedGate: the list that is known costs nothing.
func TestModelsBehindAClosedGate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, jsonAnswer(200, `{"data":[]}`), nil)
	if resp, body := w.do("GET", "/v1/models", ""); resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	w.gate.set(stale)
	if resp, body := w.do("GET", "/v1/models", ""); resp.StatusCode != 200 || body != `{"data":[]}` {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if n := w.engine.dialled(); n != 1 {
		t.Errorf("the engine was dialled %d times", n)
	}
}

// closings hears of what follows a closed gate.
type closings struct {
	mu      sync.Mutex
	reasons []string
	ctx     context.Context // of the newest
}

func (c *closings) closed(ctx context.Context, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reasons, c.ctx = append(c.reasons, reason), ctx
}

// ended reports whether the context of the newest has.
func (c *closings) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ctx.Err() != nil
}

func (c *closings) heard() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.reasons)
}

// TestClosingCutsWhatRuns: in each dialect a stream ends with an error event, and its
// row says how far it came, at least; a whole answer that was not there yet is refused,
// and its row is a lower bound, too.
func TestClosingCutsWhatRuns(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		for path, want := range map[string]string{
			"/v1/chat/completions": "data: {\"error\":{",
			"/v1/messages":         "event: error\ndata: {\"type\":\"error\"",
			"/v1/responses":        "event: response.failed\ndata: {\"type\":\"response.failed\"",
		} {
			var c closings
			w := newWorldOf(t, queue.Llama, sse(make(chan struct{}), delta(" a", 1), doneEvent), setting{inMemory: true, hooks: api.Hooks{Closed: c.closed}})
			eventually(t, "it is ready", func() bool { resp, _ := w.do("GET", "/readyz", ""); return resp.StatusCode == 200 })
			resp := w.begin("POST", path, streamBody)
			w.seenOpen()
			w.gate.set(spent)
			rest, err := io.ReadAll(resp.Body)
			if err != nil || !strings.Contains(string(rest), want) || !strings.Contains(string(rest), "(exhausted)") {
				t.Errorf("%s: %q, %v, want %q", path, rest, err, want)
			}
			if r := w.row(); r.Status != ledger.Failed || !r.LowerBound || r.HTTP != 200 {
				t.Errorf("%s: row = %+v", path, r)
			}
			eventually(t, "it is told of", func() bool { return slices.Equal(c.heard(), []string{"exhausted"}) })
			if _, page := w.do("GET", "/metrics", ""); !strings.Contains(page, "spotinference_gate_cut_answers_total 1\n") {
				t.Errorf("metrics:\n%s", page)
			}
		}

		inside := make(chan struct{})
		w := newWorldOf(t, queue.Llama, func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			close(inside)
			<-r.Context().Done()
		}, setting{inMemory: true})
		go func() { <-inside; w.gate.set(spent) }()
		if resp, body := w.do("POST", "/v1/chat/completions", chatBody); resp.StatusCode != 402 || !strings.Contains(body, "insufficient_quota") {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
		if r := w.row(); r.Status != ledger.Failed || !r.LowerBound || r.HTTP != 402 {
			t.Errorf("row = %+v", r)
		}
	})
}

// seenOpen waits until the server has looked at its open gate.
func (w *world) seenOpen() {
	w.t.Helper()
	asked := w.gate.asked.Load()
	eventually(w.t, "the gate is looked at", func() bool { return w.gate.asked.Load() > asked+1 })
}

// TestTheGrace: an answer that ends within it is whole, and nothing follows while the
// grace is not over; a gate that opens meanwhile has closed nothing.
func TestTheGrace(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		var c closings
		step := make(chan struct{})
		w := newWorldOf(t, queue.Llama, sse(step, delta(" a", 1), usageChunk+doneEvent),
			setting{inMemory: true, config: func(cfg *api.Config) { cfg.CloseGrace = time.Hour }, hooks: api.Hooks{Closed: c.closed}})
		resp := w.begin("POST", "/v1/chat/completions", streamBody)
		w.seenOpen()
		w.gate.set(stale)
		w.seenOpen()
		if resp, _ := w.do("POST", "/v1/chat/completions", streamBody); resp.StatusCode != 503 {
			t.Errorf("a new request: %d", resp.StatusCode)
		}
		close(step)
		if rest, err := io.ReadAll(resp.Body); err != nil || !strings.HasSuffix(string(rest), doneEvent) || strings.Contains(string(rest), "error") {
			t.Errorf("%q, %v", rest, err)
		}
		if r := w.row(); r.Status != ledger.OK || r.LowerBound {
			t.Errorf("row = %+v", r)
		}
		w.gate.set(nil)
		w.seenOpen()
		if got := c.heard(); len(got) > 0 {
			t.Errorf("closed for %q", got)
		}
	})
}

// TestWhoWaitsLeavesAtOnce: nobody is woken for them, and the grace is for answers.
func TestWhoWaitsLeavesAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		w := newWorldOf(t, queue.Llama, jsonAnswer(200, chatAnswer), setting{inMemory: true, config: func(cfg *api.Config) { cfg.CloseGrace = time.Hour }})
		w.engine.set(ledger.Suspended)
		w.seenOpen()
		go func() {
			eventually(t, "a waiter", func() bool { _, n := w.engine.load(); return n == 1 })
			w.gate.set(spent)
		}()
		if resp, body := w.do("POST", "/v1/chat/completions", chatBody); resp.StatusCode != 402 {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
		if rows := w.ledger.all(); len(rows) > 0 {
			t.Errorf("rows = %+v", rows)
		}
	})
}

// TestOnceAClosing: one call a closing, whatever the reasons become, whose context ends
// when the gate opens; and none while it was never open, but for a budget that is spent.
func TestOnceAClosing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		var c closings
		w := newWorldOf(t, queue.Llama, jsonAnswer(200, chatAnswer),
			setting{inMemory: true, config: func(cfg *api.Config) { cfg.Gate.(*fakeGate).err = stale }, hooks: api.Hooks{Closed: c.closed}})
		says := func(want ...string) {
			t.Helper()
			eventually(t, strings.Join(want, " "), func() bool { return len(c.heard()) >= len(want) })
			w.seenOpen()
			if got := c.heard(); !slices.Equal(got, want) {
				t.Errorf("closed for %q, want %q", got, want)
			}
		}
		w.seenOpen()
		says()
		w.gate.set(spent)
		says("exhausted")
		w.gate.set(stale)
		says("exhausted")
		if c.ended() {
			t.Error("its context has ended, and the gate is closed")
		}
		w.gate.set(nil)
		eventually(t, "its context ends", c.ended)
		w.gate.set(stale)
		says("exhausted", "stale")
	})
}

// TestAClosingWhoseEndIsSlow: what follows one closing may still run in the next, which
// waits for it and sees to the requests meanwhile; and where that has ended, too, nothing
// follows it.
func TestAClosingWhoseEndIsSlow(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		let := make(chan struct{})
		var c closings
		w := newWorldOf(t, queue.Llama, jsonAnswer(200, chatAnswer), setting{inMemory: true, hooks: api.Hooks{
			Closed: func(ctx context.Context, reason string) { c.closed(ctx, reason); <-let },
		}})
		t.Cleanup(func() { close(let) }) // or the server could not end
		w.engine.set(ledger.Suspended)
		w.seenOpen()
		w.gate.set(spent)
		eventually(t, "the first", func() bool { return len(c.heard()) == 1 })
		w.gate.set(nil)
		w.seenOpen()
		w.gate.set(stale)
		w.seenOpen()
		w.gate.set(nil)
		w.seenOpen()
		go func() {
			eventually(t, "a waiter", func() bool { _, n := w.engine.load(); return n == 1 })
			w.gate.set(stale)
		}()
		if resp, body := w.do("POST", "/v1/chat/completions", chatBody); resp.StatusCode != 503 || !strings.Contains(body, "(stale)") {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
		w.gate.set(nil)
		w.seenOpen()
		let <- struct{}{}
		w.seenOpen()
		if got := c.heard(); !slices.Equal(got, []string{"exhausted"}) {
			t.Errorf("closed for %q, and the gate is open", got)
		}
		w.gate.set(spent)
		eventually(t, "the next", func() bool { return len(c.heard()) == 2 })
	})
}
