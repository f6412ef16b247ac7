package engine_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/engine"
	"spotinference/server/queue"
)

// Engines that misbehave, beyond those of the tests of each step. What must hold each
// time: the right state, a text that says why, and an end within a bound.

// bound is what everything here takes at most on a slow machine; each test's own
// limits are far shorter.
const bound = 15 * time.Second

// post asks the engine for path and returns its answer.
func (r *running) post(path, body string) string {
	r.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return r.Dial(ctx) },
	}}
	req, _ := http.NewRequest("POST", "http://engine"+path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+r.Key())
	resp, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(answer)
}

// TestNeverGetsReady: each way in which a start can hang ends by the start timeout and
// says what was seen.
func TestNeverGetsReady(t *testing.T) {
	t.Parallel()
	patience := 700 * time.Millisecond // chatter makes it four times as long
	for _, c := range []struct {
		name    string
		command []string
		want    string
	}{
		{"loads for ever", llamaCommand(t, "-load", "1h"), "its health check is answered with status 503"},
		{"bound and mute", vllmCommand(t, "-load", "1h"), "it listens and does not answer"},
		{"listens elsewhere", llamaCommand(t, "-elsewhere"), "nothing listens where it was told to"},
		{"is sick", llamaCommand(t, "-fail-on", "/health"), "its health check is answered with status 500"},
		{"talks for ever", llamaCommand(t, "-load", "1h", "-chatter"), "its health check is answered with status 503"},
		{"talks and ignores SIGTERM", vllmCommand(t, "-load", "1h", "-chatter", "-ignore-term", "-escape"), "it listens and does not answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, engine.Config{Command: c.command, StartTimeout: patience, StopGrace: 300 * time.Millisecond, Backoff: time.Hour})
			if s, want := r.waitState(ledger.Crashed), "start timeout: "+c.want; s.LastExit != want {
				t.Errorf("LastExit = %q, want %q", s.LastExit, want)
			}
			r.cancel()
			if err := r.wait(); err != nil {
				t.Errorf("Run = %v", err)
			}
		})
	}
}

// TestRefusesToSleep: an engine that refuses, or never answers, is stopped instead; one
// that does so twice is not asked a third time.
func TestRefusesToSleep(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, flag, want string }{
		{"refuses", "-fail-on", "escalated: POST /sleep?level=1&mode=wait: status 500"},
		{"hangs", "-hang-on", "escalated: POST /sleep?level=1&mode=wait: not done after 200ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			command, env := sleeper(t, c.flag, "/sleep")
			r := start(t, engine.Config{Command: command, Env: env, SuspendTimeout: 200 * time.Millisecond})
			r.waitState(ledger.Ready)
			for i := range 3 {
				if err := r.Suspend(t.Context()); err != nil {
					t.Fatalf("Suspend = %v", err)
				}
				tr, want := r.last(ledger.Suspended), c.want
				if i == 2 {
					want = "done"
				}
				if tr.Cause != want || tr.Method != engine.Stop {
					t.Errorf("suspension %d: %+v, want %s by stop", i, tr, want)
				}
				if err := r.Wake(t.Context()); err != nil {
					t.Fatalf("Wake = %v", err)
				}
			}
		})
	}
}

// TestWakesWrong: an engine that cannot be woken, or that answers nonsense when it is,
// is started afresh, and requests that wait are admitted by a process that works.
func TestWakesWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		flags []string
		level int
		want  string
	}{
		{"no JSON", []string{"-garbage", "garbage"}, 1, "canary: POST /v1/completions: the answer is not JSON"},
		{"no choice", []string{"-garbage", `{"choices":[]}`}, 1, "canary: POST /v1/completions: an answer without a choice"},
		{"no text", []string{"-garbage", `{"choices":[{"text":null}]}`}, 1, "canary: POST /v1/completions: an answer without a choice"},
		{"refuses", []string{"-fail-on", "/wake_up"}, 1, "POST /wake_up: status 500"},
		{"hangs", []string{"-hang-on", "/wake_up"}, 1, "POST /wake_up: not done after 300ms"},
		{"level 2: refuses", []string{"-fail-on", "/wake_up"}, 2, "POST /wake_up?tags=weights: status 500"},
		{"level 2: cannot reload", []string{"-fail-on", "/collective_rpc"}, 2, "POST /collective_rpc: status 500"},
		{"level 2: the reload hangs", []string{"-hang-on", "/collective_rpc"}, 2, "POST /collective_rpc: not done after 300ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			command, env := sleeper(t, c.flags...)
			// A hang takes all of the first waiter's patience: the next one is admitted.
			r := start(t, engine.Config{Command: command, Env: env, SleepLevel: c.level, WakeTimeout: 300 * time.Millisecond})
			r.waitState(ledger.Ready)
			if err := r.Suspend(t.Context()); err != nil {
				t.Fatalf("Suspend = %v", err)
			}
			waitWithin(t, bound, "to be admitted", func() bool {
				err := r.Admit(t.Context())
				if err != nil && !errors.Is(err, queue.ErrWakeTimeout) {
					t.Fatalf("Admit = %v", err)
				}
				return err == nil
			})
			r.Release(true)
			if got, want := r.path(), "stopped starting ready suspending suspended waking starting ready"; got != want {
				t.Errorf("path = %q, want %q", got, want)
			}
			if tr := r.last(ledger.Starting); tr.Cause != "wake failed: "+c.want {
				t.Errorf("started because of %q, want %q", tr.Cause, c.want)
			}
		})
	}
}

// TestLevelTwoReads: what the weights held is lost asleep and there again awake.
func TestLevelTwoReads(t *testing.T) {
	t.Parallel()
	command, env := sleeper(t)
	r := start(t, engine.Config{Command: command, Env: env, SleepLevel: 2})
	r.waitState(ledger.Ready)
	ask := func() string {
		answer := r.post("/v1/completions", `{"prompt":"who pays?","max_tokens":4}`)
		_, text, _ := strings.Cut(answer, `"text":`)
		text, _, _ = strings.Cut(text, `,"logprobs"`)
		return text
	}
	before := ask()
	if err := r.Suspend(t.Context()); err != nil {
		t.Fatalf("Suspend = %v", err)
	}
	if err := r.Wake(t.Context()); err != nil {
		t.Fatalf("Wake = %v", err)
	}
	if after := ask(); after != before || len(after) < 10 {
		t.Errorf("after the wake it answers %s, before %s", after, before)
	}
}

// TestWhoGaveUp: waiters that leave are counted apart from those that stay.
func TestWhoGaveUp(t *testing.T) {
	t.Parallel()
	command, env := sleeper(t, "-wake-time", "600ms")
	r := start(t, engine.Config{Command: command, Env: env, Suspend: engine.Sleep})
	r.waitState(ledger.Ready)
	if err := r.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- r.Admit(ctx) }()
	r.waitState(ledger.Waking)
	stayed := make(chan error, 1)
	go func() { stayed <- r.Admit(t.Context()) }()
	waitFor(t, "two waiters", func() bool { _, n := r.Load(); return n == 2 })
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left: %v", err)
	}
	if err := <-stayed; err != nil {
		t.Fatalf("who stayed: %v", err)
	}
	r.Release(true)
	if tr := r.last(ledger.Ready); tr.Waiters != 1 || tr.Abandoned != (queue.Abandoned{Left: 1}) {
		t.Errorf("woken with %+v, want one waiter and one that left", tr)
	}
	if err := r.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Wake(t.Context()); err != nil {
		t.Fatal(err)
	}
	if tr := r.last(ledger.Waking); tr.Cause != "asked" {
		t.Errorf("woken by %q, want asked", tr.Cause)
	}
}

// TestLearns: auto drops a method that woke more slowly than a start takes, under this
// gateway or earlier ones.
func TestLearns(t *testing.T) {
	command, env := sleeper(t)
	for _, c := range []struct {
		name  string
		sleep []time.Duration // wakes under earlier gateways
		want  engine.Method
	}{
		{"nothing", nil, engine.Sleep},
		{"quick", []time.Duration{time.Millisecond}, engine.Sleep},
		{"slow at first", []time.Duration{time.Hour, time.Hour}, engine.Sleep},
		{"slow once", []time.Duration{time.Millisecond, time.Hour, time.Millisecond}, engine.Sleep},
		{"slow as a rule", []time.Duration{time.Hour, time.Millisecond, time.Hour}, engine.Stop},
		{"slow long ago", append([]time.Duration{time.Hour, time.Hour, time.Hour}, make([]time.Duration, 5)...), engine.Sleep},
	} {
		e, err := engine.New(engine.Config{Command: command, Env: env})
		if err != nil {
			t.Fatal(err)
		}
		e.Learn(engine.Stop, time.Minute)
		for _, d := range c.sleep {
			e.Learn(engine.Sleep, d)
		}
		if got := e.Chosen(); got != c.want {
			t.Errorf("%s: auto chooses %s, want %s", c.name, got, c.want)
		}
	}
}

// TestIdentity: the same words are the same engine, others are not, and no word shows.
func TestIdentity(t *testing.T) {
	id := func(cfg engine.Config) string {
		cfg.Env = os.Environ()
		e, err := engine.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return e.Identity()
	}
	command := vllmCommand(t, "--hf-token", "hf_secret")
	one := id(engine.Config{Command: command})
	if again := id(engine.Config{Command: command, Idle: time.Hour, SleepLevel: 1}); again != one {
		t.Errorf("the same engine is %s and %s", one, again)
	}
	for _, other := range []engine.Config{
		{Command: append(command, "--dtype", "half")}, {Command: command, SleepLevel: 2}, {Command: command, Kind: queue.Llama},
	} {
		if id(other) == one {
			t.Errorf("%+v is another engine and has the same identity", other)
		}
	}
	if len(one) != 16 || strings.Contains(one, "secret") {
		t.Errorf("identity %q", one)
	}
}
