package api

import (
	"context"
	"errors"
	"time"

	"spotinference/budget"
	"spotinference/server/refusal"
)

// What a closed gate means for what runs already. New requests are refused by admit;
// requests that wait for the engine leave at once; running answers have
// Config.CloseGrace to end, and are cut then. After that nothing is inside the engine,
// and Hooks.Closed is called, once a closing.
//
// A gate that was never open does not close: a start waits for its first sample, and
// only a budget that is spent is a closing of its own.

const gateLook = 200 * time.Millisecond

// closing is the course of one. Owned by watchGate.
type closing struct {
	opened bool               // the gate was open once
	since  time.Time          // when it closed; zero while it is open
	end    context.CancelFunc // ends what follows the grace, once the gate is open again; nil before
	after  <-chan struct{}    // closed when what follows has ended, which may be after the closing; nil before the first
}

// watchGate closes what runs when the gate has closed, until ctx ends; Hooks.Closed has
// returned then.
func (s *Server) watchGate(ctx context.Context, h Hooks) {
	var c closing
	defer func() {
		c.open()
		if c.after != nil {
			<-c.after
		}
	}()
	every(ctx, gateLook, func() { s.lookAtGate(ctx, h, &c) })
}

func (c *closing) open() {
	if c.end != nil {
		c.end()
		c.end = nil
	}
	c.since = time.Time{}
}

func (s *Server) lookAtGate(ctx context.Context, h Hooks, c *closing) {
	err := s.cfg.Gate.Allow()
	switch {
	case err == nil:
		c.opened = true
		c.open()
		return
	case !c.opened && !errors.Is(err, budget.ErrExhausted):
		return
	case c.since.IsZero():
		c.since = time.Now() // its monotonic reading counts
		if n := s.calls.len(); n > 0 {
			s.cfg.Log.Warn("the gate is closed: running answers are cut unless they end", "requests", n, "within", s.cfg.CloseGrace)
		}
	}
	e := refusal.Gate(err)
	s.calls.cutWaiting(e)
	if time.Since(c.since) < s.cfg.CloseGrace {
		return
	}
	// Also later on: a request may have been let in just before the gate closed.
	if n := s.calls.cutInside(e); n > 0 {
		s.cfg.Metrics.gateCuts.Add(n)
		s.cfg.Log.Warn("the gate is closed: cut the answers that were still running", "requests", n)
	}
	if c.end != nil || h.Closed == nil || s.calls.inside() > 0 || c.ending() {
		return
	}
	until, end := context.WithCancel(ctx)
	ended := make(chan struct{})
	c.end, c.after = end, ended
	go func() {
		defer close(ended)
		h.Closed(until, gateWord(err))
	}()
}

// ending reports whether what followed the closing before still runs.
func (c *closing) ending() bool {
	if c.after == nil {
		return false
	}
	select {
	case <-c.after:
		return false
	default:
		return true
	}
}

// cutWaiting ends the calls that wait for the engine.
func (cs *calls) cutWaiting(cause *refusal.Refusal) {
	for _, c := range cs.list() {
		if c.waiting() {
			c.cut(cause)
		}
	}
}

// cutInside ends the calls that the engine works on, and returns how many were not
// ending anyway.
func (cs *calls) cutInside(cause *refusal.Refusal) (n int) {
	for _, c := range cs.list() {
		if c.inside.Load() && c.why() == nil {
			c.cut(cause)
			n++
		}
	}
	return n
}

// inside is how many calls have entered the engine and not left.
func (cs *calls) inside() (n int) {
	for _, c := range cs.list() {
		if c.inside.Load() {
			n++
		}
	}
	return n
}
