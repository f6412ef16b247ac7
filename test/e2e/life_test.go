package e2e_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// slow is a serve over the simulated engine, whose answers take a while.
func slow(t testing.TB, args ...string) *serving {
	t.Helper()
	args = append(args, "--provider", "none", "--engine", "llama", "--",
		program(t), "sim-engine", "-m", "sim.gguf", "-np", "32", "--tokens", "2000", "--delay", "10ms")
	return serve(t, nil, args...).ready()
}

// stream begins a streamed chat and returns after its first token.
func (s *serving) stream() *bufio.Reader {
	s.t.Helper()
	resp, err := http.Post(s.url+"/v1/chat/completions", "application/json",
		strings.NewReader(`{"stream":true,"messages":[{"role":"user","content":"hi"}]}`))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { resp.Body.Close() })
	r := bufio.NewReader(resp.Body)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			s.t.Fatalf("the stream ended before its first token: %v", err)
		}
		if strings.Contains(line, `"content":"`) {
			return r
		}
	}
}

// TestTheEngineIsKilledMidAnswer: the client is told, the tokens are counted,
// and the next request finds a new engine.
func TestTheEngineIsKilledMidAnswer(t *testing.T) {
	s := slow(t)
	r := s.stream()
	for _, p := range descendants(t, s.cmd.Process.Pid) {
		for _, arg := range procFile(p.pid, "cmdline") {
			if arg == "sim-engine" && procFile(p.pid, "cmdline")[1] == "sim-engine" { // not its guard
				if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	rest, err := io.ReadAll(r)
	if err != nil || !strings.Contains(string(rest), `"code":"engine_failed"`) || !strings.HasSuffix(string(rest), "data: [DONE]\n\n") {
		t.Errorf("the stream ended with %.400q, %v", rest[max(0, len(rest)-400):], err)
	}
	if u := s.usage(); u.ByStatus.Failed != 1 || u.CompletionTokens == 0 || u.CompletionTokens == 2000 {
		t.Errorf("report usage = %+v", u)
	}
	eventually(t, 10*time.Second, "the crash is seen", func() bool { return strings.Contains(s.stderr(), `"msg":"engine crashed"`) })
	s.ready()
	if status, _, body := s.post("/v1/completions", `{"prompt":"hi","max_tokens":3}`); status != http.StatusOK {
		t.Errorf("after the restart: %d %s", status, body)
	}
	s.stop()
}

// TestTheSecondSignal does not wait for the answers, and still counts them.
func TestTheSecondSignal(t *testing.T) {
	s := slow(t, "--drain", "1h")
	const running = 20
	var streams []*bufio.Reader
	for range running {
		streams = append(streams, s.stream())
	}
	tree := descendants(t, s.cmd.Process.Pid)
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "serve drains", func() bool { return strings.Contains(s.stderr(), `"msg":"draining"`) })
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for _, r := range streams {
		if rest, err := io.ReadAll(r); err != nil || !strings.Contains(string(rest), `"code":"shutting_down"`) {
			t.Errorf("the stream ended with %.400q, %v", rest[max(0, len(rest)-400):], err)
		}
	}
	select {
	case <-s.exited:
	case <-time.After(20 * time.Second):
		t.Fatal("serve did not end")
	}
	if s.err != nil {
		t.Errorf("serve ended with %v", s.err)
	}
	eventually(t, 2*time.Second, "no process is left", func() bool {
		for _, p := range tree {
			if p.alive() {
				return false
			}
		}
		return true
	})
	if u := s.usage(); u.ByStatus.Failed != running || u.CompletionTokens < running {
		t.Errorf("report usage = %+v", u)
	}
}

// TestASignalAtOnce: also a serve that has hardly begun ends.
func TestASignalAtOnce(t *testing.T) {
	s := serve(t, nil, "--demo")
	s.stop()
}

// TestALostRequest: what ran when the gateway was killed is in the ledger of
// the next one, with the count of its last second.
func TestALostRequest(t *testing.T) {
	path := t.TempDir() + "/ledger.db"
	s := slow(t, "--ledger", path)
	r := s.stream()
	for tokens := 0; tokens < 250; { // at 10 ms a token: saved at least once
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, `"content":"`) {
			tokens++
		}
	}
	s.kill()
	s = slow(t, "--ledger", path)
	if u := s.usage(); u.ByStatus.Lost != 1 || u.CompletionTokens < 50 {
		t.Errorf("report usage = %+v", u)
	}
	if !strings.Contains(s.stderr(), `"msg":"requests were lost when the last serve died"`) {
		t.Error("serve does not say what was lost")
	}
	s.stop()
}

// abandon sends a chat and leaves when the engine is at work on it.
func (s *serving) abandon(body string) {
	s.t.Helper()
	ctx, leave := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	left := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		left <- err
	}()
	eventually(s.t, 10*time.Second, "the engine is at work", func() bool { return s.engineMetrics()["llamacpp:requests_processing"] > 0 })
	leave()
	<-left
}
