package engine_test

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/ledger"
	"spotinference/server/engine"
)

func itoa(n int) string { return strconv.Itoa(n) }

func parseOctal(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 8, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// treeCommands are engines with a tree below them, each harder to catch.
func treeCommands(t *testing.T) map[string][]string {
	return map[string][]string{
		"llama":             llamaCommand(t),
		"vllm":              vllmCommand(t),
		"vllm with escapee": vllmCommand(t, "-escape"),
	}
}

// TestGatewayKilled: SIGKILL of the gateway leaves no process of the engine.
func TestGatewayKilled(t *testing.T) {
	t.Parallel()
	for name, command := range treeCommands(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gpu := filepath.Join(t.TempDir(), "gpu")
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(self, append(append([]string{"gateway"}, command...), "-gpu", gpu)...)
			runtime := t.TempDir()
			cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+runtime)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			var ready engine.Transition
			for lines := bufio.NewScanner(out); ready.To != ledger.Ready && lines.Scan(); {
				if err := json.Unmarshal(lines.Bytes(), &ready); err != nil {
					t.Fatal(err)
				}
			}
			if ready.To != ledger.Ready || !alive(ready.PID) || !gpuHeld(t, gpu) {
				t.Fatalf("the engine is not ready: %+v", ready)
			}
			tree := processesUsing(gpu)
			cmd.Process.Kill()
			cmd.Wait()
			waitWithin(t, 2*time.Second, "the GPU to be free", func() bool { return !gpuHeld(t, gpu) })
			waitWithin(t, 2*time.Second, "the tree to be gone", func() bool { return len(processesUsing(gpu)) == 0 })
			if left, err := os.ReadDir(runtime); err != nil || len(left) > 0 {
				t.Errorf("left in the runtime directory: %v, %v", left, err)
			}
			if len(tree) < 2 { // at least the guard and the engine
				t.Errorf("the tree had %d processes", len(tree))
			}
		})
	}
}

// processesUsing are the processes, guards included, that name path in their command.
func processesUsing(path string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		cmdline, err := os.ReadFile(f)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err == nil && strings.Contains(string(cmdline), path) && alive(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestGuardKilled: without its guard the tree is swept up, and started again.
func TestGuardKilled(t *testing.T) {
	t.Parallel()
	for name, command := range treeCommands(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gpu := filepath.Join(t.TempDir(), "gpu")
			r := start(t, engine.Config{Command: append(command, "-gpu", gpu), Backoff: 10 * time.Millisecond})
			first := r.waitState(ledger.Ready)
			before := processesUsing(gpu)
			unix.Kill(guardOf(t, first.PID), unix.SIGKILL)
			waitFor(t, "the second start", func() bool {
				s := r.Status()
				return s.State == ledger.Ready && s.PID != first.PID
			})
			if got := r.Status().LastExit; got != "guard lost" {
				t.Errorf("LastExit = %q, want guard lost", got)
			}
			for _, pid := range before {
				if alive(pid) {
					t.Errorf("process %d of the first tree lives", pid)
				}
				if _, err := os.Stat("/proc/" + itoa(pid)); err == nil {
					t.Errorf("process %d of the first tree was not reaped", pid)
				}
			}
		})
	}
}

// guardOf is the guard of an engine's leader: its parent, or that of the first process of its
// namespace.
func guardOf(t *testing.T, leader int) int {
	t.Helper()
	pid := parent(t, leader)
	if cmdline, err := os.ReadFile("/proc/" + itoa(pid) + "/cmdline"); err == nil && strings.Contains(string(cmdline), "\x00--init\x00") {
		return parent(t, pid)
	}
	return pid
}

func parent(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile("/proc/" + itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "PPid:"); ok {
			ppid, _ := strconv.Atoi(strings.TrimSpace(v))
			return ppid
		}
	}
	t.Fatal("no PPid")
	return 0
}

// TestLeaderKilled: a core that left group and session dies with its leader.
func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	gpu := filepath.Join(t.TempDir(), "gpu")
	r := start(t, engine.Config{Command: vllmCommand(t, "-escape", "-gpu", gpu), Backoff: time.Hour})
	s := r.waitState(ledger.Ready)
	unix.Kill(s.PID, unix.SIGKILL)
	r.waitState(ledger.Crashed)
	waitWithin(t, 2*time.Second, "the GPU to be free", func() bool { return !gpuHeld(t, gpu) })
}

// TestGuardIgnoresSignals: what a terminal or an init system sends to everybody does
// not end the guard, and the engine gets none of it.
func TestGuardIgnoresSignals(t *testing.T) {
	t.Parallel()
	r := start(t, engine.Config{Command: llamaCommand(t)})
	s := r.waitState(ledger.Ready)
	guard := guardOf(t, s.PID)
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE} {
		unix.Kill(guard, sig)
	}
	if code, _ := r.get("/health"); code != 200 {
		t.Errorf("health = %d", code)
	}
	if !alive(guard) || !alive(s.PID) || r.Status().State != ledger.Ready {
		t.Error("a signal to the guard ended it or the engine")
	}
	if pgid, _ := unix.Getpgid(s.PID); pgid != s.PID {
		t.Errorf("the engine's group is %d, want its own, %d", pgid, s.PID)
	}
	ours, _ := unix.Getsid(0)
	if theirs, _ := unix.Getsid(s.PID); theirs != guard || theirs == ours {
		t.Errorf("the engine's session is %d, want the guard's, %d", theirs, guard)
	}
}

// TestGuardByHand: it refuses to run without its pipes.
func TestGuardByHand(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(self, "guard", "--", "/bin/true").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not by hand") {
		t.Errorf("guard by hand = %q, %v, want a refusal", out, err)
	}
}
