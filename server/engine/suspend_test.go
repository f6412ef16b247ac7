package engine_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/server/engine"
)

const soon = 20 * time.Millisecond // an idle time that is over at once

// sleeper is a simulated vLLM that can sleep, and its environment.
func sleeper(t *testing.T, flags ...string) ([]string, []string) {
	return vllmCommand(t, append(flags, "--enable-sleep-mode")...), append(os.Environ(), "VLLM_SERVER_DEV_MODE=1")
}

// enter lets a request in, through the wake that it takes.
func (r *running) enter() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 15*time.Second)
	defer cancel()
	if err := r.Enter(ctx); err != nil {
		r.t.Fatalf("Enter = %v", err)
	}
}

// last is the newest transition to a state.
func (r *running) last(to engine.State) engine.Transition {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, tr := range slices.Backward(r.transitions) {
		if tr.To == to {
			return tr
		}
	}
	r.t.Fatalf("it was never %s", to)
	return engine.Transition{}
}

func phases(tr engine.Transition) string {
	var names []string
	for _, p := range tr.Phases {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

func TestSuspendAndWake(t *testing.T) {
	for _, c := range []struct {
		name   string
		vllm   bool
		level  int
		path   string // after ready
		method engine.Method
		wake   string // phases of the way back
	}{
		{"stop", false, 0, "suspending suspended starting ready", engine.Stop, "queue spawn load canary"},
		{"sleep", true, 0, "suspending suspended waking ready", engine.Sleep, "queue wake_up canary"},
	} {
		t.Run(c.name, func(t *testing.T) {
			gpu := filepath.Join(t.TempDir(), "gpu")
			cfg := engine.Config{Idle: soon, SleepLevel: c.level}
			if c.vllm {
				cfg.Command, cfg.Env = sleeper(t, "-gpu", gpu, "-crash-on-request-while-asleep")
			} else {
				cfg.Command = llamaCommand(t, "-gpu", gpu)
			}
			r := start(t, cfg)
			if s := r.waitState(engine.Suspended); s.Suspended != c.method {
				t.Errorf("suspended by %q, want %q", s.Suspended, c.method)
			}
			if gpuHeld(t, gpu) {
				t.Error("the GPU is held while suspended")
			}
			r.enter()
			if !gpuHeld(t, gpu) {
				t.Error("the GPU is not held while a request is inside")
			}
			if code, body := r.get("/v1/models"); code != 200 {
				t.Errorf("models = %d %s", code, body)
			}
			if got, want := r.path(), "stopped starting ready "+c.path; got != want {
				t.Errorf("path = %q, want %q", got, want)
			}
			ready := r.last(engine.Ready)
			if phases(ready) != c.wake || ready.Waiters != 1 || ready.Canary.CompletionTokens != 1 {
				t.Errorf("woken with %+v, want phases %s, one waiter and a token of the canary's", ready, c.wake)
			}
			if err := r.Suspend(t.Context()); !errors.Is(err, engine.ErrBusy) {
				t.Errorf("Suspend under a request = %v, want ErrBusy", err)
			}
			r.Leave(true)
			r.waitState(engine.Suspended)
			if s := r.Status(); s.Restarts != 0 {
				t.Errorf("%d restarts were counted, and none was one", s.Restarts)
			}
		})
	}
}

func TestSuspendByOrder(t *testing.T) {
	r := start(t, engine.Config{Command: llamaCommand(t)})
	r.waitState(engine.Ready)
	for range 2 { // the second finds it so
		if err := r.Suspend(t.Context()); err != nil {
			t.Fatalf("Suspend = %v", err)
		}
		if s := r.Status(); s.State != engine.Suspended || s.PID != 0 {
			t.Errorf("status after Suspend = %+v", s)
		}
	}
	if err := r.Wake(t.Context()); err != nil {
		t.Fatalf("Wake = %v", err)
	}
	if s := r.Status(); s.State != engine.Ready {
		t.Errorf("state after Wake = %s", s.State)
	}
}

// TestSuspendEscalates: what still holds the GPU after it was put to sleep is stopped.
func TestSuspendEscalates(t *testing.T) {
	command, env := sleeper(t)
	r := start(t, engine.Config{
		Command: command, Env: env, Idle: soon, SuspendTimeout: 200 * time.Millisecond,
		GPUMemory: func(pids []int) (uint64, bool) { return 70 << 30, len(pids) > 1 },
	})
	r.waitState(engine.Suspended)
	tr := r.last(engine.Suspended)
	if tr.Method != engine.Stop || !strings.HasPrefix(tr.Cause, "escalated: ") || !strings.Contains(tr.Cause, "MiB") {
		t.Errorf("suspended = %+v, want stopped because of the memory", tr)
	}
	r.enter()
	r.Leave(true)
}

// TestDiesAsleep: an engine that dies while it sleeps is as good as suspended.
func TestDiesAsleep(t *testing.T) {
	command, env := sleeper(t)
	r := start(t, engine.Config{Command: command, Env: env, Idle: soon})
	s := r.waitState(engine.Suspended)
	unix.Kill(s.PID, unix.SIGKILL)
	waitFor(t, "the end of the engine", func() bool { return r.Status().PID == 0 })
	r.enter()
	if got, want := r.path(), "stopped starting ready suspending suspended suspended starting ready"; got != want {
		t.Errorf("path = %q, want %q", got, want)
	}
	r.Leave(true)
}

// TestWakesMute: an engine that answers its health check and no request lets nobody in.
func TestWakesMute(t *testing.T) {
	t.Run("asleep", func(t *testing.T) {
		command, env := sleeper(t, "-hang")
		r := start(t, engine.Config{Command: command, Env: env, Idle: soon, WakeTimeout: 300 * time.Millisecond})
		r.waitState(engine.Suspended)
		if err := r.Enter(t.Context()); !errors.Is(err, engine.ErrWakeTimeout) {
			t.Errorf("Enter = %v, want ErrWakeTimeout", err)
		}
		waitFor(t, "a fresh start", func() bool { return strings.HasSuffix(r.path(), "waking starting") })
		if tr := r.last(engine.Starting); !strings.HasPrefix(tr.Cause, "wake failed: ") {
			t.Errorf("started because of %q", tr.Cause)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		r := start(t, engine.Config{Command: llamaCommand(t, "-hang"), Idle: soon, StartTimeout: 500 * time.Millisecond, Backoff: time.Hour})
		r.waitState(engine.Suspended)
		if err := r.Enter(t.Context()); !errors.Is(err, engine.ErrNotReady) {
			t.Errorf("Enter = %v, want ErrNotReady", err)
		}
		if s := r.waitState(engine.Crashed); s.LastExit != "start timeout" {
			t.Errorf("status = %+v", s)
		}
		waitFor(t, "the time of the next start", func() bool { return !r.Status().NextStart.IsZero() })
	})
	t.Run("dies of it", func(t *testing.T) {
		r := start(t, engine.Config{Command: llamaCommand(t, "-exit-on", "1"), Idle: soon, Backoff: time.Hour})
		r.waitState(engine.Suspended)
		if err := r.Enter(t.Context()); !errors.Is(err, engine.ErrNotReady) {
			t.Errorf("Enter = %v, want ErrNotReady", err)
		}
	})
}

// TestSuspendDeaf: an engine that does not listen to SIGTERM is suspended all the same.
func TestSuspendDeaf(t *testing.T) {
	gpu := filepath.Join(t.TempDir(), "gpu")
	r := start(t, engine.Config{Command: vllmCommand(t, "-ignore-term", "-escape", "-gpu", gpu), Idle: soon, StopGrace: 100 * time.Millisecond})
	r.waitState(engine.Suspended)
	if gpuHeld(t, gpu) {
		t.Error("the GPU is held while suspended")
	}
	r.enter()
	r.Leave(true)
}

// TestSlowStart: a start that shows progress is waited for beyond its timeout; the
// simulated engine that loads without a word is not.
func TestSlowStart(t *testing.T) {
	script := filepath.Join(t.TempDir(), "llama-server")
	text := "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8; do echo loading $i; sleep 0.1; done\nexec " + llamaCommand(t)[0] + " \"$@\"\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	r := start(t, engine.Config{Command: []string{script, "-m", "test.gguf"}, StartTimeout: 400 * time.Millisecond, Backoff: time.Hour})
	r.waitState(engine.Ready)
}

func TestSuspendRefusals(t *testing.T) {
	for _, c := range []struct {
		cfg  engine.Config
		want string
	}{
		{engine.Config{Command: llamaCommand(t), Suspend: engine.Sleep}, "only vllm can sleep"},
		{engine.Config{Command: vllmCommand(t), Suspend: engine.Sleep}, "run without it"},
		{engine.Config{Command: llamaCommand(t), Suspend: engine.Checkpoint}, "no driver"},
		{engine.Config{Command: llamaCommand(t), Suspend: "nap"}, `"nap": no such way`},
	} {
		_, err := engine.New(c.cfg)
		var e *engine.Error
		if !errors.As(err, &e) || !strings.Contains(e.Msg, c.want) || e.Hint == "" {
			t.Errorf("New with suspend %s = %v, want %q and a hint", c.cfg.Suspend, err, c.want)
		}
	}
	never := start(t, engine.Config{Command: llamaCommand(t), Suspend: engine.Never, Idle: soon})
	never.waitState(engine.Ready)
	if err := never.Suspend(t.Context()); err == nil {
		t.Error("an engine that is never to be suspended was")
	}
}
