package engine

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/server/queue"
)

// processRun is one run of the engine's process. Owned by Run.
type processRun struct {
	e       *Engine
	process process
	cause   string    // of the start
	asked   time.Time // when the guard was asked for the process

	// Set by starting, once each.
	pid       int       // 0 before the process was started
	spawnedAt time.Time // when the guard had started it
	readyAt   time.Time // zero where it was never ready
}

// end is why a process run is over. What becomes of the process, and of the engine,
// follows from it.
type end int

const (
	endShutdown      end = iota + 1 // Run's context has ended: the process is to be stopped
	endStopToSuspend                // stopping the process is how the engine is suspended
	endEscalated                    // its method failed to suspend it: the process is to be killed
	endDiedSuspended                // it died while it was suspended, or on the way there: nothing is held any more
	endCrashed                      // it died, or it was killed because it did not get ready or could not be reached
	endWakeFailed                   // it died while it was woken, or it was killed because it could not be
	endGaveUp                       // to start it again would be of no use
)

// running reports whether the process still runs.
func (e end) running() bool {
	return e == endShutdown || e == endStopToSuspend || e == endEscalated
}

// ending is how a process run is over.
type ending struct {
	end    end
	report report    // the guard's last word, where the process does not run any more
	exit   string    // Status.LastExit, where the process does not run any more
	frozen bool      // the process still runs and cannot answer to a signal
	err    error     // why: of endEscalated, endWakeFailed and endGaveUp
	ready  time.Time // when the process got ready; zero where it never did
}

// runProcess runs the engine's process once, from start to end, and leaves nothing of
// it behind.
func (e *Engine) runProcess(ctx context.Context, cause string) ending {
	at, p, err := e.prepare()
	if err != nil {
		e.transition(Transition{To: ledger.Stopped, Cause: causeGaveUp})
		return ending{end: endGaveUp, err: err}
	}
	if cause == causeServe && len(p.replaced) > 0 {
		e.cfg.Log.Info("engine flags replaced by ours", "replaced", strings.Join(p.replaced, ", "), "listens_on", at.addr)
	}
	r := &processRun{e: e, cause: cause, asked: time.Now()}
	e.transition(Transition{To: ledger.Starting, Cause: cause, Phases: e.queuePhase()})
	if r.process, err = e.spawn(p); err != nil {
		e.transition(Transition{To: ledger.Stopped, Cause: causeGaveUp})
		return ending{end: endGaveUp, err: err}
	}
	e.at.Store(&at)
	how := r.follow(ctx)
	r.cleanUp(how)
	how.ready = r.readyAt
	return how
}

// prepare makes ready for one start: where the engine will listen, and its command.
func (e *Engine) prepare() (endpoint, plan, error) {
	at := endpoint{"unix", e.socket()}
	if _, err := makeDir(e.cfg.Dir, e.cfg.User); err != nil { // it may have been removed since
		return endpoint{}, plan{}, err
	}
	if e.cfg.TCP {
		addr, err := freePort()
		if err != nil {
			return endpoint{}, plan{}, err
		}
		at = endpoint{"tcp", addr}
	} else if err := os.Remove(at.addr); err != nil && !os.IsNotExist(err) {
		// Neither engine removes a socket that it finds, and would fail to bind.
		return endpoint{}, plan{}, fmt.Errorf("remove a stale socket: %w", err)
	}
	p, err := planFor(e.cfg.Kind, e.command, e.env, at, e.key)
	return at, p, err
}

// queuePhase is the first phase of what a request waits for: how long the first one has
// waited.
func (e *Engine) queuePhase() []Phase {
	if n, since := e.queue.First(); n > 0 {
		return []Phase{{"queue", time.Since(since)}}
	}
	return nil
}

// cleanUp ends the process where it still runs, records how it ended, and removes what
// is left of it.
func (r *processRun) cleanUp(how ending) {
	e := r.e
	left := e.Status()
	phases := []Phase{{string(left.State), time.Since(left.Since)}}
	if left.State == ledger.Suspending {
		phases = nil
	}
	if how.end.running() {
		asked := time.Now()
		if how.frozen || how.end == endEscalated {
			how.report = r.process.kill()
		} else {
			how.report = r.process.stop(e.cfg.StopGrace)
		}
		how.exit = how.report.ending()
		phases = append(phases, Phase{"stop", time.Since(asked)})
	}
	e.at.Store(nil)
	e.updateStatus(func(s *queue.Status) { s.PID, s.StartedAt, s.LastExit = 0, time.Time{}, how.exit })
	if how.end == endCrashed {
		// Recorded before the rest, which may take seconds: from now on no connection is to be opened.
		e.transition(Transition{To: ledger.Crashed, Cause: how.exit, PID: r.pid, Phases: phases})
	}
	if stuck := r.process.close(how.report); stuck > 0 {
		e.cfg.Log.Error("engine processes cannot be killed and may hold the GPU", "count", stuck)
	} else {
		e.removeRecord()
	}
	suspended := Transition{To: ledger.Suspended, PID: r.pid, Method: Stop, Phases: phases}
	switch how.end {
	case endShutdown:
		e.transition(Transition{To: ledger.Stopped, Cause: causeShutdown, PID: r.pid, Phases: phases})
	case endGaveUp:
		e.transition(Transition{To: ledger.Stopped, Cause: causeGaveUp})
	case endStopToSuspend:
		suspended.Cause = causeDone
		e.transition(suspended)
	case endEscalated:
		suspended.Cause = causeEscalate + how.err.Error()
		e.transition(suspended)
	case endDiedSuspended:
		suspended.Cause = how.exit // it is as good as suspended, and stays so
		e.transition(suspended)
	case endCrashed, endWakeFailed:
		r.process.print(e.cfg.Stderr)
	}
}

func (e *Engine) execError(why string) error {
	advice := "run it by hand first"
	if u := e.cfg.User; u != nil {
		advice += ", as " + u.Name // we are root, who may read any file
	}
	return hint.Errorf(advice, "engine command %q cannot be executed: %s", e.command[0], why)
}

func (e *Engine) keyError() error {
	return hint.Errorf("take the key out of its configuration file or script; spotinference makes one at each start",
		"the engine asks for a key of its own")
}
