package harness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"spotinference/test/realengine"
)

// Key is the API key of the gateways that have one.
const Key = "sk-test-0123456789abcdef"

// Gateway is one serve, in a process of its own. It is killed when its test ends.
type Gateway struct {
	Cmd    *exec.Cmd
	URL    string // where it listens
	Ledger string // its path

	t      testing.TB
	exited chan struct{}
	err    error // of Wait; read after exited

	mu  sync.Mutex
	log bytes.Buffer // its stderr; guarded by mu
}

// Serve starts the program's serve and waits until it listens. Its ledger is in a
// directory of the test unless args name one.
func Serve(t testing.TB, env []string, args ...string) *Gateway {
	t.Helper()
	return Start(t, Program(t), env, args...).Listens()
}

// ServeReal is a serve in front of a real llama-server that is ready, with Key and
// without a bill. The flags are the engine's.
func ServeReal(t testing.TB, flags ...string) *Gateway {
	t.Helper()
	realengine.Find(t) // before a model is made
	return ServeModel(t, realengine.Model(t), nil, flags...)
}

// ServeModel is ServeReal with another model, and with flags of serve before the engine's.
func ServeModel(t testing.TB, model string, serve []string, engine ...string) *Gateway {
	t.Helper()
	args := append([]string{"--provider", "none"}, serve...)
	args = append(args, "--", realengine.Find(t), "-m", model, "--alias", "tiny", "-t", "1")
	return Serve(t, []string{"SPOTINFERENCE_API_KEY=" + Key}, append(args, engine...)...).Ready()
}

// Start starts the serve of a program and does not wait for it to listen.
func Start(t testing.TB, bin string, env []string, args ...string) *Gateway {
	t.Helper()
	cmd := exec.Command(bin, append([]string{"serve", "--listen", "127.0.0.1:0", "--log-format", "json"}, args...)...)
	return StartCommand(t, cmd, t.TempDir(), env...)
}

// StartCommand starts a command that is a serve, with its state in a directory.
func StartCommand(t testing.TB, cmd *exec.Cmd, state string, env ...string) *Gateway {
	t.Helper()
	g := &Gateway{t: t, Cmd: cmd, exited: make(chan struct{})}
	g.Cmd.Dir = state
	g.Cmd.Env = append(Env(), append([]string{"XDG_STATE_HOME=" + state, "XDG_CONFIG_HOME=" + state, "SPOTINFERENCE_DEMO_LOAD=off"}, env...)...)
	pipe, err := g.Cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		r := bufio.NewReader(pipe)
		for {
			line, err := r.ReadBytes('\n')
			g.mu.Lock()
			g.log.Write(line)
			g.mu.Unlock()
			if err != nil {
				break
			}
		}
		g.err = g.Cmd.Wait()
		close(g.exited)
	}()
	t.Cleanup(func() {
		g.Kill()
		if t.Failed() {
			t.Logf("stderr of serve:\n%s", g.Stderr())
		}
	})
	return g
}

// eventually asks until it is so, or serve has ended.
func (g *Gateway) eventually(what string, is func() bool) {
	g.t.Helper()
	Eventually(g.t, what, func() bool {
		select {
		case <-g.exited:
			g.t.Fatalf("%s: serve ended: %v\n%s", what, g.err, g.Stderr())
		default:
		}
		return is()
	})
}

// Listens waits until it does.
func (g *Gateway) Listens() *Gateway {
	g.t.Helper()
	g.eventually("serve listens", func() bool {
		line := g.Logged("listening")
		g.URL, _ = line["url"].(string)
		g.Ledger, _ = line["ledger"].(string)
		return line != nil
	})
	return g
}

// Ready waits until the engine is ready and the gate is open.
func (g *Gateway) Ready() *Gateway {
	g.t.Helper()
	g.eventually("serve is ready", func() bool {
		resp, err := http.Get(g.URL + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return g
}

// Stderr is what it has logged.
func (g *Gateway) Stderr() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.String()
}

// Logged finds the newest line of the log with a message; nil where there is none.
func (g *Gateway) Logged(msg string) (line map[string]any) {
	for text := range strings.Lines(g.Stderr()) {
		var l map[string]any
		if json.Unmarshal([]byte(text), &l) == nil && l["msg"] == msg {
			line = l
		}
	}
	return line
}

// Logs waits until the log holds text.
func (g *Gateway) Logs(text string) {
	g.t.Helper()
	Eventually(g.t, "the log says "+text, func() bool { return strings.Contains(g.Stderr(), text) })
}

// Kill is kill -9, and waits for the end of the process.
func (g *Gateway) Kill() {
	_ = g.Cmd.Process.Kill()
	<-g.exited
}

// Signal sends it a signal.
func (g *Gateway) Signal(sig syscall.Signal) {
	g.t.Helper()
	if err := g.Cmd.Process.Signal(sig); err != nil {
		g.t.Fatal(err)
	}
}

// Stop is SIGTERM, and wants a clean exit.
func (g *Gateway) Stop() {
	g.t.Helper()
	g.Signal(syscall.SIGTERM)
	if err := g.Wait(); err != nil {
		g.t.Errorf("serve ended with %v after SIGTERM", err)
	}
}

// Wait waits for its end.
func (g *Gateway) Wait() error {
	g.t.Helper()
	select {
	case <-g.exited:
	case <-time.After(Patience):
		g.t.Fatalf("serve did not end within %s", Patience)
	}
	return g.err
}

// Descendants lists every process below it.
func (g *Gateway) Descendants() []Process {
	g.t.Helper()
	return Descendants(g.t, g.Cmd.Process.Pid)
}

// Get asks for a page and returns its text.
func (g *Gateway) Get(path string) string {
	g.t.Helper()
	resp, err := http.Get(g.URL + path)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(b)
}

// Shows waits until the metrics page has a line.
func (g *Gateway) Shows(line string) {
	g.t.Helper()
	g.eventually("the metrics show "+line, func() bool {
		return strings.Contains(g.Get("/metrics"), "\n"+line+"\n")
	})
}

// Post sends a request without a key and returns the whole answer.
func (g *Gateway) Post(path, body string) (status int, header http.Header, answer string) {
	g.t.Helper()
	return g.PostAs("", path, body)
}

// PostAs sends a request with a key, unless that is empty, and returns the whole answer.
func (g *Gateway) PostAs(key, path, body string) (status int, header http.Header, answer string) {
	g.t.Helper()
	req, err := http.NewRequest(http.MethodPost, g.URL+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// Report runs a report against its ledger and decodes the report's JSON.
func (g *Gateway) Report(v any, args ...string) {
	g.t.Helper()
	args = append([]string{"report"}, append(args, "--ledger", g.Ledger, "--output", "json")...)
	stdout, stderr, code := Command(g.t, nil, args...)
	if code != 0 && code != 3 {
		g.t.Fatalf("spotinference %s: exit %d\n%s", strings.Join(args, " "), code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), v); err != nil {
		g.t.Fatalf("report: %v\n%s", err, stdout)
	}
}

// Usage is what report usage says.
type Usage struct {
	Requests         int64                                     `json:"requests"`
	PromptTokens     int64                                     `json:"prompt_tokens"`
	CachedTokens     int64                                     `json:"cached_tokens"`
	CompletionTokens int64                                     `json:"completion_tokens"`
	ByStatus         struct{ OK, Aborted, Failed, Lost int64 } `json:"by_status"`
}

// Usage is the last hour's.
func (g *Gateway) Usage() (u Usage) {
	g.t.Helper()
	g.Report(&u, "usage", "--window", "1h")
	return u
}
