package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"spotinference/ledger"
	"spotinference/server/queue"
)

// The states of a process run. Each is a function that returns the next state or the end
// of the run. These are all of its exits:
//
//	starting   → ready | crashed, gave up, shutdown
//	ready      → suspending | stop to suspend, crashed, shutdown
//	suspending → suspended | escalated, died suspended, shutdown
//	suspended  → waking | died suspended, shutdown
//	waking     → ready | wake failed, shutdown
//
// Before the bar is the next state, after it are the ends.

// step is what a state leads to.
type step struct {
	state  ledger.EngineState // Ready, Suspending, Suspended or Waking; "": the run is over
	method suspendMethod      // by which it is suspended, in the last three
	ending ending             // where the run is over
}

func over(how ending) step { return step{ending: how} }

// follow goes from state to state until the run is over.
func (r *processRun) follow(ctx context.Context) ending {
	s := r.starting(ctx)
	for {
		switch s.state {
		case ledger.Ready:
			s = r.ready(ctx)
		case ledger.Suspending:
			s = r.suspending(ctx, s.method)
		case ledger.Suspended:
			s = r.suspended(ctx, s.method)
		case ledger.Waking:
			s = r.waking(ctx, s.method)
		default:
			return s.ending
		}
	}
}

const (
	loadingEvery = 10 * time.Second
	// A start that shows progress is slow, not stuck, and its deadline moves; but no
	// further than this many deadlines, for an engine that only chatters.
	slowMax = 4
)

// starting waits until the guard has started the process, and the process answers.
func (r *processRun) starting(ctx context.Context) step {
	e := r.e
	op := e.startOperation(ctx, 0, e.readyTask(isWake(r.cause)))
	defer op.stop()
	var done <-chan outcome // op's, once the process is known to run

	check := time.NewTicker(min(loadingEvery, max(e.cfg.StartTimeout/4, time.Millisecond)))
	defer check.Stop()
	progress := startProgress{began: r.asked, changed: r.asked, logged: r.asked, seen: -1}

	for {
		select {
		case rep := <-r.process.reports():
			switch {
			case rep.word == reportStarted:
				r.pid, r.spawnedAt, done = rep.number(), time.Now(), op.done
				e.updateStatus(func(s *queue.Status) { s.PID, s.StartedAt = r.pid, r.spawnedAt })
			case rep.word == reportFailed:
				return over(ending{end: endGaveUp, report: rep, exit: "not executed", err: e.execError(rep.rest)})
			case rep.ending() != "":
				return over(ending{end: endCrashed, report: rep, exit: rep.ending()})
			}
		case out := <-done:
			switch {
			case ctx.Err() != nil: // it may have failed for that alone
				return r.shutdown(nil)
			case errors.Is(out.err, errKeyRefused):
				return over(ending{end: endGaveUp, report: r.process.kill(), exit: "key refused", err: e.keyError()})
			case out.err != nil:
				return over(ending{end: endCrashed, report: r.process.kill(), exit: out.err.Error()})
			}
			r.readyAt = time.Now()
			// Its health is asked for while it is spawned: load is what came after.
			out.phases[0].Took = max(0, out.phases[0].Took-r.spawnedAt.Sub(op.began))
			return r.toReady(Stop, append([]Phase{{"spawn", r.spawnedAt.Sub(r.asked)}}, out.phases...), out.usage)
		case <-check.C:
			if why := progress.check(e, r.process.progress()); why != "" {
				return over(ending{end: endCrashed, report: r.process.kill(), exit: why})
			}
		case asked := <-e.suspendRequests:
			reply := asked.reply
			reply <- notReadyError(ledger.Starting)
		case <-ctx.Done():
			return r.shutdown(nil)
		}
	}
}

// startProgress is what was seen of a start. Owned by starting.
type startProgress struct {
	began   time.Time
	seen    int64     // process.progress, as it was last
	changed time.Time // when that was seen to change
	logged  time.Time // when the loading was logged
}

// check says why a start is not to be waited for any more, "" where it is.
func (p *startProgress) check(e *Engine, progress int64) (why string) {
	now := time.Now()
	if progress != p.seen {
		p.seen, p.changed = progress, now
	}
	total, still := now.Sub(p.began), now.Sub(p.changed)
	if still >= e.cfg.StartTimeout || total >= slowMax*e.cfg.StartTimeout {
		e.cfg.Log.Warn("engine does not get ready", "elapsed", total.Round(time.Millisecond), "without_progress", still.Round(time.Millisecond))
		if seen := e.healthSeen(); seen != "" {
			return "start timeout: " + seen
		}
		return "start timeout"
	}
	if now.Sub(p.logged) >= loadingEvery {
		p.logged = now
		e.cfg.Log.Info("engine is loading", "elapsed", total.Round(time.Second))
	}
	return ""
}

// ready leaves the engine to its requests until it was idle for Config.Idle, is to be
// suspended now, or cannot be reached any more.
func (r *processRun) ready(ctx context.Context) step {
	e := r.e
	idle := time.NewTimer(e.cfg.Idle)
	defer idle.Stop()
	look := time.NewTicker(e.reachEvery)
	defer look.Stop()
	reach := operation{stop: func() {}} // its done is nil where it does not run
	defer func() { reach.stop() }()
	startReach := func() {
		if reach.done == nil {
			reach = e.startOperation(ctx, 0, e.reachTask())
		}
	}
	for {
		select {
		case rep := <-r.process.reports():
			if exit := rep.ending(); exit != "" {
				return over(ending{end: endCrashed, report: rep, exit: exit})
			}
		case <-look.C:
			if inside, _ := e.queue.Load(); e.reach(ctx, inside == 0) != nil {
				startReach()
			}
		case <-e.dialFailed:
			startReach()
		case out := <-reach.done:
			if out.err != nil && ctx.Err() == nil {
				e.cfg.Log.Warn("the engine lives and is started again", "why", out.err)
				return over(ending{end: endCrashed, report: r.process.kill(), exit: out.err.Error()})
			}
			reach.done = nil
		case <-e.queue.Changed():
			idle.Reset(e.cfg.Idle)
		case <-idle.C:
			if e.cfg.Suspend == Never {
				break
			}
			ok, inside, in := e.queue.StartQueueingIfIdle(e.cfg.Idle)
			switch {
			case ok:
				return r.toSuspending(causeIdle)
			case inside == 0:
				idle.Reset(in)
			} // else the release of the last one is signalled
		case asked := <-e.suspendRequests:
			reply := asked.reply
			if ok, inside, _ := e.queue.StartQueueingIfIdle(0); !ok {
				reply <- fmt.Errorf("%w: %d", ErrBusy, inside)
				break
			}
			e.suspendCallers = append(e.suspendCallers, reply)
			return r.toSuspending(asked.cause)
		case <-ctx.Done():
			return r.shutdown(nil)
		}
	}
}

// suspending waits for m to suspend the engine.
func (r *processRun) suspending(ctx context.Context, m suspendMethod) step {
	e := r.e
	op := e.startOperation(ctx, e.cfg.SuspendTimeout, e.suspendTask(m))
	defer op.stop()
	for {
		select {
		case rep := <-r.process.reports():
			if exit := rep.ending(); exit != "" {
				e.failures[m.name()]++
				return over(ending{end: endDiedSuspended, report: rep, exit: exit})
			}
		case out := <-op.done:
			if ctx.Err() != nil {
				return r.shutdown(m)
			}
			if out.err != nil {
				e.cfg.Log.Warn("the engine could not be suspended and is stopped", "method", m.name(), "err", out.err)
				e.failures[m.name()]++
				return over(ending{end: endEscalated, err: out.err})
			}
			e.transition(Transition{To: ledger.Suspended, Cause: causeDone, PID: r.pid, Method: m.name(), Phases: out.phases})
			return step{state: ledger.Suspended, method: m}
		case asked := <-e.suspendRequests:
			reply := asked.reply
			e.suspendCallers = append(e.suspendCallers, reply)
		case <-ctx.Done():
			return r.shutdown(m)
		}
	}
}

// suspended waits for a request.
func (r *processRun) suspended(ctx context.Context, m suspendMethod) step {
	e := r.e
	for {
		if cause := e.queue.Wanted(); cause != "" {
			e.transition(Transition{To: ledger.Waking, Cause: cause, PID: r.pid, Method: m.name(), Phases: e.queuePhase()})
			return step{state: ledger.Waking, method: m}
		}
		select {
		case rep := <-r.process.reports():
			if exit := rep.ending(); exit != "" {
				return over(ending{end: endDiedSuspended, report: rep, exit: exit})
			}
		case <-e.queue.Changed():
		case asked := <-e.suspendRequests:
			reply := asked.reply
			reply <- nil
		case <-ctx.Done():
			return r.shutdown(m)
		}
	}
}

// waking waits for m to wake the engine.
func (r *processRun) waking(ctx context.Context, m suspendMethod) step {
	e := r.e
	op := e.startOperation(ctx, e.cfg.WakeTimeout, e.wakeTask(m))
	defer op.stop()
	for {
		select {
		case rep := <-r.process.reports():
			if exit := rep.ending(); exit != "" {
				e.failures[m.name()]++
				return over(ending{end: endWakeFailed, report: rep, exit: exit, err: errors.New(exit)})
			}
		case out := <-op.done:
			if ctx.Err() != nil {
				return r.shutdown(m)
			}
			if out.err != nil {
				e.cfg.Log.Warn("the engine could not be woken and is started afresh", "method", m.name(), "err", out.err)
				e.failures[m.name()]++
				rep := r.process.kill()
				return over(ending{end: endWakeFailed, report: rep, exit: rep.ending(), err: out.err})
			}
			return r.toReady(m.name(), out.phases, out.usage)
		case asked := <-e.suspendRequests:
			reply := asked.reply
			reply <- notReadyError(ledger.Waking)
		case <-ctx.Done():
			return r.shutdown(m)
		}
	}
}

// toReady opens the queue, and remembers how long that way of waking took.
func (r *processRun) toReady(by Method, phases []Phase, canary Usage) step {
	var took time.Duration
	for _, p := range phases {
		took += p.Took
	}
	e := r.e
	e.learn(by, took)
	if s := e.Status(); s.State == ledger.Starting && !s.Admits {
		by = "" // no wake
	}
	e.transition(Transition{To: ledger.Ready, Cause: causeHealthy, PID: r.pid, Method: by, Phases: phases, Canary: canary})
	return step{state: ledger.Ready}
}

// toSuspending begins a suspension. Requests are queued already.
func (r *processRun) toSuspending(cause string) step {
	e := r.e
	m, name := e.chooseMethod(), Stop
	if m != nil {
		name = m.name()
	}
	ready := Phase{string(ledger.Ready), time.Since(e.Status().Since)}
	e.transition(Transition{To: ledger.Suspending, Cause: cause, PID: r.pid, Method: name, Phases: []Phase{ready}})
	if m == nil {
		return over(ending{end: endStopToSuspend})
	}
	return step{state: ledger.Suspending, method: m}
}

// shutdown is where every state leads when Run's context has ended. m is the method that
// suspends the engine now, nil for none.
func (r *processRun) shutdown(m suspendMethod) step {
	return over(ending{end: endShutdown, frozen: m != nil && m.name() == Checkpoint})
}

func notReadyError(s ledger.EngineState) error {
	return fmt.Errorf("%w: it is %s", queue.ErrNotReady, s)
}
