package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"spotinference/billing"
	"spotinference/ledger"
	"spotinference/server/engine"
)

// onCloseTime is what --on-close may take. To stop a machine is one call.
const onCloseTime = 2 * time.Minute

// closer does what follows a closed gate, once nothing is in the engine any more.
type closer struct {
	eng     *engine.Engine
	sampler *billing.Sampler // nil without a bill
	command []string         // --on-close; nil for none
	keep    []string         // the secrets that the command may see
	event   func(ledger.EventDetail)
	log     *slog.Logger
	hard    context.Context // ends the command
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
	if c.command != nil && ctx.Err() == nil {
		c.run(reason)
	}
	if !asleep {
		c.suspend(ctx)
	}
}

// suspend tries for as long as ctx lets it, and reports whether there is nothing more
// to try: an engine that starts cannot be suspended yet.
func (c *closer) suspend(ctx context.Context) bool {
	for {
		err := c.eng.Suspend(ctx)
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
// said. It is not killed when we are: it is what ends the spending.
func (c *closer) run(reason string) string {
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
	if err != nil {
		outcome = err.Error()
		c.log.Error("--on-close failed: the machine may still run, and cost", "err", err, "said", said.String())
	} else {
		c.log.Info("--on-close is done", "took", took.Round(time.Millisecond))
	}
	c.event(ledger.OnCloseEnded{Outcome: outcome, Took: ledger.Seconds(took)})
	return said.String()
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
