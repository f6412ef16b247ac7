package engine_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/server/engine"
	"spotinference/server/queue"
)

const soon = 20 * time.Millisecond // an idle time that is over at once

// sleeper is a simulated vLLM that can sleep, and its environment.
func sleeper(t *testing.T, flags ...string) ([]string, []string) {
	return vllmCommand(t, append(flags, "--enable-sleep-mode")...), append(os.Environ(), "VLLM_SERVER_DEV_MODE=1")
}

// admit admits a request, through the wake that it takes.
func (r *running) admit() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 15*time.Second)
	defer cancel()
	if err := r.Admit(ctx); err != nil {
		r.t.Fatalf("Admit = %v", err)
	}
}

// last is the newest transition to a state.
func (r *running) last(to ledger.EngineState) engine.Transition {
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
	t.Parallel()
	for _, c := range []struct {
		name   string
		vllm   bool
		level  int
		path   string // after ready
		method engine.Method
		wake   string // phases of the way back
	}{
		{"stop", false, 0, "suspending suspended starting ready", engine.Stop, "spawn load canary"},
		{"sleep", true, 0, "suspending suspended waking ready", engine.Sleep, "wake_up canary"},
		{"sleep, level 2", true, 2, "suspending suspended waking ready", engine.Sleep, "wake_up reload kv_cache canary"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			gpu := filepath.Join(t.TempDir(), "gpu")
			cfg := engine.Config{Idle: soon, SleepLevel: c.level}
			if c.vllm {
				cfg.Command, cfg.Env = sleeper(t, "-gpu", gpu, "-crash-on-request-while-asleep")
			} else {
				cfg.Command = llamaCommand(t, "-gpu", gpu)
			}
			r := start(t, cfg)
			if s := r.waitState(ledger.Suspended); s.SuspendedBy != string(c.method) {
				t.Errorf("suspended by %q, want %q", s.SuspendedBy, c.method)
			}
			if gpuHeld(t, gpu) {
				t.Error("the GPU is held while suspended")
			}
			r.admit()
			if !gpuHeld(t, gpu) {
				t.Error("the GPU is not held while a request is inside")
			}
			if code, body := r.get("/v1/models"); code != 200 {
				t.Errorf("models = %d %s", code, body)
			}
			if got, want := r.path(), "stopped starting ready "+c.path; got != want {
				t.Errorf("path = %q, want %q", got, want)
			}
			ready := r.last(ledger.Ready)
			began := r.last(ledger.EngineState(strings.Fields(c.path)[2]))
			if phases(began) != "queue" || began.Cause != "request" {
				t.Errorf("the wake began with %+v, want phase queue", began)
			}
			var sum time.Duration
			for _, p := range ready.Phases {
				sum += p.Took
			}
			if whole := ready.At.Sub(began.At); sum > whole {
				t.Errorf("phases %v of %s take longer than it", ready.Phases, whole)
			}
			if phases(ready) != c.wake || ready.Waiters != 1 || ready.Canary.CompletionTokens != 1 {
				t.Errorf("woken with %+v, want phases %s, one waiter and a token of the canary's", ready, c.wake)
			}
			if err := r.Suspend(t.Context()); !errors.Is(err, engine.ErrBusy) {
				t.Errorf("Suspend under a request = %v, want ErrBusy", err)
			}
			r.Release(true)
			r.waitState(ledger.Suspended)
			if s := r.Status(); s.Restarts != 0 {
				t.Errorf("%d restarts were counted, and none was one", s.Restarts)
			}
		})
	}
}

func TestSuspendByOrder(t *testing.T) {
	t.Parallel()
	r := start(t, engine.Config{Command: llamaCommand(t)})
	r.waitState(ledger.Ready)
	for range 2 { // the second finds it so
		if err := r.Suspend(t.Context()); err != nil {
			t.Fatalf("Suspend = %v", err)
		}
		if s := r.Status(); s.State != ledger.Suspended || s.PID != 0 {
			t.Errorf("status after Suspend = %+v", s)
		}
	}
	if err := r.Wake(t.Context()); err != nil {
		t.Fatalf("Wake = %v", err)
	}
	if s := r.Status(); s.State != ledger.Ready {
		t.Errorf("state after Wake = %s", s.State)
	}
}

// gpuDouble stands in for the driver and the card: it says of whom it was asked, and
// what it is told to.
type gpuDouble struct {
	mu     sync.Mutex
	held   []int64 // what is seen to be held, look by look; the last one for good
	blind  error   // or why nothing is seen, from the second look on
	cannot error
	fails  error // at the checkpoint
	lost   error // at the restore
	asked  [][]int
}

func (g *gpuDouble) Available() error { return g.cannot }

func (g *gpuDouble) Checkpoint(_ context.Context, pids []int, lap func(string)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, pids)
	lap("state")
	lap("lock")
	if g.fails != nil {
		return g.fails
	}
	lap("checkpoint")
	return nil
}

func (g *gpuDouble) Restore(_ context.Context, pids []int, lap func(string)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, pids)
	lap("restore")
	lap("unlock")
	return g.lost
}

func (g *gpuDouble) memory(context.Context, []int) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.held[0]
	if len(g.held) > 1 {
		g.held = g.held[1:]
	} else if g.blind != nil {
		return 0, g.blind
	}
	return now, nil
}

// TestCheckpoint: the driver takes the whole tree off the GPU, which is seen, and puts
// it back; the record says what each step took.
func TestCheckpoint(t *testing.T) {
	t.Parallel()
	g := &gpuDouble{held: []int64{20 << 30, 20 << 30, 4 << 30, 0}}
	r := start(t, engine.Config{Command: vllmCommand(t), Idle: soon, Suspend: engine.Checkpoint, Checkpointer: g, GPUMemory: g.memory})
	s := r.waitState(ledger.Suspended)
	if s.SuspendedBy != string(engine.Checkpoint) || s.PID == 0 {
		t.Errorf("suspended: %+v", s)
	}
	if got, want := phases(r.last(ledger.Suspended)), "look state lock checkpoint release"; got != want {
		t.Errorf("suspended with phases %s, want %s", got, want)
	}
	r.admit()
	defer r.Release(true)
	if got, want := phases(r.last(ledger.Ready)), "restore unlock canary"; got != want {
		t.Errorf("woken with phases %s, want %s", got, want)
	}
	if len(g.asked) != 2 || len(g.asked[0]) < 2 || g.asked[0][0] != s.PID || !slices.Equal(g.asked[0], g.asked[1]) {
		t.Errorf("asked of %v, want twice of the tree of %d", g.asked, s.PID)
	}
}

// TestMemoryThatIsNeverSeen, as in a container, holds up no suspension, and proves none.
func TestMemoryThatIsNeverSeen(t *testing.T) {
	t.Parallel()
	g := &gpuDouble{held: []int64{0}}
	r := start(t, engine.Config{Command: llamaCommand(t), Idle: soon, Checkpointer: g, GPUMemory: g.memory})
	r.waitState(ledger.Suspended)
	if got, want := phases(r.last(ledger.Suspended)), "look state lock checkpoint"; got != want {
		t.Errorf("suspended with phases %s, want %s", got, want)
	}
}

// TestAutoAsksTheDriver: where it cannot, the engine is stopped.
func TestAutoAsksTheDriver(t *testing.T) {
	t.Parallel()
	g := &gpuDouble{held: []int64{0}, cannot: errors.New("too old")}
	r := start(t, engine.Config{Command: llamaCommand(t), Idle: soon, Checkpointer: g, GPUMemory: g.memory})
	if s := r.waitState(ledger.Suspended); s.SuspendedBy != string(engine.Stop) || len(g.asked) > 0 {
		t.Errorf("suspended by %s, the driver was asked %v", s.SuspendedBy, g.asked)
	}
}

// TestSuspendEscalates: what could not be suspended, or still holds the GPU after it
// was, or is not seen any more to let go of it, is stopped.
func TestSuspendEscalates(t *testing.T) {
	t.Parallel()
	held := []int64{70 << 30}
	for _, c := range []struct {
		name  string
		sleep bool
		g     *gpuDouble
		want  string
	}{
		{"asleep, and holds it", true, &gpuDouble{held: held}, "escalated: it still holds 71680 MiB of the GPU"},
		{"off the card, and holds it", false, &gpuDouble{held: held}, "escalated: it still holds 71680 MiB of the GPU"},
		{"off the card, nobody sees it", false, &gpuDouble{held: []int64{1, 1}, blind: errors.New("helper: gone")}, "escalated: that it let go of the GPU was not seen: helper: gone"},
		{"not off the card", false, &gpuDouble{held: held, fails: errors.New("checkpoint process 7: no; rolled back")}, "escalated: checkpoint process 7: no; rolled back"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := engine.Config{Idle: soon, SuspendTimeout: time.Second, GPUMemory: c.g.memory}
			if c.sleep {
				cfg.Command, cfg.Env = sleeper(t)
			} else {
				cfg.Command, cfg.Checkpointer = llamaCommand(t), c.g
			}
			r := start(t, cfg)
			r.waitState(ledger.Suspended)
			if tr := r.last(ledger.Suspended); tr.Method != engine.Stop || tr.Cause != c.want {
				t.Errorf("suspended = %+v, want stopped, %s", tr, c.want)
			}
			r.admit()
			r.Release(true)
		})
	}
}

// TestRestoreFails: what the driver cannot put back is started afresh.
func TestRestoreFails(t *testing.T) {
	t.Parallel()
	g := &gpuDouble{held: []int64{0}, lost: errors.New("restore process 7: no")}
	r := start(t, engine.Config{Command: llamaCommand(t), Idle: soon, Checkpointer: g, GPUMemory: g.memory})
	r.waitState(ledger.Suspended)
	r.admit()
	defer r.Release(true)
	if tr := r.last(ledger.Starting); tr.Cause != "wake failed: restore process 7: no" {
		t.Errorf("started because of %q", tr.Cause)
	}
}

// TestDiesAsleep: an engine that dies while it sleeps is as good as suspended.
func TestDiesAsleep(t *testing.T) {
	t.Parallel()
	command, env := sleeper(t)
	r := start(t, engine.Config{Command: command, Env: env, Idle: soon})
	s := r.waitState(ledger.Suspended)
	unix.Kill(s.PID, unix.SIGKILL)
	waitFor(t, "the end of the engine", func() bool { return r.Status().PID == 0 })
	r.admit()
	if got, want := r.path(), "stopped starting ready suspending suspended suspended starting ready"; got != want {
		t.Errorf("path = %q, want %q", got, want)
	}
	r.Release(true)
}

// TestWakesMute: an engine that answers its health check and no request lets nobody in.
func TestWakesMute(t *testing.T) {
	t.Parallel()
	t.Run("asleep", func(t *testing.T) {
		t.Parallel()
		command, env := sleeper(t, "-hang")
		r := start(t, engine.Config{Command: command, Env: env, Idle: soon, WakeTimeout: 300 * time.Millisecond})
		r.waitState(ledger.Suspended)
		if err := r.Admit(t.Context()); !errors.Is(err, queue.ErrWakeTimeout) {
			t.Errorf("Admit = %v, want ErrWakeTimeout", err)
		}
		waitFor(t, "a fresh start", func() bool { return strings.HasSuffix(r.path(), "waking starting") })
		if tr := r.last(ledger.Starting); !strings.HasPrefix(tr.Cause, "wake failed: ") {
			t.Errorf("started because of %q", tr.Cause)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		r := start(t, engine.Config{Command: llamaCommand(t, "-hang"), Idle: soon, StartTimeout: 500 * time.Millisecond, Backoff: time.Hour})
		r.waitState(ledger.Suspended)
		if err := r.Admit(t.Context()); !errors.Is(err, queue.ErrNotReady) {
			t.Errorf("Admit = %v, want ErrNotReady", err)
		}
		if s := r.waitState(ledger.Crashed); s.LastExit != "start timeout: its health check passes, and it answers no request" {
			t.Errorf("status = %+v", s)
		}
		waitFor(t, "the time of the next start", func() bool { return !r.Status().NextStart.IsZero() })
	})
	t.Run("dies of it", func(t *testing.T) {
		t.Parallel()
		r := start(t, engine.Config{Command: llamaCommand(t, "-exit-on", "1"), Idle: soon, Backoff: time.Hour})
		r.waitState(ledger.Suspended)
		if err := r.Admit(t.Context()); !errors.Is(err, queue.ErrNotReady) {
			t.Errorf("Admit = %v, want ErrNotReady", err)
		}
	})
}

// TestSuspendDeaf: an engine that does not listen to SIGTERM is suspended all the same.
func TestSuspendDeaf(t *testing.T) {
	t.Parallel()
	gpu := filepath.Join(t.TempDir(), "gpu")
	r := start(t, engine.Config{Command: vllmCommand(t, "-ignore-term", "-escape", "-gpu", gpu), Idle: soon, StopGrace: 100 * time.Millisecond})
	r.waitState(ledger.Suspended)
	if gpuHeld(t, gpu) {
		t.Error("the GPU is held while suspended")
	}
	r.admit()
	r.Release(true)
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
	r.waitState(ledger.Ready)
}

func TestSuspendRefusals(t *testing.T) {
	for _, c := range []struct {
		cfg  engine.Config
		want string
	}{
		{engine.Config{Command: llamaCommand(t), Suspend: engine.Sleep}, "only vllm can sleep"},
		{engine.Config{Command: vllmCommand(t), Suspend: engine.Sleep}, "run without it"},
		{engine.Config{Command: llamaCommand(t), Suspend: engine.Checkpoint}, "no driver"},
		{engine.Config{Command: llamaCommand(t), Suspend: engine.Checkpoint, Checkpointer: &gpuDouble{cannot: errors.New("it is too old")}}, "it is too old"},
		{engine.Config{Command: llamaCommand(t), Suspend: "nap"}, `"nap": no such way`},
	} {
		_, err := engine.New(c.cfg)
		if hint.Of(err) == "" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New with suspend %s = %v, want %q and a hint", c.cfg.Suspend, err, c.want)
		}
	}
	never := start(t, engine.Config{Command: llamaCommand(t), Suspend: engine.Never, Idle: soon})
	never.waitState(ledger.Ready)
	if err := never.Suspend(t.Context()); !errors.Is(err, engine.ErrNeverSuspends) {
		t.Error("an engine that is never to be suspended was")
	}
}
