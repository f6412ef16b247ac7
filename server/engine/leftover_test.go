package engine_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/ledger"
	"spotinference/server/engine"
)

// scripted puts an engine's command behind a shell script that stays its parent. redirected:
// the script takes the engine's output, and its session.
func scripted(t *testing.T, command []string, redirected bool) []string {
	t.Helper()
	script := filepath.Join(t.TempDir(), filepath.Base(command[0]))
	run := fmt.Sprintf("%q \"$@\"", command[0])
	if redirected {
		run = "setsid --wait " + run + " >/dev/null 2>&1 </dev/null"
	}
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"+run+"\nexit $?\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return append([]string{script}, command[1:]...)
}

// startGateway starts a gateway in a process of its own, and returns when its engine is
// ready.
func startGateway(t *testing.T, record string, command []string, env ...string) (cmd *exec.Cmd, ready engine.Transition, log *lockedBuffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log = &lockedBuffer{}
	cmd = exec.Command(self, append([]string{"gateway"}, command...)...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir(), "TEST_RECORD="+record)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for lines := bufio.NewScanner(out); ready.To != ledger.Ready && lines.Scan(); {
		if err := json.Unmarshal(lines.Bytes(), &ready); err != nil {
			t.Fatal(err)
		}
	}
	if ready.To != ledger.Ready {
		t.Fatalf("the engine is not ready: %+v\n%s", ready, log)
	}
	return cmd, ready, log
}

// TestGatewayAndGuardKilled together, with an engine behind a script: the next start ends
// what is left before it starts an engine, and says so.
func TestGatewayAndGuardKilled(t *testing.T) {
	t.Parallel()
	commands := treeCommands(t)
	for name, command := range map[string][]string{
		"llama":              scripted(t, commands["llama"], false),
		"vllm":               scripted(t, commands["vllm"], false),
		"vllm with escapee":  scripted(t, commands["vllm with escapee"], false),
		"in another session": scripted(t, commands["llama"], true),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gpu, record := filepath.Join(t.TempDir(), "gpu"), filepath.Join(t.TempDir(), "ledger.db.engine")
			command := append(command, "-gpu", gpu)
			first, ready, _ := startGateway(t, record, command, "TEST_SHARE_PIDS=1")
			if st, err := os.Stat(record); err != nil || st.Mode().Perm() != 0o600 {
				t.Fatalf("the record: %v, %v", st, err)
			}
			tree := processesUsing(gpu)
			// The gateway would see the guard die, and the guard the gateway.
			unix.Kill(first.Process.Pid, unix.SIGSTOP)
			unix.Kill(guardOf(t, ready.PID), unix.SIGKILL)
			first.Process.Kill()
			first.Wait()
			waitWithin(t, 2*time.Second, "the script to die", func() bool { return !alive(ready.PID) })
			left := 0
			for _, pid := range tree {
				if alive(pid) {
					left++
				}
			}
			second, _, log := startGateway(t, record, command)
			for _, pid := range tree {
				if alive(pid) {
					t.Errorf("process %d of the first tree lives", pid)
				}
			}
			const said = "an engine of an earlier spotinference was still running, and was ended"
			if left > 0 != strings.Contains(log.String(), said) {
				t.Errorf("%d were left, and it says:\n%s", left, log)
			}
			if left == 0 {
				t.Errorf("none of %d processes was left: the test shows nothing", len(tree))
			}
			second.Process.Kill()
			second.Wait()
			waitWithin(t, 2*time.Second, "the tree to be gone", func() bool { return len(processesUsing(gpu)) == 0 })
		})
	}
}

// TestNothingIsLeftInANamespace: where the engine may have a pid namespace, gateway and guard
// killed together take it with them, whatever stands between.
func TestNothingIsLeftInANamespace(t *testing.T) {
	t.Parallel()
	if !mayHaveNamespace() {
		t.Skip("no pid namespace can be made here: see TestGatewayAndGuardKilled")
	}
	commands := treeCommands(t)
	for name, command := range map[string][]string{
		"llama":              scripted(t, commands["llama"], false),
		"vllm with escapee":  scripted(t, commands["vllm with escapee"], false),
		"in another session": scripted(t, commands["llama"], true),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gpu := filepath.Join(t.TempDir(), "gpu")
			first, ready, _ := startGateway(t, filepath.Join(t.TempDir(), "record"), append(command, "-gpu", gpu))
			if n := len(processesUsing(gpu)); n < 4 || !alive(ready.PID) {
				t.Fatalf("%d processes, the leader is alive: %v", n, alive(ready.PID))
			}
			unix.Kill(first.Process.Pid, unix.SIGSTOP)
			unix.Kill(guardOf(t, ready.PID), unix.SIGKILL)
			first.Process.Kill()
			first.Wait()
			waitWithin(t, 2*time.Second, "the tree to be gone", func() bool { return len(processesUsing(gpu)) == 0 && !gpuHeld(t, gpu) })
		})
	}
}

func mayHaveNamespace() bool {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	return os.Geteuid() == 0 && cmd.Run() == nil
}

// TestANamespaceShowsItsOwnPIDs: an engine finds itself in /proc by the pid that it sees.
func TestANamespaceShowsItsOwnPIDs(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "llama-server")
	out := filepath.Join(t.TempDir(), "out")
	text := fmt.Sprintf("#!/bin/sh\ntr '\\0' ' ' </proc/$$/cmdline >%q\nexec %q \"$@\"\n", out, engineLink(t, "llama-server"))
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	r := start(t, engine.Config{Command: []string{script, "-m", "test.gguf"}})
	s := r.waitState(ledger.Ready)
	if cmdline, err := os.ReadFile(out); err != nil || !strings.Contains(string(cmdline), script) {
		t.Errorf("it takes %q for itself, %v", cmdline, err)
	}
	if cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.PID)); err != nil || !strings.Contains(string(cmdline), "test.gguf") {
		t.Errorf("we take %q for it, %v", cmdline, err)
	}
}

// TestARecordThatSaysNothing: of another boot, of processes that have ended, not ours alone,
// or no record at all. Nobody is killed, and the engine starts.
func TestARecordThatSaysNothing(t *testing.T) {
	t.Parallel()
	bystander := exec.Command("sleep", "100")
	bystander.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer bystander.Wait()
	defer bystander.Process.Kill()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	here := strings.TrimSpace(string(boot)) + " " + ns
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"another boot":         {fmt.Sprintf(`{"boot":"x","run":"abc","guard":%d,"start":1,"pipe":"pipe:[1]"}`, bystander.Process.Pid), 0o600},
		"another's pid by now": {fmt.Sprintf(`{"boot":%q,"run":"abc","guard":%d,"start":1,"pipe":"pipe:[1]"}`, here, bystander.Process.Pid), 0o600},
		"not ours alone":       {fmt.Sprintf(`{"boot":%q,"run":"abc","guard":%d,"start":1,"pipe":"pipe:[1]"}`, here, bystander.Process.Pid), 0o666},
		"nothing in it":        {`{}`, 0o600},
		"no JSON":              {`x`, 0o600},
	} {
		record := filepath.Join(t.TempDir(), "record")
		if err := os.WriteFile(record, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(record, c.mode); err != nil {
			t.Fatal(err)
		}
		r := start(t, engine.Config{Command: llamaCommand(t), Record: record})
		r.waitState(ledger.Ready)
		if !alive(bystander.Process.Pid) {
			t.Fatalf("%s: a bystander was killed", name)
		}
		r.cancel()
		r.wait()
		if _, err := os.Stat(record); !os.IsNotExist(err) {
			t.Errorf("%s: the record after an orderly end: %v", name, err)
		}
	}
}
