package api

import (
	"context"
	"errors"
	"time"

	"spotinference/budget"
)

// What a closed gate means for what runs already. New requests are refused by admit;
// requests that wait for the engine are refused at once; running answers have
// Config.CloseGrace to end, and are cut then. After that nothing is inside the engine,
// and Hooks.Closed is called, once a closing.
//
// A gate that was never open does not close: a start waits for its first sample, and
// only a budget that is spent is a closing of its own.

const gatePoll = 200 * time.Millisecond

// closing is one closing of the gate. Owned by watchGate.
type closing struct {
	s    *Server
	hook func(ctx context.Context, reason string) // Hooks.Closed; nil: nothing is called

	wasOpen    bool               // the gate was open once
	since      time.Time          // when it closed; zero while it is open
	cancelHook context.CancelFunc // ends the ctx of Hooks.Closed; nil until it is called, and once the gate is open again
	hookDone   <-chan struct{}    // closed when Hooks.Closed has returned, which may be after the closing; nil before the first
}

// watchGate closes what runs when the gate has closed, until ctx ends; Hooks.Closed has
// returned then.
func (s *Server) watchGate(ctx context.Context, h Hooks) {
	c := &closing{s: s, hook: h.Closed}
	defer func() {
		c.end()
		if c.hookDone != nil {
			<-c.hookDone
		}
	}()
	every(ctx, gatePoll, func() { c.poll(ctx) })
}

// end is for a gate that is open.
func (c *closing) end() {
	if c.cancelHook != nil {
		c.cancelHook()
		c.cancelHook = nil
	}
	c.since = time.Time{}
}

// poll reads the gate, and does what is due.
func (c *closing) poll(ctx context.Context) {
	s := c.s
	err := s.cfg.Gate.Allow()
	switch {
	case err == nil:
		c.wasOpen = true
		c.end()
		return
	case !c.wasOpen && !errors.Is(err, budget.ErrExhausted):
		return
	case c.since.IsZero():
		c.since = time.Now() // its monotonic reading counts
		if n := s.calls.len(); n > 0 {
			s.cfg.Log.Warn("the gate is closed: running answers are cut unless they end", "requests", n, "within", s.cfg.CloseGrace)
		}
	}
	r := s.gateRefusal(err)
	s.calls.cutWaiting(r)
	if time.Since(c.since) < s.cfg.CloseGrace {
		return
	}
	// Also later on: a request may have been let in just before the gate closed.
	if n := s.calls.cutInEngine(r); n > 0 {
		s.cfg.Metrics.gateCuts.Add(n)
		s.cfg.Log.Warn("the gate is closed: cut the answers that were still running", "requests", n)
	}
	if c.cancelHook != nil || c.hook == nil || len(s.calls.inEngine()) > 0 || c.hookRuns() {
		return
	}
	until, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	c.cancelHook, c.hookDone = cancel, done
	go func() {
		defer close(done)
		c.hook(until, gateWord(err))
	}()
}

// hookRuns reports whether Hooks.Closed still runs for the closing before.
func (c *closing) hookRuns() bool {
	if c.hookDone == nil {
		return false
	}
	select {
	case <-c.hookDone:
		return false
	default:
		return true
	}
}
