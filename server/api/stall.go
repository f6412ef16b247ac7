package api

import (
	"context"
	"time"

	"spotinference/server/queue"
	"spotinference/server/refusal"
)

// stall is how long a call has waited for its engine. Owned by watchStalls.
type stall struct {
	progress int64     // as it was seen last
	since    time.Time // when it was seen to change; zero before the first look
}

// waited looks at c's progress, and returns for how long there has been none.
func (st *stall) waited(c *call, now time.Time) time.Duration {
	if c.at() == callWaiting {
		*st = stall{} // for the engine to wake, which is bounded by itself
		return 0
	}
	if n := c.progress.Load(); st.since.IsZero() || n != st.progress || c.delivering.Load() {
		st.progress, st.since = n, now
	}
	return now.Sub(st.since)
}

// watchStalls cuts the calls whose engine has made no progress for
// Config.StallTimeout: it hangs, or has lost the request.
//
// Progress of a call is what the meter has read: events and bytes, not the
// comments by which llama-server keeps connections open even where its GPU
// hangs. A call that has seen none may be queued, or in a prefill, or not
// streamed: it gets its time for as long as the engine's own counters move. A
// client that does not read holds no engine up and is not looked at.
func (s *Server) watchStalls(ctx context.Context) {
	limit := s.cfg.StallTimeout
	if limit == 0 {
		return
	}
	w := &stallWatcher{s: s, limit: limit}
	every(ctx, min(max(limit/20, 10*time.Millisecond), counterPause), func() { w.look(ctx) })
}

// stallWatcher remembers the engine's own counter of its steps.
type stallWatcher struct {
	s     *Server
	limit time.Duration
	steps int64     // as they were read last
	read  time.Time // when
}

func (w *stallWatcher) look(ctx context.Context) {
	now := time.Now()
	var silent []*call // they have seen no progress at all
	for _, c := range w.s.calls.list() {
		switch waited := c.stall.waited(c, now); {
		case waited >= w.limit/2 && c.stall.progress == 0 && c.counted():
			silent = append(silent, c)
		case waited >= w.limit:
			c.cut(refusal.New(refusal.EngineStalled))
		}
	}
	if len(silent) == 0 {
		return
	}
	moved := w.engineMoved(ctx, now)
	for _, c := range silent {
		switch {
		case moved:
			c.stall.since = time.Now()
		case time.Since(c.stall.since) >= w.limit:
			c.cut(refusal.New(refusal.EngineStalled))
		}
	}
}

// maxWorkWait bounds the wait for an engine that may hang.
const maxWorkWait = 5 * time.Second

// engineMoved reads the counter that moves with every step of the engine, and reports
// whether it has moved. No answer is no progress, and what was read long ago does not
// tell whether the engine moves now.
func (w *stallWatcher) engineMoved(ctx context.Context, now time.Time) bool {
	s := w.s
	ctx, cancel := context.WithTimeout(ctx, min(w.limit/4, maxWorkWait))
	defer cancel()
	n, err := queue.ReadCounters(ctx, s.cfg.Engine)
	if err != nil {
		return false
	}
	moved := n.Work != w.steps && now.Sub(w.read) < w.limit/4
	w.steps, w.read = n.Work, now
	return moved
}
