package api

import (
	"context"
	"time"

	"spotinference/server/queue"
	"spotinference/server/refusal"
)

// stall is how long a call has waited for its engine. Owned by the goroutine
// that looks for stalls.
type stall struct {
	progress int64     // as it was seen last
	since    time.Time // when it was seen to change; zero before the first look
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
	tick := min(max(limit/20, 10*time.Millisecond), time.Second)
	var work int64 // the engine's counter of it, as it was read last
	var read time.Time
	every(ctx, tick, func() {
		now := s.cfg.Now()
		var mute []*call
		for _, c := range s.calls.list() {
			if c.waiting() {
				c.stall = stall{}
				continue // it waits for the engine to wake, which is bounded by itself
			}
			w := &c.stall
			if n := c.progress.Load(); w.since.IsZero() || n != w.progress || c.handing.Load() {
				w.progress, w.since = n, now
			}
			waited := now.Sub(w.since)
			switch {
			case waited >= limit/2 && w.progress == 0 && !c.uncounted:
				mute = append(mute, c)
			case waited >= limit:
				c.cut(refusal.New(refusal.EngineStalled))
			}
		}
		if len(mute) == 0 {
			return
		}
		at, ok := s.engineWork(ctx, min(limit/4, maxWorkWait))
		// What was read long ago tells nothing of whether it moves now.
		moved := ok && at != work && now.Sub(read) < limit/4
		if ok {
			work, read = at, now
		}
		for _, c := range mute {
			switch {
			case moved:
				c.stall.since = s.cfg.Now()
			case s.cfg.Now().Sub(c.stall.since) >= limit:
				c.cut(refusal.New(refusal.EngineStalled))
			}
		}
	})
}

// maxWorkWait bounds the wait for an engine that may hang.
const maxWorkWait = 5 * time.Second

// engineWork reads the counter that moves with every step of the engine; not ok
// where it does not answer, which is no progress.
func (s *Server) engineWork(ctx context.Context, wait time.Duration) (int64, bool) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	n, err := queue.ReadCounters(ctx, s.cfg.Engine)
	return n.Work, err == nil
}
