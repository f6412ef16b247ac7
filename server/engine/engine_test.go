package engine_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/server/engine"
	"spotinference/server/queue"
)

// get asks the engine for path with its key.
func (r *running) get(path string) (int, string) {
	r.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return r.Dial(ctx) },
	}}
	req, _ := http.NewRequest("GET", "http://engine"+path, nil)
	req.Header.Set("Authorization", "Bearer "+r.Key())
	resp, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestStartReadyStop(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		command []string
		tcp     bool
	}{
		{"llama", llamaCommand(t, "--host", "0.0.0.0", "--port=8080"), false},
		{"llama on TCP", llamaCommand(t), true},
		{"vllm", vllmCommand(t, "--port", "8000"), false},
		{"vllm on TCP", vllmCommand(t), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			gpu := filepath.Join(t.TempDir(), "gpu")
			r := start(t, engine.Config{Command: append(c.command, "-gpu", gpu), TCP: c.tcp})
			s := r.waitState(ledger.Ready)
			if !alive(s.PID) || s.StartedAt.IsZero() || s.Restarts != 0 || s.LastExit != "" {
				t.Errorf("status when ready = %+v", s)
			}
			if code, body := r.get("/v1/models"); code != 200 {
				t.Errorf("models = %d %s", code, body)
			}
			if !gpuHeld(t, gpu) {
				t.Error("the engine does not hold the GPU")
			}
			r.cancel()
			if err := r.wait(); err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
			if alive(s.PID) || gpuHeld(t, gpu) {
				t.Error("the engine runs after Run returned")
			}
			if got, want := r.path(), "stopped starting ready stopped"; got != want {
				t.Errorf("path = %q, want %q", got, want)
			}
			if s := r.Status(); s.State != ledger.Stopped || s.PID != 0 || s.LastExit != "exit status 0" {
				t.Errorf("status when stopped = %+v", s)
			}
			if r.stderr.String() != "" {
				t.Errorf("the log was printed after an orderly stop:\n%s", r.stderr)
			}
			if _, err := r.Dial(t.Context()); !errors.Is(err, engine.ErrNotRunning) {
				t.Errorf("Dial after the end = %v, want ErrNotRunning", err)
			}
		})
	}
}

// TestReplacedFlags: one line tells the user which words of theirs were replaced.
func TestReplacedFlags(t *testing.T) {
	t.Parallel()
	r := start(t, engine.Config{Command: llamaCommand(t, "--host", "0.0.0.0", "--port=8080")})
	r.waitState(ledger.Ready)
	if want := `replaced="--host 0.0.0.0, --port=8080"`; strings.Count(r.log.String(), want) != 1 {
		t.Errorf("the log has %s not once", want)
	}
}

func TestTransitionsTellPhases(t *testing.T) {
	t.Parallel()
	r := start(t, engine.Config{Command: llamaCommand(t, "-load", "150ms")})
	r.waitState(ledger.Ready)
	r.cancel()
	r.wait()
	ready, stopped := r.transitions[1], r.transitions[2]
	if len(ready.Phases) != 2 || ready.Phases[0].Name != "spawn" || ready.Phases[1].Name != "load" ||
		ready.Phases[1].Took < 100*time.Millisecond || ready.PID == 0 {
		t.Errorf("ready = %+v, want phases spawn and load of at least 100ms", ready)
	}
	if len(stopped.Phases) != 2 || stopped.Phases[0].Name != "ready" || stopped.Phases[1].Name != "stop" || stopped.Cause != "shutdown" {
		t.Errorf("stopped = %+v, want phases ready and stop", stopped)
	}
}

func TestCrashRestarts(t *testing.T) {
	t.Parallel()
	gpu := filepath.Join(t.TempDir(), "gpu")
	r := start(t, engine.Config{Command: vllmCommand(t, "-gpu", gpu), Backoff: 10 * time.Millisecond})
	first := r.waitState(ledger.Ready)
	if err := unix.Kill(first.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// A core left behind would hold the GPU, and the next start fail.
	waitFor(t, "the second start", func() bool { s := r.Status(); return s.State == ledger.Ready && s.PID != first.PID })
	s := r.Status()
	if s.Restarts != 1 || s.LastExit != "signal killed" {
		t.Errorf("status after the crash = %+v", s)
	}
	if got, want := r.path(), "stopped starting ready crashed starting ready"; got != want {
		t.Errorf("path = %q, want %q", got, want)
	}
	if !strings.Contains(r.stderr.String(), "engine | ") {
		t.Error("the engine's last lines were not printed after a crash")
	}
	if strings.Contains(r.log.String(), "loading model") {
		t.Error("the engine's log went to ours")
	}
}

// TestBackoffDoubles: each pause is at least twice the one before.
func TestBackoffDoubles(t *testing.T) {
	t.Parallel()
	const backoff = 40 * time.Millisecond
	r := start(t, engine.Config{Command: llamaCommand(t, "-exit-at-start", "3"), Backoff: backoff})
	r.wait()
	var pauses []time.Duration
	for i, tr := range r.transitions {
		if tr.To == ledger.Starting && i > 0 {
			pauses = append(pauses, tr.At.Sub(r.transitions[i-1].At))
		}
	}
	if len(pauses) != 2 || pauses[0] < backoff || pauses[1] < 2*backoff {
		t.Errorf("pauses = %v, want two of at least %v and %v", pauses, backoff, 2*backoff)
	}
}

func TestNeverReady(t *testing.T) {
	t.Parallel()
	r := start(t, engine.Config{Command: llamaCommand(t, "-exit-at-start", "3"), Backoff: time.Millisecond})
	err := r.wait()
	if want := `engine "llama-server" was never ready: exit status 3, 3 times in a row`; err == nil || err.Error() != want {
		t.Fatalf("Run = %v, want %q", err, want)
	}
	if got, want := hint.Of(err), "the engine's last lines are above"; got != want {
		t.Errorf("hint = %q, want %q", got, want)
	}
	if got, want := r.path(), "stopped starting crashed starting crashed starting crashed stopped"; got != want {
		t.Errorf("path = %q, want %q", got, want)
	}
	if !strings.Contains(r.stderr.String(), "error: exit at start") {
		t.Error("the engine's last lines were not printed")
	}
}

func TestNotExecutable(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "llama-server")
	if err := os.WriteFile(bad, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := start(t, engine.Config{Command: []string{bad, "-m", "x"}})
	err := r.wait()
	if err == nil || !strings.Contains(err.Error(), "exec format error") || hint.Of(err) == "" {
		t.Errorf("Run = %v, want exec format error and a hint, at once", err)
	}
	if got := r.Status().State; got != ledger.Stopped {
		t.Errorf("state = %s, want stopped", got)
	}
}

// TestForeignKey: a script that brings its own key makes an engine that nobody of
// ours can ask.
func TestForeignKey(t *testing.T) {
	real := engineLink(t, "llama-server")
	script := filepath.Join(t.TempDir(), "start.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec "+real+" \"$@\" --api-key theirs\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := start(t, engine.Config{Command: []string{script}, Kind: queue.Llama})
	err := r.wait()
	if err == nil || err.Error() != "the engine asks for a key of its own" || hint.Of(err) == "" {
		t.Errorf("Run = %v, want an error about the key, and a hint", err)
	}
}

// TestHungHealth: a socket that is bound and mute is not ready, and ends by the
// start timeout.
func TestHungHealth(t *testing.T) {
	t.Parallel()
	r := start(t, engine.Config{
		Command:      vllmCommand(t, "-load", "1h"),
		StartTimeout: 300 * time.Millisecond,
		Backoff:      time.Hour,
	})
	s := r.waitState(ledger.Crashed)
	if want := "start timeout: it listens and does not answer"; s.LastExit != want {
		t.Errorf("LastExit = %q, want %q", s.LastExit, want)
	}
	r.cancel() // also out of the long pause
	if err := r.wait(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

// TestStopWhileLoading: llama-server dies of SIGTERM then, vLLM stops in order.
func TestStopWhileLoading(t *testing.T) {
	t.Parallel()
	for kind, command := range map[string][]string{
		"signal terminated": llamaCommand(t, "-load", "1h"),
		"exit status 0":     vllmCommand(t, "-load", "1h"),
	} {
		r := start(t, engine.Config{Command: command})
		waitFor(t, "the listener", func() bool {
			conn, err := r.Dial(t.Context())
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		r.cancel()
		if err := r.wait(); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		if got := r.Status().LastExit; got != kind {
			t.Errorf("LastExit = %q, want %q", got, kind)
		}
	}
}

func TestIgnoredSigtermIsKilled(t *testing.T) {
	t.Parallel()
	gpu := filepath.Join(t.TempDir(), "gpu")
	r := start(t, engine.Config{
		Command:   vllmCommand(t, "-ignore-term", "-gpu", gpu),
		StopGrace: 200 * time.Millisecond,
	})
	r.waitState(ledger.Ready)
	asked := time.Now()
	r.cancel()
	r.wait()
	if took := time.Since(asked); took < 200*time.Millisecond || took > 5*time.Second {
		t.Errorf("stopping took %v, want a little more than the grace of 200ms", took)
	}
	if gpuHeld(t, gpu) {
		t.Error("the GPU is held after Run returned")
	}
	if got := r.Status().LastExit; got != "signal killed" {
		t.Errorf("LastExit = %q, want signal killed", got)
	}
}

// TestLogFlood: a great deal of log neither blocks the engine nor stays in memory.
func TestLogFlood(t *testing.T) {
	t.Parallel()
	r := start(t, engine.Config{Command: llamaCommand(t, "-flood", "20000"), Backoff: time.Hour})
	s := r.waitState(ledger.Ready)
	unix.Kill(s.PID, unix.SIGKILL)
	r.waitState(ledger.Crashed)
	waitFor(t, "the last lines", func() bool { return strings.Contains(r.stderr.String(), "flood 19999") })
	if lines := strings.Count(r.stderr.String(), "\n"); lines > 40 {
		t.Errorf("%d lines were printed, want at most 40", lines)
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := start(t, engine.Config{Command: llamaCommand(t), Env: []string{
		"PATH=" + os.Getenv("PATH"), "GORACE=" + os.Getenv("GORACE"), "HOME=" + dir,
		"HF_TOKEN=keep", "AWS_SECRET_ACCESS_KEY=keep", "CUDA_VISIBLE_DEVICES=0", "LLAMA_ARG_CTX_SIZE=2048",
		"SPOTINFERENCE_BUDGET=1", "HYPERSTACK_API_KEY=secret", "RUNPOD_API_KEY=secret", "VERDA_CLIENT_SECRET=secret",
		"LLAMA_API_KEY=theirs", "LLAMA_ARG_PORT=1", "AIP_MODE=PREDICTION",
	}})
	s := r.waitState(ledger.Ready)
	raw, err := os.ReadFile("/proc/" + itoa(s.PID) + "/environ")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.Trim(string(raw), "\x00"), "\x00")
	want := []string{
		"PATH=" + os.Getenv("PATH"), "GORACE=" + os.Getenv("GORACE"), "HOME=" + dir,
		"HF_TOKEN=keep", "AWS_SECRET_ACCESS_KEY=keep", "CUDA_VISIBLE_DEVICES=0", "LLAMA_ARG_CTX_SIZE=2048",
		"LLAMA_API_KEY=" + r.Key(),
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("environment = %q\nwant          %q", got, want)
	}
	cmdline, _ := os.ReadFile("/proc/" + itoa(s.PID) + "/cmdline")
	if strings.Contains(string(cmdline), r.Key()) {
		t.Error("the key is on the command line")
	}
}

// TestNoInheritedFiles: nothing of ours is open in the engine but its three standard
// files, and its output is no non-blocking pipe.
func TestNoInheritedFiles(t *testing.T) {
	leak, err := os.Open("/etc/passwd") // and one that an outer process could have left to us
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	if _, err := unix.FcntlInt(leak.Fd(), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	r := start(t, engine.Config{Command: llamaCommand(t)})
	s := r.waitState(ledger.Ready)
	dir := "/proc/" + itoa(s.PID) + "/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	pipes := 0
	for _, e := range entries {
		link, _ := os.Readlink(filepath.Join(dir, e.Name()))
		if strings.Contains(link, "passwd") || strings.HasPrefix(link, "pipe:") && e.Name() > "2" {
			t.Errorf("fd %s of the engine is %s", e.Name(), link)
		}
		if strings.HasPrefix(link, "pipe:") {
			pipes++
		}
	}
	if pipes != 2 {
		t.Errorf("the engine has %d pipes, want stdout and stderr", pipes)
	}
	flags, err := os.ReadFile("/proc/" + itoa(s.PID) + "/fdinfo/1")
	if err != nil {
		t.Fatal(err)
	}
	var octal int64
	for line := range strings.Lines(string(flags)) {
		if v, ok := strings.CutPrefix(line, "flags:"); ok {
			octal = parseOctal(t, strings.TrimSpace(v))
		}
	}
	if octal&unix.O_NONBLOCK != 0 {
		t.Error("the engine's stdout does not block")
	}
}

// TestStaleSocket: a socket file left by a killed gateway is no obstacle.
func TestStaleSocket(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "engine.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	e, err := engine.New(engine.Config{Command: llamaCommand(t), Dir: dir, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx, engine.Hooks{}) }()
	waitFor(t, "ready", func() bool { return e.Status().State == ledger.Ready })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "engine.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket is there after Run: %v", err)
	}
}

func TestRunDirectory(t *testing.T) {
	open := t.TempDir()
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(engine.Config{Command: llamaCommand(t), Dir: open})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Run(t.Context(), engine.Hooks{}); hint.Of(err) == "" || !strings.Contains(err.Error(), "open to others") {
		t.Errorf("Run in a directory open to others = %v, want an error and a hint", err)
	}

	_, err = engine.New(engine.Config{Command: llamaCommand(t), Dir: "/tmp/" + strings.Repeat("d", 120)})
	if hint.Of(err) == "" || !strings.Contains(err.Error(), "107") {
		t.Errorf("New with a long path = %v, want an error and a hint", err)
	}

	base := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", base)
	e, err = engine.New(engine.Config{Command: llamaCommand(t), Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx, engine.Hooks{}) }()
	waitFor(t, "ready", func() bool { return e.Status().State == ledger.Ready })
	made, _ := filepath.Glob(filepath.Join(base, "spotinference-*", "engine.sock"))
	if len(made) != 1 {
		t.Errorf("sockets under XDG_RUNTIME_DIR = %q, want one", made)
	}
	cancel()
	<-done
	if left, _ := os.ReadDir(base); len(left) != 0 {
		t.Errorf("XDG_RUNTIME_DIR holds %v after Run", left)
	}
}
