package api

import (
	"context"
	"errors"
	"time"

	"spotinference/server/queue"
	"spotinference/server/refusal"
)

// How a request enters the engine. While the engine sleeps, the request waits until it is
// awake: for a stream its client gets heartbeats meanwhile (see heartbeat.go), and without
// one it is sent away after Config.WakeHold.

// tryEnter lets a call into an engine that is ready.
func (s *Server) tryEnter(c *call) bool {
	in := s.cfg.Engine.TryAdmit()
	if in {
		c.admit(c.started)
	}
	return in
}

// enter lets a call into the engine, for which the call may have to wait, or says why
// not. A call that is cut stops waiting.
func (s *Server) enter(c *call) *refusal.Refusal {
	if s.tryEnter(c) {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if hold := s.cfg.WakeHold; hold > 0 && !c.streams() {
		var sendAway context.CancelFunc
		ctx, sendAway = context.WithTimeoutCause(ctx, hold, queue.ErrSentAway)
		defer sendAway()
	}
	if !c.wait(cancel) {
		return c.cutCause()
	}
	err := s.cfg.Engine.Admit(ctx)
	if err == nil {
		if r := s.recheck(c); r != nil {
			s.cfg.Engine.Release(false)
			c.giveUp()
			return r
		}
		c.admit(s.cfg.Now())
		return nil
	}
	c.giveUp()
	switch {
	case c.cutCause() != nil:
		return c.cutCause()
	case errors.Is(err, queue.ErrFull):
		return refusal.New(refusal.QueueFull)
	case errors.Is(err, queue.ErrSentAway):
		return refusal.New(refusal.EngineWaking)
	case errors.Is(err, queue.ErrWakeTimeout):
		return refusal.New(refusal.WakeTimeout)
	}
	return s.notReady()
}

// recheck asks gate and key again: much may have been spent while the call waited.
func (s *Server) recheck(c *call) *refusal.Refusal {
	if err := s.cfg.Gate.Allow(); err != nil {
		return s.gateRefusal(err)
	}
	return s.keys.recheck(c.key, s.cfg.Now())
}

// notReady says when asking again may help, where that is known.
func (s *Server) notReady() *refusal.Refusal {
	var wait time.Duration
	if next := s.cfg.Engine.Status().NextStart; !next.IsZero() {
		wait = time.Until(next) // by the clock that the engine took it from
	}
	return refusal.EngineNotReady(wait)
}

// end ends a call: it leaves the engine, and is watched no more.
func (s *Server) end(c *call) {
	s.calls.remove(c)
	if c.end() {
		s.cfg.Engine.Release(c.keepsAwake())
	}
}

// enterSoon is enter for a call that may have to wait for long: where the answer to a
// stream is to be kept open from until on, and enter's is not there by then, it returns the
// channel that will bring it.
func (s *Server) enterSoon(c *call, until time.Time) (*refusal.Refusal, <-chan *refusal.Refusal) {
	if s.tryEnter(c) {
		return nil, nil
	}
	if !c.streams() {
		return s.enter(c), nil
	}
	entered := make(chan *refusal.Refusal, 1)
	go func() { entered <- s.enter(c) }()
	patience := time.NewTimer(time.Until(until))
	defer patience.Stop()
	select {
	case r := <-entered:
		return r, nil
	case <-patience.C:
		return nil, entered
	}
}
