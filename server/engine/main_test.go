package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/ledger"
	"spotinference/server/engine"
	"spotinference/server/engine/sim"
	"spotinference/server/queue"
)

// TestMain makes this binary everybody that a test needs: the guard, the gateway
// that is killed, and the engines, by the names that their links have.
func TestMain(m *testing.M) {
	name := filepath.Base(os.Args[0])
	switch {
	case strings.HasPrefix(name, "llama-server"), name == "vllm":
		os.Exit(sim.Main(os.Args[1:]))
	case len(os.Args) > 1 && os.Args[1] == "guard":
		os.Exit(engine.Guard(os.Args[2:]))
	case len(os.Args) > 1 && os.Args[1] == "gateway":
		os.Exit(gateway(os.Args[2:]))
	}
	// A program built with -race sleeps for a second when it exits, and our children are.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}

// gateway is a process that runs an engine and tells of each transition on its
// standard output, until it is killed.
func gateway(command []string) int {
	e, err := engine.New(engine.Config{
		Command: command, Record: os.Getenv("TEST_RECORD"), SharePIDs: os.Getenv("TEST_SHARE_PIDS") != "", Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err == nil {
		err = e.Run(context.Background(), engine.Hooks{OnTransition: func(t engine.Transition) { json.NewEncoder(os.Stdout).Encode(t) }})
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// engineLink is this binary under an engine's name.
func engineLink(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// llamaCommand is a simulated llama-server with flags.
func llamaCommand(t *testing.T, flags ...string) []string {
	return append([]string{engineLink(t, "llama-server"), "-m", "test.gguf"}, flags...)
}

// vllmCommand is a simulated vLLM with flags.
func vllmCommand(t *testing.T, flags ...string) []string {
	return append([]string{engineLink(t, "vllm"), "serve", "test/model", "-flavour", "vllm"}, flags...)
}

// running is an engine under test and what it said.
type running struct {
	*engine.Engine
	t      *testing.T
	cancel context.CancelFunc
	done   chan error // Run's result
	log    *lockedBuffer
	stderr *lockedBuffer

	mu          sync.Mutex
	transitions []engine.Transition // guarded by mu
}

// start runs an engine until the test ends.
func start(t *testing.T, cfg engine.Config) *running {
	t.Helper()
	r := &running{t: t, done: make(chan error, 1), log: &lockedBuffer{}, stderr: &lockedBuffer{}}
	cfg.Dir = filepath.Join(t.TempDir(), "run")
	cfg.Stderr = r.stderr
	cfg.Log = slog.New(slog.NewTextHandler(r.log, nil))
	told := func(tr engine.Transition) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.transitions = append(r.transitions, tr)
	}
	var err error
	if r.Engine, err = engine.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.done <- r.Run(ctx, engine.Hooks{OnTransition: told}) }()
	t.Cleanup(func() {
		cancel()
		r.wait()
		if t.Failed() {
			t.Logf("log:\n%s\nengine's last lines:\n%s", r.log, r.stderr)
		}
	})
	return r
}

// wait returns Run's result, and gives it back for who asks next.
func (r *running) wait() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		r.done <- err
		return err
	case <-time.After(30 * time.Second):
		r.t.Error("Run did not return")
		return errors.New("timeout")
	}
}

func (r *running) waitState(want ledger.EngineState) queue.Status {
	r.t.Helper()
	waitFor(r.t, "state "+string(want), func() bool { return r.Status().State == want })
	return r.Status()
}

// path is the transitions so far, as "stopped starting ready".
func (r *running) path() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	path := []string{string(ledger.Stopped)}
	for i, tr := range r.transitions {
		if string(tr.From) != path[i] {
			r.t.Errorf("transition %d is from %s, want %s", i, tr.From, path[i])
		}
		path = append(path, string(tr.To))
	}
	return strings.Join(path, " ")
}

// waitFor polls until ok.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	waitWithin(t, 15*time.Second, what, ok)
}

func waitWithin(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", limit, what)
		}
	}
}

// alive says whether pid runs. A zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	after := stat[bytes.LastIndexByte(stat, ')')+1:]
	return len(after) > 1 && after[1] != 'Z' && after[1] != 'X'
}

// gpuHeld says whether some process holds the simulated GPU's memory.
func gpuHeld(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// lockedBuffer is a buffer that goroutines share.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
