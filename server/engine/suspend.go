package engine

import (
	"context"
	"errors"
	"fmt"

	"spotinference/internal/hint"
	"spotinference/server/queue"
)

// Method is how an engine is suspended.
type Method string

const (
	Auto       Method = "auto"       // the quickest to wake of those that work here
	Sleep      Method = "sleep"      // vLLM's own: weights go to the host's memory
	Checkpoint Method = "checkpoint" // the driver's: all that is in the GPU's memory goes to the host's
	Stop       Method = "stop"       // the process ends, and is started again: always works
	Never      Method = "never"
)

// Why Suspend refuses.
var (
	ErrBusy          = errors.New("requests are running")
	ErrNeverSuspends = errors.New("cannot suspend the engine: --suspend is never") // by Config.Suspend
)

// suspendMethod frees the GPU while the process lives. Stop is none: it always works, and
// is what follows where another method fails. suspend and wake return soon after ctx
// ends, and call lap at the end of each phase with the phase's name.
type suspendMethod interface {
	name() Method
	suspend(ctx context.Context, lap func(string)) error
	wake(ctx context.Context, lap func(string)) error
}

// Checkpointer moves what processes hold of the GPU into the host's memory and
// back. Package gpu has one.
type Checkpointer interface {
	// Available says, at once, why it cannot work now; nil where it can.
	Available() error
	// Checkpoint takes those of pids that use the GPU off it. Where it fails, the
	// processes are not to be used any more.
	Checkpoint(ctx context.Context, pids []int, lap func(string)) error
	Restore(ctx context.Context, pids []int, lap func(string)) error
}

// checkpointMethod suspends with the driver's help.
type checkpointMethod struct {
	gpu       Checkpointer
	pids      func() []int // of the whole tree, the leader among them
	suspended []int        // owned by the one operation that is under way
}

func (m *checkpointMethod) name() Method { return Checkpoint }

func (m *checkpointMethod) suspend(ctx context.Context, lap func(string)) error {
	m.suspended = m.pids()
	if len(m.suspended) == 0 {
		return errors.New("no process of the engine is seen")
	}
	return m.gpu.Checkpoint(ctx, m.suspended, lap)
}

func (m *checkpointMethod) wake(ctx context.Context, lap func(string)) error {
	return m.gpu.Restore(ctx, m.suspended, lap)
}

// sleepMethod suspends with vLLM's own routes, which --enable-sleep-mode and
// VLLM_SERVER_DEV_MODE=1 make (vllm/entrypoints/serve/dev/sleep/api_router.py).
type sleepMethod struct {
	client *prober
	level  int
}

func (m *sleepMethod) name() Method { return Sleep }

func (m *sleepMethod) suspend(ctx context.Context, lap func(string)) error {
	// The level is a query parameter; a body would be ignored. No request is inside:
	// mode=wait is for what the engine has not finished of requests that were cut.
	if err := m.client.post(ctx, fmt.Sprintf("/sleep?level=%d&mode=wait", m.level), ""); err != nil {
		return err
	}
	lap("sleep")
	return nil
}

func (m *sleepMethod) wake(ctx context.Context, lap func(string)) error {
	if m.level < 2 {
		if err := m.client.post(ctx, "/wake_up", ""); err != nil {
			return err
		}
		lap("wake_up")
		return nil
	}
	// Level 2 dropped the weights: they are read again between the two wakes.
	for _, step := range []struct{ name, path, body string }{
		{"wake_up", "/wake_up?tags=weights", ""},
		{"reload", "/collective_rpc", `{"method":"reload_weights"}`},
		{"kv_cache", "/wake_up?tags=kv_cache", ""},
	} {
		if err := m.client.post(ctx, step.path, step.body); err != nil {
			return err
		}
		lap(step.name)
	}
	return nil
}

// suspendMethods are those that an engine which is run like this has, the quickest to
// wake first. Stopping it comes after them all.
func (e *Engine) suspendMethods() []suspendMethod {
	var all []suspendMethod
	if e.cfg.Kind == queue.VLLM && sleepEnabled(e.command, e.env) {
		all = append(all, &sleepMethod{newProber(e.Dial, e.key), e.cfg.SleepLevel})
	}
	if e.cfg.Checkpointer != nil {
		all = append(all, &checkpointMethod{gpu: e.cfg.Checkpointer, pids: e.pids})
	}
	return all
}

// maxFailures is how often a method may fail before it is not tried again.
const maxFailures = 2

// available reports whether m can work at this moment.
func available(m suspendMethod) bool {
	c, ok := m.(*checkpointMethod)
	return !ok || c.gpu.Available() == nil
}

// chooseMethod returns how to suspend the engine now, nil for stopping it: what the user
// named, else the first method that works and is not known, by judgedWakes, to be slower
// than a start.
func (e *Engine) chooseMethod() suspendMethod {
	for _, m := range e.methods {
		name := m.name()
		if !available(m) || e.failures[name] >= maxFailures || e.cfg.Suspend != Auto && e.cfg.Suspend != name {
			continue
		}
		start, wake := e.medianWake(Stop), e.medianWake(name)
		if e.cfg.Suspend == Auto && start > 0 && wake > start && len(e.wakeTimes[name]) >= judgedWakes {
			continue
		}
		return m
	}
	return nil
}

// checkSuspend refuses a method that this engine does not have.
func (e *Engine) checkSuspend() error {
	switch m := e.cfg.Suspend; m {
	case Auto, Stop, Never:
		return nil
	case Sleep:
		if e.cfg.Kind != queue.VLLM {
			return hint.Errorf("use --suspend auto", "cannot suspend by sleep: only vllm can sleep")
		}
		if !sleepEnabled(e.command, e.env) {
			return hint.Errorf("add --enable-sleep-mode to its command and set VLLM_SERVER_DEV_MODE=1",
				"cannot suspend by sleep: vllm is run without it")
		}
		return nil
	case Checkpoint:
		if e.cfg.Checkpointer == nil {
			return hint.Errorf("use --suspend auto", "cannot suspend by checkpoint: no driver here that can")
		}
		if err := e.cfg.Checkpointer.Available(); err != nil {
			return hint.Errorf("use --suspend auto", "cannot suspend by checkpoint: %v", err)
		}
		return nil
	default:
		return hint.Errorf("use auto, sleep, checkpoint, stop or never", "suspend by %q: no such way", string(m))
	}
}
