package e2e_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"spotinference/test/harness"
)

// nobody is a user without rights: where the tests run as root, serve is run as one,
// and else as who runs them.
const nobody = 65534

// stranger runs a command as the user that serve runs as in the tests of this file.
func stranger(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// openDir is a directory that every user may enter, with the binary in it.
func openDir(t *testing.T) (dir, bin string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "spotinference-open-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bin = filepath.Join(dir, "spotinference")
	if out, err := exec.Command("cp", harness.Program(t), bin).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	return dir, bin
}

// TestTheGatewayIsShielded from other processes of its own, ordinary, user; and works.
func TestTheGatewayIsShielded(t *testing.T) {
	t.Parallel()
	dir, bin := openDir(t)
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(state, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	s := harness.StartCommand(t, stranger(bin, "serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--demo"), state, "SPOTINFERENCE_API_KEY="+harness.Key)
	s.Listens().Ready()
	gateway := s.Cmd.Process.Pid
	for _, name := range []string{"environ", "mem", "maps", "fd"} {
		out, err := stranger("cat", filepath.Join(harness.ProcDir(gateway), name)).CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte("Permission denied")) {
			t.Errorf("%s of the gateway can be read: %v, %d bytes", name, err, len(out))
		}
	}
	limits, err := os.ReadFile(filepath.Join(harness.ProcDir(gateway), "limits"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok && strings.Fields(rest)[0] != "0" {
			t.Errorf("core limit: %s", line)
		}
	}
	// Its children are as any other: the tree must be readable to be ended.
	below := 0
	for _, p := range harness.Descendants(t, gateway) {
		if err := stranger("cat", filepath.Join(harness.ProcDir(p.PID), "environ")).Run(); err == nil {
			below++
		}
	}
	if below < 2 { // guard and engine
		t.Errorf("of what serve started %d can be read, want guard and engine", below)
	}
	s.Stop()
}
