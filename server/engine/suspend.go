package engine

import (
	"context"
	"errors"
	"fmt"

	"spotinference/server/queue"
)

// Method is a way to suspend an engine.
type Method string

const (
	Auto       Method = "auto"       // the quickest to wake of those that work here
	Sleep      Method = "sleep"      // vLLM's own: weights go to the host's memory
	Checkpoint Method = "checkpoint" // the driver's: all of the GPU's memory goes to the host's
	Stop       Method = "stop"       // the process ends, and is started again: always works
	Never      Method = "never"
)

// ErrBusy refuses to suspend an engine under a request.
var ErrBusy = errors.New("requests are running")

// rung is a way to let the GPU go while the process lives. Stop is none: it always
// works, and is what a rung that fails ends in. Both funcs return soon after ctx
// ends, and call lap at the end of each step with the step's name.
type rung interface {
	method() Method
	suspend(ctx context.Context, lap func(string)) error
	resume(ctx context.Context, lap func(string)) error
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

// checkpointRung suspends with the driver's help.
type checkpointRung struct {
	gpu  Checkpointer
	pids func() []int // of the whole tree, the leader among them
	held []int        // owned by the one operation that is under way
}

func (r *checkpointRung) method() Method { return Checkpoint }

func (r *checkpointRung) suspend(ctx context.Context, lap func(string)) error {
	r.held = r.pids()
	if len(r.held) == 0 {
		return errors.New("no process of the engine is seen")
	}
	return r.gpu.Checkpoint(ctx, r.held, lap)
}

func (r *checkpointRung) resume(ctx context.Context, lap func(string)) error {
	return r.gpu.Restore(ctx, r.held, lap)
}

// sleepRung suspends with vLLM's own routes, which --enable-sleep-mode and
// VLLM_SERVER_DEV_MODE=1 make (vllm/entrypoints/serve/dev/sleep/api_router.py).
type sleepRung struct {
	client *prober
	level  int
}

func (r *sleepRung) method() Method { return Sleep }

func (r *sleepRung) suspend(ctx context.Context, lap func(string)) error {
	// The level is a query parameter; a body would be ignored. Nobody is inside:
	// wait is for what the engine has not finished of requests that were cut.
	if err := r.client.post(ctx, fmt.Sprintf("/sleep?level=%d&mode=wait", r.level), ""); err != nil {
		return err
	}
	lap("sleep")
	return nil
}

func (r *sleepRung) resume(ctx context.Context, lap func(string)) error {
	if r.level < 2 {
		if err := r.client.post(ctx, "/wake_up", ""); err != nil {
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
		if err := r.client.post(ctx, step.path, step.body); err != nil {
			return err
		}
		lap(step.name)
	}
	return nil
}

// rungs are the ways to suspend an engine that is run like this, the quickest to wake
// first. Stopping it comes after them all.
func (e *Engine) rungs() []rung {
	var all []rung
	if e.kind == queue.VLLM && sleepEnabled(e.command, e.env) {
		all = append(all, &sleepRung{newProber(e.Dial, e.key), e.cfg.SleepLevel})
	}
	if e.cfg.Checkpointer != nil {
		all = append(all, &checkpointRung{gpu: e.cfg.Checkpointer, pids: e.pids})
	}
	return all
}

// brokenMax is how often a way to suspend may fail before it is not tried again.
const brokenMax = 2

// available tells whether a way to suspend can be gone at this moment.
func available(r rung) bool {
	c, ok := r.(*checkpointRung)
	return !ok || c.gpu.Available() == nil
}

// choose picks how to suspend, nil for stopping: what the user named, else the first
// that works and is not known, by judged wakes, to be slower than a start.
func (e *Engine) choose() rung {
	for _, r := range e.ladder {
		m := r.method()
		if !available(r) || e.broken[m] >= brokenMax || e.cfg.Suspend != Auto && e.cfg.Suspend != m {
			continue
		}
		start, wake := e.typical(Stop), e.typical(m)
		if e.cfg.Suspend == Auto && start > 0 && wake > start && len(e.took[m]) >= judged {
			continue
		}
		return r
	}
	return nil
}

// checkSuspend refuses a way to suspend that this engine cannot go.
func (e *Engine) checkSuspend() error {
	switch m := e.cfg.Suspend; m {
	case Auto, Stop, Never:
		return nil
	case Sleep:
		if e.kind != queue.VLLM {
			return &Error{"cannot suspend by sleep: only vllm can sleep", "use --suspend auto"}
		}
		if !sleepEnabled(e.command, e.env) {
			return &Error{"cannot suspend by sleep: vllm is run without it",
				"add --enable-sleep-mode to its command and set VLLM_SERVER_DEV_MODE=1"}
		}
		return nil
	case Checkpoint:
		if e.cfg.Checkpointer == nil {
			return &Error{"cannot suspend by checkpoint: no driver here that can", "use --suspend auto"}
		}
		if err := e.cfg.Checkpointer.Available(); err != nil {
			return &Error{fmt.Sprintf("cannot suspend by checkpoint: %v", err), "use --suspend auto"}
		}
		return nil
	default:
		return &Error{fmt.Sprintf("suspend by %q: no such way", string(m)), "use auto, sleep, checkpoint, stop or never"}
	}
}
