package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/server/queue"
)

const (
	backoffMax    = time.Minute
	steadyAfter   = time.Minute // ready for so long, the next crash is a new story
	neverReadyMax = 3           // ends in a row of an engine that was never ready
	breakerAfter  = 5           // crashes in a row, none steady: from now on it is tried seldom
	breakerPause  = 10 * time.Minute
)

// Run starts the engine and keeps it running: it is the one goroutine that owns the
// engine's state, and may be called once. When ctx ends it stops the whole tree and
// returns nil, within StopGrace and some seconds whatever the engine does. It returns
// an error, *Error where a person can act, if the engine cannot be executed or ended
// three times without ever having been ready.
//
// It makes this process a subreaper, for good: if the guard is killed, the engine's
// processes come to us and are swept up. Orphans of other children come to us too.
func (e *Engine) Run(ctx context.Context) error {
	if e.ran.Swap(true) {
		panic("BUG: Run called twice")
	}
	defer close(e.ended)
	defer e.queue.Close()
	if ctx.Err() != nil {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	made, err := makeDir(e.cfg.Dir, e.cfg.User)
	if err != nil {
		return err
	}
	defer func() {
		os.Remove(e.socket())
		if made && e.ownedDir {
			os.Remove(e.cfg.Dir)
		}
	}()

	var (
		cause     = causeServe
		everReady bool
		crashes   int // in a row, none after a steady time
	)
	for {
		if ctx.Err() != nil {
			if e.Status().State != queue.Stopped {
				e.enter(Transition{To: queue.Stopped, Cause: causeShutdown})
			}
			return nil
		}
		l := e.live(ctx, cause)
		if !l.readyAt.IsZero() {
			everReady = true
			if time.Since(l.readyAt) >= steadyAfter {
				crashes = 0
			}
		}
		switch {
		case l.err != nil || l.stopped:
			return l.err
		case l.noWake != nil:
			cause = causeNoWake + l.noWake.Error()
			continue
		case l.suspended:
			cause = e.asleep(ctx)
			continue
		}
		if crashes++; !everReady && crashes == neverReadyMax {
			e.enter(Transition{To: queue.Stopped, Cause: causeGaveUp})
			return &Error{
				Msg:  fmt.Sprintf("engine %q was never ready: %s, %d times in a row", filepath.Base(e.command[0]), l.ending, crashes),
				Hint: "the engine's last lines are above",
			}
		}
		e.backOff(ctx, e.pause(crashes))
		cause = causeRestart
	}
}

// pause is how long to wait after that many crashes in a row.
func (e *Engine) pause(crashes int) time.Duration {
	if crashes >= breakerAfter {
		return max(breakerPause, e.cfg.Backoff)
	}
	return min(e.cfg.Backoff<<(crashes-1), max(backoffMax, e.cfg.Backoff))
}

// backOff waits until a crashed engine is due, or ctx ends.
func (e *Engine) backOff(ctx context.Context, pause time.Duration) {
	e.cfg.Log.Info("engine will be started again", "in", pause)
	due := time.NewTimer(pause)
	defer due.Stop()
	e.update(func(s *queue.Status) { s.NextStart = time.Now().Add(pause) })
	defer e.update(func(s *queue.Status) { s.NextStart = time.Time{} })
	for {
		select {
		case <-ctx.Done():
			return
		case <-due.C:
			return
		case o := <-e.orders:
			o <- queue.ErrNotReady
		}
	}
}

// asleep waits, with no process, for somebody who wants the engine, or until ctx ends.
// It returns the cause of the wake.
func (e *Engine) asleep(ctx context.Context) (cause string) {
	for ctx.Err() == nil {
		// A waiter who has left again wakes nobody.
		waiting, _, cause := e.queue.First()
		if waiting > 0 {
			return cause
		}
		select {
		case <-ctx.Done():
		case <-e.queue.Changed():
		case o := <-e.orders:
			o <- nil
		}
	}
	return ""
}

// enter changes the state and tells of it. Called by Run alone. It completes t, and
// opens or closes the queue as the new state asks.
func (e *Engine) enter(t Transition) {
	t.At, t.From = time.Now(), e.Status().State
	// Who tells of the canary's tokens has done so before anybody sees the engine ready,
	// or its counters would be ahead of what is known.
	told := t.Canary != (Usage{}) && e.cfg.OnTransition != nil
	if told {
		t.Waiters, t.Abandoned = e.queue.Waiting()
		e.cfg.OnTransition(t)
	}
	// Nobody waits for a start that no request asked for: it may take for ever.
	admits := t.To != queue.Stopped && t.To != queue.Crashed && !(t.To == queue.Starting && (t.Cause == causeServe || t.Cause == causeRestart))
	e.update(func(s *queue.Status) {
		s.State, s.Since, s.Admits = t.To, t.At, admits
		if t.Cause == causeRestart {
			s.Restarts++
		}
		s.SuspendedBy = ""
		if t.To == queue.Suspended || t.To == queue.Waking {
			s.SuspendedBy = string(t.Method)
		}
	})
	switch {
	case t.To == queue.Ready:
		t.Waiters, t.Abandoned = e.queue.Open()
	case admits:
		e.queue.StartQueueing()
	default:
		t.Waiters, t.Abandoned = e.queue.Close()
	}
	if e.cfg.OnTransition != nil && !told {
		e.cfg.OnTransition(t)
	}
	// Who asked hears of it when it is on record.
	if t.To != queue.Suspending {
		var refused error
		if t.To != queue.Suspended {
			refused = fmt.Errorf("engine is %s: %s", t.To, t.Cause)
		}
		for _, o := range e.asked {
			o <- refused
		}
		e.asked = nil
	}
}

// update publishes a changed copy of the status. Called by Run alone.
func (e *Engine) update(change func(*queue.Status)) {
	s := *e.status.Load()
	change(&s)
	e.status.Store(&s)
}
