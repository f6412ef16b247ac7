package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests of this package run the real binary, as a process of its own: what
// is killed here is what is killed in service.

// root is the repository, as seen from this folder.
const root = "../.."

var buildDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "spotinference-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// binary builds the program once, with the race detector where the test has it.
var binary = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(buildDir, "spotinference")
	args := []string{"build", "-o", bin}
	if raceDetector {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, root)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

func program(t testing.TB) string {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// serving is one running serve.
type serving struct {
	t      testing.TB
	cmd    *exec.Cmd
	url    string
	ledger string

	exited chan struct{}
	err    error // of Wait; read after exited

	mu  sync.Mutex
	log bytes.Buffer // its stderr; guarded by mu
}

// serve starts the binary and waits until it listens. The ledger is in a
// directory of the test unless args name one.
func serve(t testing.TB, env []string, args ...string) *serving {
	t.Helper()
	return start(t, program(t), env, args...).listens()
}

// listens waits until it does.
func (s *serving) listens() *serving {
	t := s.t
	t.Helper()
	var line struct{ Msg, URL, Ledger string }
	eventually(t, 20*time.Second, "serve listens", func() bool {
		select {
		case <-s.exited:
			t.Fatalf("serve ended: %v\n%s", s.err, s.stderr())
		default:
		}
		for text := range strings.Lines(s.stderr()) {
			if json.Unmarshal([]byte(text), &line) == nil && line.Msg == "listening" {
				return true
			}
		}
		return false
	})
	s.url, s.ledger = line.URL, line.Ledger
	return s
}

// start starts serve and does not wait for it to listen.
func start(t testing.TB, bin string, env []string, args ...string) *serving {
	t.Helper()
	cmd := exec.Command(bin, append([]string{"serve", "--listen", "127.0.0.1:0", "--log-format", "json"}, args...)...)
	return startAs(t, cmd, t.TempDir(), env...)
}

// startAs starts a command that is a serve, with its state in a directory.
func startAs(t testing.TB, cmd *exec.Cmd, state string, env ...string) *serving {
	t.Helper()
	s := &serving{t: t, cmd: cmd, exited: make(chan struct{})}
	s.cmd.Dir = state
	s.cmd.Env = append(cleanEnv(), append([]string{"XDG_STATE_HOME=" + state, "XDG_CONFIG_HOME=" + state}, env...)...)
	pipe, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		r := bufio.NewReader(pipe)
		for {
			line, err := r.ReadBytes('\n')
			s.mu.Lock()
			s.log.Write(line)
			s.mu.Unlock()
			if err != nil {
				break
			}
		}
		s.err = s.cmd.Wait()
		close(s.exited)
	}()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("stderr of serve:\n%s", s.stderr())
		}
	})
	return s
}

func (s *serving) stderr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// ready waits until the engine is ready and the gate is open.
func (s *serving) ready() *serving {
	s.t.Helper()
	eventually(s.t, 60*time.Second, "serve is ready", func() bool {
		select {
		case <-s.exited:
			s.t.Fatalf("serve ended: %v\n%s", s.err, s.stderr())
		default:
		}
		resp, err := http.Get(s.url + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return s
}

// kill is kill -9, and waits for the end of the process.
func (s *serving) kill() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

// stop is SIGTERM, and wants a clean exit.
func (s *serving) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		s.t.Fatal("serve did not end within 30 s of SIGTERM")
	}
	if s.err != nil {
		s.t.Errorf("serve ended with %v after SIGTERM", s.err)
	}
}

// report runs a report against the ledger of s and decodes its JSON.
func (s *serving) report(v any, args ...string) {
	s.t.Helper()
	args = append([]string{"report"}, append(args, "--ledger", s.ledger, "--output", "json")...)
	stdout, stderr, code := command(s.t, nil, args...)
	if code != 0 && code != 3 {
		s.t.Fatalf("spotinference %s: exit %d\n%s", strings.Join(args, " "), code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), v); err != nil {
		s.t.Fatalf("report: %v\n%s", err, stdout)
	}
}

type usageReport struct {
	Requests         int64                                     `json:"requests"`
	PromptTokens     int64                                     `json:"prompt_tokens"`
	CachedTokens     int64                                     `json:"cached_tokens"`
	CompletionTokens int64                                     `json:"completion_tokens"`
	ByStatus         struct{ OK, Aborted, Failed, Lost int64 } `json:"by_status"`
}

func (s *serving) usage() (u usageReport) {
	s.t.Helper()
	s.report(&u, "usage", "--window", "1h")
	return u
}

// post sends a request and returns the whole answer.
func (s *serving) post(path, body string) (status int, header http.Header, answer string) {
	s.t.Helper()
	resp, err := http.Post(s.url+path, "application/json", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// command runs the binary to its end.
func command(t testing.TB, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(program(t), args...)
	cmd.Env = append(cleanEnv(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// cleanEnv is this process's environment without the settings of the program,
// and of its tests.
func cleanEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "SPOTINFERENCE_") })
}

// eventually looks until it is so. The wait is bounded, not timed: a slow
// machine passes too.
func eventually(t testing.TB, limit time.Duration, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
