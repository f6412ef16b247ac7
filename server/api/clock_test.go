package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/queue"
)

// TestAWrongClock: rows and keys go by the clock that was handed down, deadlines and
// waits do not. A clock that is hours off cuts no answer, and takes no connection to the
// engine for an old or a new one.
func TestAWrongClock(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-5 * time.Hour, 5 * time.Hour} {
		now := func() time.Time { return time.Now().Add(off) }
		w := newWorld(t, queue.VLLM, func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/completions") && r.ContentLength > int64(len(chatBody)) {
				sse(nil, delta(" a", 1), delta(" b", 2), usageChunk+doneEvent)(rw, r)
				return
			}
			jsonAnswer(200, chatAnswer)(rw, r)
		}, func(c *api.Config) { c.Now, c.StallTimeout = now, time.Hour })
		for range 2 {
			if resp, body := w.do("POST", "/v1/chat/completions", streamBody); resp.StatusCode != 200 || !strings.HasSuffix(body, doneEvent) {
				t.Errorf("%s: %d %q", off, resp.StatusCode, body)
			}
			if resp, body := w.do("POST", "/v1/messages", chatBody); resp.StatusCode != 200 || body != chatAnswer {
				t.Errorf("%s: %d %q", off, resp.StatusCode, body)
			}
		}
		for _, r := range w.ledger.all() {
			if d := time.Until(r.Finished) - off; r.Status != ledger.OK || d.Abs() > time.Minute || r.Finished.Before(r.Started) {
				t.Errorf("%s: row = %+v", off, r)
			}
		}
		if n := w.engine.dialled(); n != 1 {
			t.Errorf("%s: %d connections to the engine for 4 requests", off, n)
		}
	}
}
