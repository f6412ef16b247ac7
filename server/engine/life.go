package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"spotinference/server/queue"
)

const (
	loadingEvery = 10 * time.Second
	// A start that shows progress is slow, not stuck, and its deadline moves; but no
	// further than this many deadlines, for an engine that only chatters.
	slowMax = 4
)

// life is how one process of the engine lived.
type life struct {
	cause   string    // why it was started
	pid     int       // 0 until it was started
	began   time.Time // the guard was asked for it
	spawned time.Time
	readyAt time.Time // zero if it was never ready

	ending    string
	stopped   bool  // ctx ended
	suspended bool  // it ended, or is to end, because the engine is suspended
	kill      bool  // it is not asked to end, but killed
	noWake    error // it could not be woken
	failed    error // its rung failed to suspend it
	err       error // no use in trying again
}

// live runs the engine once, from start to end, and leaves nothing of it behind.
func (e *Engine) live(ctx context.Context, cause string) life {
	at, p, err := e.prepare()
	if err != nil {
		e.enter(Transition{To: queue.Stopped, Cause: causeGaveUp})
		return life{err: err}
	}
	if cause == causeServe && len(p.replaced) > 0 {
		e.cfg.Log.Info("engine flags replaced by ours", "replaced", strings.Join(p.replaced, ", "), "listens_on", at.addr)
	}
	l := life{cause: cause, began: time.Now()}
	e.enter(Transition{To: queue.Starting, Cause: cause, Phases: e.queuePhase()})
	c, err := e.spawn(p)
	if err != nil {
		e.enter(Transition{To: queue.Stopped, Cause: causeGaveUp})
		return life{err: err}
	}
	e.at.Store(&at)
	end := e.watch(ctx, c, &l)
	e.bury(c, end, &l)
	return l
}

// queuePhase is the first phase of what somebody waits for: how long the first one has.
func (e *Engine) queuePhase() []Phase {
	if n, since, _ := e.queue.First(); n > 0 {
		return []Phase{{"queue", time.Since(since)}}
	}
	return nil
}

// watch follows one process until it ends, and returns the guard's word on that, or
// until it is to end. It fills in l.
func (e *Engine) watch(ctx context.Context, c process, l *life) (end report) {
	work := e.begin(ctx, 0, e.getReady(l.cause != causeServe && l.cause != causeRestart))
	defer func() { work.stop() }()
	var done <-chan outcome // work's, once it counts

	patience := e.cfg.StartTimeout
	look := time.NewTicker(min(loadingEvery, max(patience/4, time.Millisecond)))
	defer look.Stop()
	progress, progressAt := int64(-1), l.began
	said := l.began

	idle := time.NewTimer(patience)
	idle.Stop()
	defer idle.Stop()

	// suspend begins a suspension, new requests being queued. It reports whether the
	// process has to end for it.
	suspend := func(cause string) bool {
		idle.Stop()
		r := e.choose()
		method := Stop
		if r != nil {
			method = r.method()
		}
		ready := Phase{string(queue.Ready), time.Since(e.Status().Since)}
		e.enter(Transition{To: queue.Suspending, Cause: cause, PID: l.pid, Method: method, Phases: []Phase{ready}})
		if r == nil {
			l.suspended = true
			return true
		}
		e.rung = r
		work = e.begin(ctx, e.cfg.SuspendTimeout, e.letGo(r))
		done = work.done
		return false
	}
	wake := func(cause string) {
		e.enter(Transition{To: queue.Waking, Cause: cause, PID: l.pid, Method: e.rung.method(), Phases: e.queuePhase()})
		work = e.begin(ctx, e.cfg.WakeTimeout, e.takeBack(e.rung))
		done = work.done
	}

	for {
		select {
		case r := <-c.reports():
			switch {
			case r.word == reportStarted:
				l.pid, l.spawned, done = r.number(), time.Now(), work.done
				e.update(func(s *queue.Status) { s.PID, s.StartedAt = l.pid, l.spawned })
			case r.word == reportFailed:
				l.err, l.ending = e.execError(r.rest), "not executed"
				return r
			case r.ending() != "":
				l.ending = r.ending()
				state := e.Status().State
				l.suspended = state == queue.Suspending || state == queue.Suspended // nothing is held any more
				if state == queue.Waking {
					l.noWake = errors.New(l.ending)
				}
				if state == queue.Waking || state == queue.Suspending {
					e.broken[e.rung.method()]++
				}
				return r
			}

		case out := <-done:
			done = nil
			if ctx.Err() != nil {
				return e.leave(l) // it may have failed for that alone
			}
			switch e.Status().State {
			case queue.Starting:
				look.Stop()
				if errors.Is(out.err, errKeyRefused) {
					l.err, l.ending = e.keyError(), "key refused"
					return c.kill()
				}
				if out.err != nil {
					l.ending = out.err.Error()
					return c.kill()
				}
				l.readyAt = time.Now()
				// We look for its health while it is spawned: load is what came after.
				out.phases[0].Took = max(0, out.phases[0].Took-l.spawned.Sub(work.began))
				e.ready(l, Stop, append([]Phase{{"spawn", l.spawned.Sub(l.began)}}, out.phases...), out.usage)
				idle.Reset(e.cfg.Idle)
			case queue.Suspending:
				if l.failed = out.err; l.failed != nil {
					e.cfg.Log.Warn("the engine could not be suspended and is stopped", "method", e.rung.method(), "err", out.err)
					e.broken[e.rung.method()]++
					l.suspended, l.kill = true, true
					return report{}
				}
				e.enter(Transition{To: queue.Suspended, Cause: causeDone, PID: l.pid, Method: e.rung.method(), Phases: out.phases})
				if n, _, cause := e.queue.First(); n > 0 {
					wake(cause)
				}
			case queue.Waking:
				if l.noWake = out.err; l.noWake != nil {
					e.cfg.Log.Warn("the engine could not be woken and is started afresh", "method", e.rung.method(), "err", out.err)
					e.broken[e.rung.method()]++
					return c.kill()
				}
				e.ready(l, e.rung.method(), out.phases, out.usage)
				idle.Reset(e.cfg.Idle)
			}

		case <-e.queue.Changed():
			switch e.Status().State {
			case queue.Ready:
				idle.Reset(e.cfg.Idle)
			case queue.Suspended:
				if n, _, cause := e.queue.First(); n > 0 {
					wake(cause)
				}
			}

		case <-idle.C:
			if e.Status().State != queue.Ready || e.cfg.Suspend == Never {
				break
			}
			ok, inside, in := e.queue.StartQueueingIfIdle(e.cfg.Idle)
			switch {
			case ok:
				if suspend(causeIdle) {
					return report{}
				}
			case inside == 0:
				idle.Reset(in)
			} // else the last one who leaves tells

		case o := <-e.orders:
			switch state := e.Status().State; {
			case state == queue.Suspended:
				o <- nil
			case state == queue.Suspending:
				e.asked = append(e.asked, o)
			case state != queue.Ready:
				o <- fmt.Errorf("%w: it is %s", queue.ErrNotReady, state)
			default:
				if ok, inside, _ := e.queue.StartQueueingIfIdle(0); !ok {
					o <- fmt.Errorf("%w: %d", ErrBusy, inside)
					break
				}
				e.asked = append(e.asked, o)
				if suspend(causeAsked) {
					return report{}
				}
			}

		case <-look.C:
			if e.Status().State != queue.Starting {
				look.Stop()
				break
			}
			now := time.Now()
			if p := c.progress(); p != progress {
				progress, progressAt = p, now
			}
			total, still := now.Sub(l.began), now.Sub(progressAt)
			if still >= patience || total >= slowMax*patience {
				e.cfg.Log.Warn("engine does not get ready", "elapsed", total.Round(time.Millisecond), "without_progress", still.Round(time.Millisecond))
				if l.ending = "start timeout"; e.seen() != "" {
					l.ending += ": " + e.seen()
				}
				return c.kill()
			}
			if now.Sub(said) >= loadingEvery {
				said = now
				e.cfg.Log.Info("engine is loading", "elapsed", total.Round(time.Second))
			}

		case <-ctx.Done():
			return e.leave(l)
		}
	}
}

// leave ends a life because ctx has.
func (e *Engine) leave(l *life) report {
	l.stopped = true
	switch e.Status().State {
	case queue.Suspending, queue.Suspended, queue.Waking: // where it is frozen it cannot answer to a signal
		l.kill = e.rung != nil && e.rung.method() == Checkpoint
	}
	return report{}
}

// ready opens the queue, and remembers how long that way of waking took.
func (e *Engine) ready(l *life, by Method, phases []Phase, canary Usage) {
	var took time.Duration
	for _, p := range phases {
		took += p.Took
	}
	e.learn(by, took)
	if e.Status().State == queue.Starting && !e.Status().Admits {
		by = "" // no wake
	}
	e.enter(Transition{To: queue.Ready, Cause: causeHealthy, PID: l.pid, Method: by, Phases: phases, Canary: canary})
}

// bury stops what still runs, tells of the end, and clears everything away.
func (e *Engine) bury(c process, end report, l *life) {
	left := e.Status()
	phases := []Phase{{string(left.State), time.Since(left.Since)}}
	if left.State == queue.Suspending {
		phases = nil
	}
	asked := time.Now()
	byItself, crashed := l.ending != "", false
	switch {
	case l.kill:
		end = c.kill()
	case l.stopped || l.suspended && !byItself:
		end = c.stop(e.cfg.StopGrace)
	default:
		crashed = !l.suspended && l.noWake == nil && l.err == nil
	}
	if !byItself {
		l.ending = end.ending()
		phases = append(phases, Phase{"stop", time.Since(asked)})
	}
	e.at.Store(nil)
	e.update(func(s *queue.Status) { s.PID, s.StartedAt, s.LastExit = 0, time.Time{}, l.ending })
	if crashed {
		// Told before the rest, which may take seconds: from now on nobody should dial.
		e.enter(Transition{To: queue.Crashed, Cause: l.ending, PID: l.pid, Phases: phases})
	}
	if stuck := c.close(end); stuck > 0 {
		e.cfg.Log.Error("engine processes cannot be killed and may hold the GPU", "count", stuck)
	}
	switch {
	case l.stopped:
		e.enter(Transition{To: queue.Stopped, Cause: causeShutdown, PID: l.pid, Phases: phases})
	case l.err != nil:
		e.enter(Transition{To: queue.Stopped, Cause: causeGaveUp})
	case l.suspended:
		cause := causeDone
		switch {
		case l.failed != nil:
			cause = causeEscalate + l.failed.Error()
		case byItself:
			cause = l.ending // it is as good as suspended, and stays so
		}
		e.enter(Transition{To: queue.Suspended, Cause: cause, PID: l.pid, Method: Stop, Phases: phases})
	default:
		c.print(e.cfg.Stderr)
	}
}

// prepare makes ready for one start: where the engine will listen, and its command.
func (e *Engine) prepare() (endpoint, plan, error) {
	at := endpoint{"unix", e.socket()}
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
	p, err := planFor(e.kind, e.command, e.env, at, e.key)
	return at, p, err
}

func (e *Engine) execError(why string) error {
	hint := "run it by hand first"
	if u := e.cfg.User; u != nil {
		hint += ", as " + u.Name // we are root, who may come to any file
	}
	return &Error{Msg: fmt.Sprintf("engine command %q cannot be executed: %s", e.command[0], why), Hint: hint}
}

func (e *Engine) keyError() error {
	return &Error{
		Msg:  "the engine asks for a key of its own",
		Hint: "take the key out of its configuration file or script; spotinference makes one at each start",
	}
}
