package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"spotinference/billing"
	"spotinference/ledger"
	"spotinference/server/control"
	"spotinference/server/engine"
)

// onCloseTime is what --on-close may take. To stop a machine is one call.
const onCloseTime = 2 * time.Minute

// A command that failed is run again, after retryFirst at first and twice as long each
// time, up to retryMost.
const (
	retryFirst = time.Minute
	retryMost  = 15 * time.Minute
)

// closer does what follows a closed gate, once nothing is in the engine any more.
type closer struct {
	eng     *engine.Engine
	sampler *billing.Sampler // nil without a bill
	command []string         // --on-close; nil for none
	keep    []string         // the secrets that the command may see
	event   func(ledger.EventDetail)
	failed  func(failed bool) // told of the outcome of each run, and of the end of a closing; nil: nobody is
	now     func() time.Time
	log     *slog.Logger
	hard    context.Context // ends the command

	mu    sync.Mutex // guards what is below
	state control.OnClose
}

// status is how the command went in the closing that is under way or was last; nil where
// it never ran.
func (c *closer) status() *control.OnClose {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.State == "" {
		return nil
	}
	state := c.state
	return &state
}

func (c *closer) setStatus(change func(*control.OnClose)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.state)
}

func (c *closer) tellFailed(failed bool) {
	if c.failed != nil {
		c.failed(failed)
	}
}

// closed suspends the engine, reads the bill once more, and runs the user's command,
// which may be the end of us. ctx ends when the gate is open again.
func (c *closer) closed(ctx context.Context, reason string) {
	at, cancel := context.WithTimeout(ctx, 30*time.Second)
	asleep := c.suspend(at)
	cancel()
	if c.sampler != nil && ctx.Err() == nil {
		last, cancel := context.WithTimeout(ctx, 2*lastSampleTime)
		if err := c.sampler.Last(last); err != nil && ctx.Err() == nil {
			c.log.Warn("the bill could not be read once more before the machine may be stopped", "err", err)
		}
		cancel()
	}
	if asleep {
		c.runUntilDone(ctx, reason)
		return
	}
	var suspending sync.WaitGroup
	suspending.Go(func() {
		// A command that works may be the end of us; one that does not is tried for long.
		c.suspend(ctx)
	})
	c.runUntilDone(ctx, reason)
	suspending.Wait()
}

// runUntilDone runs the command until it succeeds, for as long as the gate is closed: a
// machine that should have been stopped costs on.
func (c *closer) runUntilDone(ctx context.Context, reason string) {
	if c.command == nil || ctx.Err() != nil {
		return
	}
	c.setStatus(func(s *control.OnClose) { *s = control.OnClose{} })
	wait := retryFirst
	for {
		if _, err := c.run(reason); err == nil {
			return
		}
		next := c.now().Add(wait)
		c.setStatus(func(s *control.OnClose) { s.NextTry = inUTC(next) })
		c.log.Warn("--on-close is tried again while the gate is closed", "in", wait)
		select {
		case <-ctx.Done():
			c.setStatus(func(s *control.OnClose) { s.NextTry = nil })
			c.tellFailed(false)
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, retryMost)
	}
}

// suspend tries for as long as ctx lets it, and reports whether there is nothing more
// to try: an engine that starts cannot be suspended yet.
func (c *closer) suspend(ctx context.Context) bool {
	for {
		err := c.eng.SuspendForGate(ctx)
		switch {
		case err == nil || errors.Is(err, engine.ErrNeverSuspends):
			return true
		case ctx.Err() != nil:
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(time.Second):
		}
	}
}

// run runs the command in a process group of its own, and returns the end of what it
// said, and what went wrong. It is not killed when we are: it is what ends the spending.
func (c *closer) run(reason string) (string, error) {
	ctx, cancel := context.WithTimeout(c.hard, onCloseTime)
	defer cancel()
	said := &tail{}
	cmd := exec.CommandContext(ctx, c.command[0], c.command[1:]...)
	cmd.Env = append(engine.Scrub(os.Environ(), c.keep...), "GATE_REASON="+reason)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	c.log.Warn("the gate is closed: running --on-close", "command", c.command[0], "reason", reason)
	c.event(ledger.OnCloseStarted{Reason: reason})
	c.setStatus(func(s *control.OnClose) {
		*s = control.OnClose{State: control.OnCloseRunning, Tries: s.Tries + 1, At: c.now().UTC()}
	})
	begun := time.Now()
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) { // a child that it left behind holds its output open
		err = nil
	}
	took := time.Since(begun)
	if ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("killed after %s", onCloseTime)
	}
	outcome := "done"
	c.setStatus(func(s *control.OnClose) { s.State = control.OnCloseDone })
	if err != nil {
		outcome = err.Error()
		c.setStatus(func(s *control.OnClose) { s.State, s.Error = control.OnCloseFailed, outcome })
		c.log.Error("--on-close failed: the machine may still run, and cost", "err", err, "said", said.String())
	} else {
		c.log.Info("--on-close is done", "took", took.Round(time.Millisecond))
	}
	c.event(ledger.OnCloseEnded{Outcome: outcome, Took: ledger.Seconds(took)})
	c.tellFailed(err != nil)
	return said.String(), err
}

// tail keeps the end of what is written to it.
type tail struct{ kept []byte }

const tailMost = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if n := len(t.kept) - tailMost; n > 0 {
		t.kept = append(t.kept[:0], t.kept[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(bytes.TrimSpace(t.kept)) }
