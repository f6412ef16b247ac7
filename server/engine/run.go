package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	backoffMax    = time.Minute
	steadyAfter   = time.Minute // ready for so long, the next crash is a new story
	neverReadyMax = 3           // ends in a row of an engine that was never ready
	loadingEvery  = 10 * time.Second
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
	if ctx.Err() != nil {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	made, err := makeDir(e.cfg.Dir)
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
		cause     = "serve"
		backoff   = e.cfg.Backoff
		everReady bool
		failures  int // since the start, without having been ready
	)
	for {
		l := e.live(ctx, cause)
		if l.err != nil || l.stopped {
			return l.err
		}
		if !l.readyAt.IsZero() {
			everReady = true
			if time.Since(l.readyAt) >= steadyAfter {
				backoff = e.cfg.Backoff
			}
		}
		if failures++; !everReady && failures == neverReadyMax {
			e.enter(Stopped, "gave up", 0)
			return &Error{
				Msg:  fmt.Sprintf("engine %q was never ready: %s, %d times in a row", filepath.Base(e.command[0]), l.ending, failures),
				Hint: "the engine's last lines are above",
			}
		}
		e.cfg.Log.Info("engine will be started again", "in", backoff)
		select {
		case <-ctx.Done():
			e.enter(Stopped, "shutdown", 0)
			return nil
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, backoffMax)
		cause = "restart"
	}
}

// life is how one process of the engine lived.
type life struct {
	pid     int       // 0 until it was started
	began   time.Time // the guard was asked for it
	spawned time.Time
	readyAt time.Time // zero if it was never ready
	ending  string
	stopped bool  // ctx ended
	err     error // no use in trying again
}

// live runs the engine once, from start to end, and leaves nothing of it behind.
func (e *Engine) live(ctx context.Context, cause string) life {
	at, p, err := e.prepare()
	if err != nil {
		e.enter(Stopped, "gave up", 0)
		return life{err: err}
	}
	if cause == "serve" && len(p.replaced) > 0 {
		e.cfg.Log.Info("engine flags replaced by ours", "replaced", strings.Join(p.replaced, ", "), "listens_on", at.addr)
	}
	l := life{began: time.Now()}
	e.enter(Starting, cause, 0)
	dir := "" // what the guard removes if we cannot: only what is ours
	if e.ownedDir {
		dir = e.cfg.Dir
	}
	c, err := startChild(e.cfg.Guard, dir, p, e.key)
	if err != nil {
		e.enter(Stopped, "gave up", 0)
		return life{err: err}
	}
	e.at.Store(&at)
	verdict, stopProbe := e.startProbe(ctx)
	end := e.watch(ctx, c, verdict, &l)
	stopProbe()
	e.bury(c, end, &l)
	return l
}

// watch follows one process until it ends, and returns the guard's word on that, or
// until ctx ends. It fills in l.
func (e *Engine) watch(ctx context.Context, c *child, verdict <-chan error, l *life) (end report) {
	var probed <-chan error // verdict, once the process has started
	timeout := time.NewTimer(e.cfg.StartTimeout)
	defer timeout.Stop()
	loading := time.NewTicker(loadingEvery)
	defer loading.Stop()
	for {
		select {
		case r := <-c.reports:
			switch {
			case r.word == reportStarted:
				l.pid, l.spawned, probed = r.number(), time.Now(), verdict
				e.update(func(s *Status) { s.PID, s.StartedAt = l.pid, l.spawned })
			case r.word == reportFailed:
				l.err, l.ending = e.execError(r.rest), "not executed"
				return r
			case r.ending() != "":
				l.ending = r.ending()
				return r
			}
		case err := <-probed:
			if err != nil {
				l.err, l.ending = e.keyError(), "key refused"
				return c.kill()
			}
			probed = nil
			timeout.Stop()
			loading.Stop()
			l.readyAt = time.Now()
			e.enter(Ready, "healthy", l.pid,
				Phase{"spawn", l.spawned.Sub(l.began)}, Phase{"load", l.readyAt.Sub(l.spawned)})
		case <-loading.C:
			e.cfg.Log.Info("engine is loading", "elapsed", time.Since(l.began).Round(time.Second))
		case <-timeout.C:
			l.ending = "start timeout"
			return c.kill()
		case <-ctx.Done():
			l.stopped = true
			return report{}
		}
	}
}

// bury stops what still runs, tells of the end, and clears everything away.
func (e *Engine) bury(c *child, end report, l *life) {
	left := e.Status()
	phases := []Phase{{string(left.State), time.Since(left.Since)}}
	if l.stopped {
		asked := time.Now()
		end = c.stop(e.cfg.StopGrace)
		l.ending = end.ending()
		phases = append(phases, Phase{"stop", time.Since(asked)})
	}
	e.at.Store(nil)
	e.update(func(s *Status) { s.PID, s.StartedAt, s.LastExit = 0, time.Time{}, l.ending })
	if !l.stopped {
		// Told before the rest, which may take seconds: from now on nobody should dial.
		e.enter(Crashed, l.ending, l.pid, phases...)
	}
	if stuck := c.close(end); stuck > 0 {
		e.cfg.Log.Error("engine processes cannot be killed and may hold the GPU", "count", stuck)
	}
	switch {
	case l.stopped:
		e.enter(Stopped, "shutdown", l.pid, phases...)
	case l.err != nil:
		e.enter(Stopped, "gave up", 0)
	default:
		c.lines.print(e.cfg.Stderr)
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
	p, err := e.kind.plan(e.command, e.env, at, e.key)
	return at, p, err
}

// startProbe asks the engine for its health in a goroutine of its own. The channel
// brings the verdict; the func ends the goroutine and waits for it.
func (e *Engine) startProbe(ctx context.Context) (<-chan error, func()) {
	ctx, cancel := context.WithCancel(ctx)
	verdict := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := newProber(e.Dial, e.key).run(ctx); ctx.Err() == nil {
			verdict <- err
		}
	}()
	return verdict, func() {
		cancel()
		<-done
	}
}

func (e *Engine) execError(why string) error {
	return &Error{
		Msg:  fmt.Sprintf("engine command %q cannot be executed: %s", e.command[0], why),
		Hint: "run it by hand first",
	}
}

func (e *Engine) keyError() error {
	return &Error{
		Msg:  "the engine asks for a key of its own",
		Hint: "take the key out of its configuration file or script; spotinference makes one at each start",
	}
}

// enter changes the state and tells of it. Called by Run alone.
func (e *Engine) enter(to State, cause string, pid int, phases ...Phase) {
	now := time.Now()
	var from State
	e.update(func(s *Status) {
		from = s.State
		s.State, s.Since = to, now
		if cause == "restart" {
			s.Restarts++
		}
	})
	if e.cfg.OnTransition != nil {
		e.cfg.OnTransition(Transition{From: from, To: to, At: now, Cause: cause, PID: pid, Phases: phases})
	}
}

// update publishes a changed copy of the status. Called by Run alone.
func (e *Engine) update(change func(*Status)) {
	s := *e.status.Load()
	change(&s)
	e.status.Store(&s)
}
