package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/server/queue"
)

const (
	backoffMax    = time.Minute
	steadyAfter   = time.Minute // ready for so long, the next crash does not count with those before
	neverReadyMax = 3           // crashes in a row of an engine that was never ready
	breakerAfter  = 5           // crashes in a row, none after a steady time: from now on it is started seldom
	breakerPause  = 10 * time.Minute
)

// Run starts the engine and keeps it running: it is the one goroutine that owns the
// engine's state, and may be called once. When ctx ends it stops the whole tree and
// returns nil, within StopGrace and some seconds whatever the engine does. It returns
// an error, with a hint where a person can act, if the engine cannot be executed or
// ended three times without ever having been ready.
//
// It makes this process a subreaper, for good: if the guard is killed, the engine's
// processes come to us and are swept up. Orphans of other children come to us too.
func (e *Engine) Run(ctx context.Context, hooks Hooks) error {
	if e.ran.Swap(true) {
		panic("BUG: Run called twice")
	}
	e.hooks = hooks
	defer close(e.ended)
	defer e.queue.Close()
	if ctx.Err() != nil {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	e.endLeftover(ctx)
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
	for ctx.Err() == nil {
		how := e.runProcess(ctx, cause)
		if !how.ready.IsZero() {
			everReady = true
			if time.Since(how.ready) >= steadyAfter {
				crashes = 0
			}
		}
		switch how.end {
		case endShutdown:
			return nil
		case endGaveUp:
			return how.err
		case endWakeFailed:
			cause = causeWakeFailed + how.err.Error()
		case endStopToSuspend, endEscalated, endDiedSuspended:
			cause = e.awaitRequest(ctx)
		case endCrashed:
			if crashes++; !everReady && crashes == neverReadyMax {
				e.transition(Transition{To: ledger.Stopped, Cause: causeGaveUp})
				return hint.Errorf("the engine's last lines are above",
					"engine %q was never ready: %s, %d times in a row", filepath.Base(e.command[0]), how.exit, crashes)
			}
			e.backOff(ctx, e.pause(crashes))
			cause = causeRestart
		}
	}
	if e.Status().State != ledger.Stopped { // which it is where ctx ended before the first start
		e.transition(Transition{To: ledger.Stopped, Cause: causeShutdown})
	}
	return nil
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
	e.updateStatus(func(s *queue.Status) { s.NextStart = time.Now().Add(pause) })
	defer e.updateStatus(func(s *queue.Status) { s.NextStart = time.Time{} })
	for {
		select {
		case <-ctx.Done():
			return
		case <-due.C:
			return
		case asked := <-e.suspendRequests:
			reply := asked.reply
			reply <- queue.ErrNotReady
		}
	}
}

// awaitRequest waits, while no process runs, for a request, or until ctx ends. It
// returns what the engine is woken by.
func (e *Engine) awaitRequest(ctx context.Context) (cause string) {
	for ctx.Err() == nil {
		// A request that has given up again wakes nobody.
		if cause := e.queue.Wanted(); cause != "" {
			return cause
		}
		select {
		case <-ctx.Done():
		case <-e.queue.Changed():
		case asked := <-e.suspendRequests:
			reply := asked.reply
			reply <- nil
		}
	}
	return ""
}

// transition changes the state and calls Hooks.OnTransition. Called by Run alone. It
// completes t, and opens or closes the queue as the new state asks.
func (e *Engine) transition(t Transition) {
	t.At, t.From = e.cfg.Now(), e.Status().State
	// The canary's tokens are recorded before anybody sees the engine ready: its counters
	// are never ahead of what is recorded.
	recorded := t.Canary != (Usage{}) && e.hooks.OnTransition != nil
	if recorded {
		t.Waiters, t.Abandoned = e.queue.Waiting()
		e.hooks.OnTransition(t)
	}
	// No request waits for a start that none asked for: it may take for ever.
	admits := t.To != ledger.Stopped && t.To != ledger.Crashed && (t.To != ledger.Starting || isWake(t.Cause))
	e.updateStatus(func(s *queue.Status) {
		s.State, s.Since, s.Admits = t.To, t.At, admits
		if t.Cause == causeRestart {
			s.Restarts++
		}
		s.SuspendedBy = ""
		if t.To == ledger.Suspended || t.To == ledger.Waking {
			s.SuspendedBy = string(t.Method)
		}
	})
	switch {
	case t.To == ledger.Ready:
		t.Waiters, t.Abandoned = e.queue.Open()
	case admits:
		e.queue.StartQueueing()
	default:
		t.Waiters, t.Abandoned = e.queue.Close()
	}
	if e.hooks.OnTransition != nil && !recorded {
		e.hooks.OnTransition(t)
	}
	e.answerSuspendCallers(t)
}

// answerSuspendCallers tells the callers of Suspend how it went, once that is recorded.
func (e *Engine) answerSuspendCallers(t Transition) {
	if t.To == ledger.Suspending {
		return
	}
	var refused error
	if t.To != ledger.Suspended {
		refused = fmt.Errorf("engine is %s: %s", t.To, t.Cause)
	}
	for _, reply := range e.suspendCallers {
		reply <- refused
	}
	e.suspendCallers = nil
}

// updateStatus publishes a changed copy of the status. Called by Run alone.
func (e *Engine) updateStatus(change func(*queue.Status)) {
	s := *e.status.Load()
	change(&s)
	e.status.Store(&s)
}
