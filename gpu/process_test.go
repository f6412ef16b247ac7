package gpu

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is the children of its own tests, by its name or first word.
func TestMain(m *testing.M) {
	role := filepath.Base(os.Args[0])
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	switch role {
	case helperName: // says its environment, and ends with its stdin
		fmt.Println(strings.Join(os.Environ(), " "))
		_, _ = io.Copy(io.Discard, os.Stdin)
		syscall.Exit(0) // at once: os.Exit waits for the race detector
	case "deaf": // to the end of its stdin
		fmt.Println(os.Getpid())
		time.Sleep(time.Hour) // select{} would be seen as a deadlock
	case "fails":
		fmt.Fprintln(os.Stderr, "undefined symbol: nvmlInit\nand where")
		os.Exit(127)
	case "endless":
		for {
			fmt.Print(strings.Repeat("x", 4096))
		}
	case "undumpable": // starts itself from memory
		image, err := os.ReadFile("/proc/self/exe")
		if err == nil {
			err = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
		}
		var c *child
		if err == nil {
			c, err = startFromMemory(image, []string{helperName})
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		<-c.lines()
		fmt.Println("started")
		_ = c.end()
		os.Exit(0)
	case "gateway": // has a deaf child, and waits to be killed
		c, err := startChild(self("deaf"))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Printf("%s\n", <-c.lines())
		time.Sleep(time.Hour)
	}
	dir, err := os.MkdirTemp("", "spotinference-gpu-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// buildDir is where programs are built; it is removed after the tests.
var buildDir string

func self(role string) *exec.Cmd { return exec.Command("/proc/self/exe", role) }

func startSelf(t *testing.T, role string) *child {
	t.Helper()
	c, err := startChild(self(role))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestStartImage(t *testing.T) {
	image, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv("SPOTINFERENCE_API_KEY", "secret")
	t.Setenv("LD_LIBRARY_PATH", "/opt/driver")
	forbidden := func([]byte, []string) (*child, error) { return nil, errors.New("forbidden") }
	for _, c := range []struct {
		name string
		ways []way
		exe  string
	}{
		{"from memory", []way{startFromMemory, forbidden}, "/memfd:" + helperName},
		{"from a file", []way{forbidden, startFromFile}, dir},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := startImage(image, []string{helperName}, c.ways...)
			if err != nil {
				t.Fatal(err)
			}
			env := string(<-p.lines())
			exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.cmd.Process.Pid))
			if err != nil || !strings.HasPrefix(exe, c.exe) {
				t.Errorf("runs from %q, %v, want %s", exe, err, c.exe)
			}
			if strings.Contains(env, "secret") || !strings.Contains(env, "LD_LIBRARY_PATH=/opt/driver") {
				t.Errorf("environment %q", env)
			}
			if err := p.end(); err == nil || err.Error() != "exit status 0" {
				t.Errorf("end: %v, want exit status 0: its stdin ended", err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left in the run directory: %v, %v", left, err)
			}
		})
	}
	if _, err := startImage(image, []string{helperName}, forbidden, forbidden); err == nil {
		t.Error("started though every way is forbidden")
	}
	if _, err := startImage([]byte("no program"), []string{helperName}, startFromMemory, startFromFile); err == nil {
		t.Error("started what is no program")
	}
}

func TestChildEnds(t *testing.T) {
	for _, c := range []struct{ role, want string }{
		{"deaf", "signal: killed"},
		{"fails", "exit status 127: undefined symbol: nvmlInit"},
		{"endless", "read its output: bufio.Scanner: token too long"},
	} {
		t.Run(c.role, func(t *testing.T) {
			p := startSelf(t, c.role)
			line, ok := <-p.lines()
			if ok != (c.role == "deaf") {
				t.Errorf("line %s, %t", excerpt(line), ok)
			}
			if err := p.end(); err == nil || err.Error() != c.want {
				t.Errorf("end: %v, want %s", err, c.want)
			}
			if _, ok := <-p.lines(); ok {
				t.Error("lines after its end")
			}
		})
	}
}

// A child that hears nothing does not outlive a gateway that is killed.
func TestChildDiesWithUs(t *testing.T) {
	gateway := self("gateway")
	out, err := gateway.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if !runs(pid) {
		t.Fatalf("process %d does not run", pid)
	}
	_ = gateway.Process.Kill()
	_ = gateway.Wait()
	await(t, "the child is gone", func() bool { return !runs(pid) })
}

// runs tells whether a process is there, and no zombie.
func runs(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return syscall.Kill(pid, 0) == nil
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

// await looks until it is so. The wait is bounded, not timed.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not so", what)
		}
	}
}

// An nvidia-smi of a driver before 535, as a script: it refuses a field, and then
// answers without it.
func TestNvidiaSMI(t *testing.T) {
	dir := t.TempDir()
	script := `#!/bin/sh
case "$*" in
*clocks_event_reasons.active*) echo 'Field "clocks_event_reasons.active" is not a valid field to query.'; echo; exit 2 ;;
*--format=csv,noheader,nounits\ --loop=1) ;;
*) echo "unexpected $*"; exit 1 ;;
esac
echo '1, 0, GPU-a, Tesla T4, 470.57.02, 12, 100, 15360, 27.31, 70.00, 40, 585, 5000, 0x0000000000000001, [N/A], [N/A]'
read rest
exec sleep 60
`
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	m := newMonitor(Config{Log: slog.New(slog.DiscardHandler)}, []source{newSMI()})
	done := make(chan error)
	ctx := t.Context()
	go func() { done <- m.Run(ctx, Hooks{}) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	await(t, "nvidia-smi is read", func() bool { return m.Latest().Source == SMI })
	s := m.Latest()
	if c := s.Cards[0]; c.UUID != "GPU-a" || *c.Power != 27310 || *c.EventReasons != 1 || c.ECCCorrected != nil || c.Energy != nil || c.Processes != nil {
		t.Errorf("reading %+v", c)
	}
}

// TestStartFromMemoryUndumpable: a process that cannot be dumped does not own its
// /proc, yet starts the helper from there, as an ordinary user, too.
func TestStartFromMemoryUndumpable(t *testing.T) {
	image, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "spotinference-open-") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "gateway")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(bin, image, 0o755)); err != nil {
		t.Fatal(err)
	}
	users := []*syscall.Credential{nil}
	if os.Geteuid() == 0 {
		users = append(users, &syscall.Credential{Uid: 65534, Gid: 65534})
	}
	for _, u := range users {
		cmd := exec.Command(bin, "undumpable")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), "started\n") {
			t.Errorf("as %v: %v, %s", u, err, out)
		}
	}
}
