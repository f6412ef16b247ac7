package api_test

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/queue"
)

// TestTheEnginesCountersAreSampled beside the rows, and a drift is an event and
// a metric, once.
func TestTheEnginesCountersAreSampled(t *testing.T) {
	t.Parallel()
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { led.Close() })
	var made, looks, running atomic.Int64
	w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/v1/models" {
			jsonAnswer(200, `{"data":[{"meta":{"n_ctx":4096}}]}`)(rw, r)
			return
		}
		if r.URL.Path != "/metrics" {
			jsonAnswer(200, chatAnswer)(rw, r) // 59 prompt tokens, 58 of them cached, and 3 more
			made.Add(3)
			return
		}
		looks.Add(1)
		fmt.Fprintf(rw, "llamacpp:prompt_tokens_total %d\nllamacpp:tokens_predicted_total %d\nllamacpp:requests_processing %d\nllamacpp:requests_deferred 0\n",
			made.Load()/3, made.Load(), running.Load())
	}, func(c *api.Config) {
		c.Ledger, c.Audit, c.AuditEvery = led, led, 5*time.Millisecond
	})
	w.engine.mu.Lock()
	w.engine.started = time.Now().Add(-time.Minute)
	w.engine.mu.Unlock()
	looked := func() {
		t.Helper()
		n := looks.Load() + 2
		eventually(t, "two more looks", func() bool { return looks.Load() >= n })
	}
	last := func() ledger.EngineSample {
		t.Helper()
		runs, err := led.EngineRuns(time.Time{}, time.Now())
		if err != nil || len(runs) != 1 {
			t.Fatalf("%+v, %v", runs, err)
		}
		return runs[0]
	}
	drifts := func() int {
		t.Helper()
		events, err := led.Events("meter", time.Time{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Subject != "drift" || !strings.Contains(e.Detail, `"completion":{"engine":`) {
				t.Errorf("event %+v", e)
			}
		}
		return len(events)
	}

	looked()
	w.do("POST", "/v1/chat/completions", chatBody)
	eventually(t, "the answer is in a quiet sample", func() bool { s := last(); return s.Completion == 3 && s.Prompt == 1 && s.Quiet })
	// The same again is not written again.
	was := last()
	looked()
	if last() != was {
		t.Errorf("sample %+v after %+v", last(), was)
	}
	// What others have running is no drift yet, and one once it is quiet.
	running.Store(1)
	made.Add(3)
	eventually(t, "it is in a sample", func() bool { s := last(); return s.Completion == 6 && !s.Quiet })
	if n := drifts(); n != 0 {
		t.Errorf("%d drifts while a request runs", n)
	}
	running.Store(0)
	eventually(t, "the drift is seen", func() bool { return drifts() == 1 })
	looked()
	if drifts() != 1 {
		t.Errorf("one drift is told %d times", drifts())
	}
	// A new process begins at zero.
	w.engine.set(ledger.Starting)
	w.engine.mu.Lock()
	w.engine.started = time.Now()
	w.engine.mu.Unlock()
	made.Store(0)
	w.engine.set(ledger.Ready)
	eventually(t, "the new process is sampled", func() bool {
		runs, err := led.EngineRuns(time.Time{}, time.Now())
		return err == nil && len(runs) == 2 && runs[1].Completion == 0
	})
	if drifts() != 1 {
		t.Errorf("%d drifts after a restart", drifts())
	}
	if got := w.metric("spotinference_meter_drifts_total"); got != "1" {
		t.Errorf("the metric says %s drifts", got)
	}
}
