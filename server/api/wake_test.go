package api_test

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/queue"
)

// asleep is a world whose engine is suspended.
func asleep(t *testing.T, events []string, heartbeat time.Duration) *world {
	t.Helper()
	h := jsonAnswer(200, chatAnswer)
	if events != nil {
		h = sse(nil, events...)
	}
	w := newWorld(t, queue.Llama, h, func(c *api.Config) { c.Heartbeat = heartbeat })
	w.engine.set(ledger.Suspended)
	return w
}

// wake lets one request in that waits, or sends it away. It waits for that request: one that
// came after the engine is ready would wait for nothing.
func (w *world) wake(err error) {
	eventually(w.t, "a waiter", func() bool { _, n := w.engine.load(); return n > 0 })
	if err == nil {
		w.engine.set(ledger.Ready)
	}
	w.engine.wakes <- err
}

// TestARequestWakes: it waits, is served when the engine is awake, and its time in the
// ledger begins then.
func TestARequestWakes(t *testing.T) {
	t.Parallel()
	w := asleep(t, nil, time.Hour)
	var woken time.Time
	go func() {
		eventually(t, "a waiter", func() bool { _, n := w.engine.load(); return n == 1 })
		woken = time.Now()
		w.wake(nil)
	}()
	if resp, body := w.do("POST", "/v1/chat/completions", chatBody); resp.StatusCode != 200 || body != chatAnswer {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	rows := w.ledger.all()
	if len(rows) != 1 || rows[0].Status != ledger.OK || rows[0].Started.Before(woken.Truncate(time.Microsecond)) {
		t.Errorf("rows = %+v, want one that started after %s", rows, woken)
	}
}

// TestAStreamHearsOfUs: heartbeats, then what the engine says.
func TestAStreamHearsOfUs(t *testing.T) {
	t.Parallel()
	w := asleep(t, []string{delta(" a", 1), usageChunk + doneEvent}, 5*time.Millisecond)
	resp := w.begin("POST", "/v1/chat/completions", streamBody)
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	r := bufio.NewReader(resp.Body)
	for range 3 {
		for _, want := range []string{": waiting for the engine\n", "\n"} {
			if line, err := r.ReadString('\n'); line != want {
				t.Fatalf("%q, %v, want %q", line, err, want)
			}
		}
	}
	w.wake(nil)
	rest, err := io.ReadAll(r)
	text := strings.ReplaceAll(string(rest), ": waiting for the engine\n\n", "")
	if err != nil || !strings.HasPrefix(text, "data: ") || !strings.HasSuffix(text, "data: [DONE]\n\n") {
		t.Errorf("%q, %v", text, err)
	}
	if rows := w.ledger.all(); len(rows) != 1 || rows[0].Status != ledger.OK || !rows[0].Stream {
		t.Errorf("rows = %+v", rows)
	}
}

// TestNoWake: each way in which a wait may end badly, before and after the status has
// left, in both dialects. Nothing of it is in the ledger.
func TestNoWake(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
		code   string
		retry  bool
	}{
		{queue.ErrFull, 503, "wake_queue_full", true},
		{queue.ErrWakeTimeout, 504, "wake_timeout", true},
		{queue.ErrNotReady, 503, "engine_not_ready", true},
		{errors.New("else"), 503, "engine_not_ready", true},
	} {
		w := asleep(t, nil, time.Hour)
		for _, body := range []string{chatBody, streamBody} {
			go w.wake(c.err)
			resp, answer := w.do("POST", "/v1/chat/completions", body)
			if resp.StatusCode != c.status || !strings.Contains(answer, `"code":"`+c.code+`"`) || (resp.Header.Get("Retry-After") != "") != c.retry {
				t.Errorf("%v: %d %v %s", c.err, resp.StatusCode, resp.Header, answer)
			}
		}
		late := asleep(t, []string{}, time.Millisecond)
		resp := late.begin("POST", "/v1/chat/completions", streamBody)
		late.wake(c.err)
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || err != nil || !strings.Contains(string(answer), `"code":"`+c.code+`"`) || !strings.HasSuffix(string(answer), "data: [DONE]\n\n") {
			t.Errorf("%v, late: %d %s %v", c.err, resp.StatusCode, answer, err)
		}
		if rows := append(w.ledger.all(), late.ledger.all()...); len(rows) != 0 {
			t.Errorf("%v: rows = %+v", c.err, rows)
		}
	}
}

// TestTheEngineFailsAfterTheWait: the client has its status, and hears of the failure
// in an event; the row has the engine's status.
func TestTheEngineFailsAfterTheWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, jsonAnswer(400, `{"error":{"code":400,"message":"too long","type":"invalid_request_error"}}`),
		func(c *api.Config) { c.Heartbeat = time.Millisecond })
	w.engine.set(ledger.Suspended)
	resp := w.begin("POST", "/v1/chat/completions", streamBody)
	defer resp.Body.Close()
	w.wake(nil)
	answer, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(answer), "too long") {
		t.Errorf("%s, %v", answer, err)
	}
	if rows := w.ledger.all(); len(rows) != 1 || rows[0].Status != ledger.Failed || rows[0].HTTP != 400 {
		t.Errorf("rows = %+v", rows)
	}
}

// TestAWaiterLeaves: nobody waits for it any more, whether it has its status or not.
func TestAWaiterLeaves(t *testing.T) {
	t.Parallel()
	for _, beat := range []time.Duration{time.Hour, time.Millisecond} {
		w := asleep(t, []string{}, beat)
		conn := w.send("/v1/chat/completions", streamBody)
		eventually(t, "a waiter", func() bool { _, n := w.engine.load(); return n == 1 })
		if beat < time.Second {
			if _, err := io.ReadFull(conn, make([]byte, 300)); err != nil { // past the head
				t.Fatal(err)
			}
		}
		conn.Close()
		eventually(t, "no waiter", func() bool { _, n := w.engine.load(); return n == 0 })
		eventually(t, "no request", func() bool { return w.metric("spotinference_requests_running") == "0" })
	}
}

// TestAsleepIsReady: a request would be served, and is not refused for what it must
// not wake: the list of models comes from memory.
func TestAsleepIsReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, jsonAnswer(200, `{"object":"list","data":[{"id":"m"}]}`), nil)
	if resp, body := w.do("GET", "/v1/models", ""); resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	w.engine.set(ledger.Suspended)
	if resp, body := w.do("GET", "/v1/models", ""); resp.StatusCode != 200 || !strings.Contains(body, `"id":"m"`) {
		t.Errorf("models while asleep: %d %s", resp.StatusCode, body)
	}
	if resp, body := w.do("GET", "/readyz", ""); resp.StatusCode != 200 || !strings.Contains(body, `"engine":"suspended"`) {
		t.Errorf("readyz while asleep: %d %s", resp.StatusCode, body)
	}
	w.gate.set(&budget.Refusal{Err: budget.ErrUnobservable, Reason: budget.ReasonStale, RetryAfter: time.Minute})
	if resp, _ := w.do("POST", "/v1/chat/completions", chatBody); resp.StatusCode != 503 {
		t.Errorf("behind a closed gate: %d", resp.StatusCode)
	}
	if _, n := w.engine.load(); n != 0 {
		t.Error("a closed gate let a request wake the engine")
	}
}

// TestTheGateIsAskedAfterTheWait: what was spent meanwhile counts.
func TestTheGateIsAskedAfterTheWait(t *testing.T) {
	t.Parallel()
	w := asleep(t, nil, time.Hour)
	go func() {
		eventually(t, "a waiter", func() bool { _, n := w.engine.load(); return n == 1 })
		w.gate.set(&budget.Refusal{Err: budget.ErrExhausted, Reason: budget.ReasonExhausted})
		w.wake(nil)
	}()
	if resp, body := w.do("POST", "/v1/chat/completions", chatBody); resp.StatusCode != 402 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if rows := w.ledger.all(); len(rows) != 0 {
		t.Errorf("rows = %+v", rows)
	}
}

// TestAPanicAfterTheWait: the row is written, the panic counted.
func TestAPanicAfterTheWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, queue.Llama, jsonAnswer(200, chatAnswer), func(c *api.Config) {
		c.Heartbeat, c.Ledger = time.Millisecond, &brokenLedger{}
	})
	w.engine.set(ledger.Suspended)
	resp := w.begin("POST", "/v1/chat/completions", streamBody)
	defer resp.Body.Close()
	w.wake(nil)
	if answer, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the stream ended with %s", answer)
	}
	eventually(t, "the panic is counted", func() bool { return w.metric("spotinference_panics_total") != "0" })
	eventually(t, "no request", func() bool { return w.metric("spotinference_requests_running") == "0" })
}
