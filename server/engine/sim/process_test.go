package sim

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain makes this binary the simulator too, as a hidden command of it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "sim-engine" {
		os.Exit(Main(os.Args[2:]))
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or our children sleep for a second each
	os.Exit(m.Run())
}

// process is a simulated engine of its own.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	client *http.Client
	gpu    string
}

func startProcess(t *testing.T, gpu string, flags ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "e.sock")
	args := append([]string{"sim-engine", "-gpu", gpu, "--host", socket, "--uds", socket}, flags...)
	p := &process{t: t, cmd: exec.Command(self, args...), gpu: gpu}
	p.cmd.Env = append(os.Environ(), "VLLM_SERVER_DEV_MODE=1")
	p.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		if pid := holder(gpu); pid > 0 {
			unix.Kill(pid, unix.SIGKILL)
		}
	})
	return p
}

// ask sends one request and returns the status, or 0.
func (p *process) ask(method, path, body string) (int, string) {
	req, _ := http.NewRequest(method, "http://engine"+path, strings.NewReader(body))
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer)
}

func (p *process) waitHealth(want int) {
	p.t.Helper()
	waitFor(p.t, fmt.Sprint("health ", want), func() bool {
		code, _ := p.ask("GET", "/health", "")
		return code == want
	})
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10s for %s", what)
		}
	}
}

// holder is the process that has the GPU's memory, by the kernel's table of locks.
func holder(gpu string) int {
	var st unix.Stat_t
	if unix.Stat(gpu, &st) != nil {
		return 0
	}
	locks, _ := os.ReadFile("/proc/locks")
	for line := range strings.Lines(string(locks)) {
		f := strings.Fields(line)
		if len(f) > 5 && f[1] == "FLOCK" && strings.HasSuffix(f[5], fmt.Sprintf(":%d", st.Ino)) {
			var pid int
			fmt.Sscan(f[4], &pid)
			return pid
		}
	}
	return 0
}

// TestParentKilled: SIGKILL of vLLM's server alone leaves the GPU held, and the next
// start fails; llama-server is one process.
func TestParentKilled(t *testing.T) {
	t.Parallel()
	for _, flags := range [][]string{
		{"-flavour", "vllm"},
		{"-flavour", "vllm", "-escape"},
	} {
		gpu := filepath.Join(t.TempDir(), "gpu")
		p := startProcess(t, gpu, flags...)
		p.waitHealth(200)
		core := holder(gpu)
		p.cmd.Process.Kill()
		p.cmd.Wait()
		if core == 0 || core == p.cmd.Process.Pid || holder(gpu) != core {
			t.Errorf("%q: the GPU was held by %d, and by %d after the death of %d", flags, core, holder(gpu), p.cmd.Process.Pid)
		}
		ours, _ := unix.Getsid(0)
		if session, _ := unix.Getsid(core); (session != ours) != (len(flags) == 3) {
			t.Errorf("%q: the core's session is %d, ours %d", flags, session, ours)
		}
		second := startProcess(t, gpu, "-flavour", "llama")
		if err := second.cmd.Wait(); err == nil || second.cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%q: the second start = %v, want exit status 1", flags, err)
		}
	}
	gpu := filepath.Join(t.TempDir(), "gpu")
	p := startProcess(t, gpu)
	p.waitHealth(200)
	p.cmd.Process.Kill()
	p.cmd.Wait()
	if holder(gpu) != 0 {
		t.Error("llama's GPU is held after its death")
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	f := func(health int, want string, flags ...string) {
		t.Helper()
		p := startProcess(t, filepath.Join(t.TempDir(), "gpu"), flags...)
		if health > 0 {
			p.waitHealth(health)
		} else {
			waitFor(t, "the core", func() bool { return holder(p.gpu) > 0 })
		}
		p.cmd.Process.Signal(unix.SIGTERM)
		p.cmd.Wait()
		if got := p.cmd.ProcessState.String(); got != want {
			t.Errorf("%q ended by SIGTERM with %s, want %s", flags, got, want)
		}
		waitFor(t, "the GPU", func() bool { return holder(p.gpu) == 0 })
	}
	f(503, "signal: terminated", "-load", "1h")
	f(200, "exit status 0")
	f(0, "exit status 0", "-flavour", "vllm", "-load", "1h")
	f(200, "exit status 0", "-flavour", "vllm")
	f(200, "exit status 0", "-flavour", "vllm", "-escape")
}

// TestCoreKilled: a server without its core ends by itself.
func TestCoreKilled(t *testing.T) {
	t.Parallel()
	p := startProcess(t, filepath.Join(t.TempDir(), "gpu"), "-flavour", "vllm")
	p.waitHealth(200)
	unix.Kill(holder(p.gpu), unix.SIGKILL)
	if err := p.cmd.Wait(); err == nil || p.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("the server ended with %v, want exit status 1", err)
	}
}

func TestSleep(t *testing.T) {
	t.Parallel()
	p := startProcess(t, filepath.Join(t.TempDir(), "gpu"), "-flavour", "vllm", "--enable-sleep-mode", "-crash-on-request-while-asleep")
	p.waitHealth(200)
	core := holder(p.gpu)
	defer unix.Kill(core, unix.SIGKILL) // asleep it holds nothing by which the clean-up could find it
	f := func(method, path string, code int, want string) {
		t.Helper()
		if got, body := p.ask(method, path, ""); got != code || body != want {
			t.Errorf("%s %s = %d %s, want %d %s", method, path, got, body, code, want)
		}
	}
	f("GET", "/is_sleeping", 200, `{"is_sleeping":false}`)
	f("POST", "/sleep?level=1", 200, "")
	f("GET", "/is_sleeping", 200, `{"is_sleeping":true}`)
	f("GET", "/health", 200, "")
	if holder(p.gpu) != 0 {
		t.Error("the GPU is held asleep")
	}
	f("POST", "/wake_up", 200, "")
	if holder(p.gpu) == 0 {
		t.Error("the GPU is not held awake")
	}
	if code, body := p.ask("POST", "/v1/completions", `{"prompt":"a"}`); code != 200 {
		t.Errorf("completion awake = %d %s", code, body)
	}
	f("POST", "/sleep", 200, "")
	p.ask("POST", "/v1/completions", `{"prompt":"a"}`)
	if err := p.cmd.Wait(); err == nil {
		t.Error("a request met a sleeping engine and it lives")
	}
}

// TestSleepLevelTwo: what the weights held is gone until it is read again, and cannot be
// read before there is room for it.
func TestSleepLevelTwo(t *testing.T) {
	t.Parallel()
	p := startProcess(t, filepath.Join(t.TempDir(), "gpu"), "-flavour", "vllm", "--enable-sleep-mode")
	p.waitHealth(200)
	core := holder(p.gpu)
	defer unix.Kill(core, unix.SIGKILL)
	ask := func(path, body string, code int) string {
		t.Helper()
		got, answer := p.ask("POST", path, body)
		if got != code {
			t.Errorf("POST %s = %d %s, want %d", path, got, answer, code)
		}
		return answer
	}
	const reload = `{"method":"reload_weights"}`
	says := func(word string) bool {
		return strings.Contains(ask("/v1/completions", `{"prompt":"a","max_tokens":2}`, 200), `"text":"`+word)
	}
	ask("/sleep?level=0", "", 200)
	if holder(p.gpu) == 0 {
		t.Error("level 0 lets the GPU go")
	}
	ask("/sleep", `{"level":2}`, 200) // a body is ignored: level 1
	ask("/wake_up", "", 200)
	if says("!!") {
		t.Error("level 1 drops the weights")
	}
	ask("/sleep?level=2", "", 200)
	ask("/collective_rpc", reload, 500)
	ask("/wake_up?tags=weights", "", 200)
	if _, body := p.ask("GET", "/is_sleeping", ""); body != `{"is_sleeping":true}` {
		t.Errorf("without its cache: %s", body)
	}
	ask("/wake_up?tags=kv_cache", "", 200)
	if !says("!!") {
		t.Error("weights that hold nothing speak")
	}
	ask("/collective_rpc", `{"method":"no_such"}`, 500)
	if got := ask("/collective_rpc", reload, 200); got != `{"results":[null]}` {
		t.Errorf("the reload answers %s", got)
	}
	if says("!!") {
		t.Error("weights that were read again hold nothing")
	}
}
