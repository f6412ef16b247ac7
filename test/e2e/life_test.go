package e2e_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"spotinference/test/harness"
)

// slow is a serve over the simulated engine, whose answers take a while.
func slow(t testing.TB, args ...string) *harness.Gateway {
	t.Helper()
	args = append(args, "--provider", "none", "--engine", "llama", "--",
		harness.Program(t), "sim-engine", "-m", "sim.gguf", "-np", "32", "--tokens", "2000", "--delay", "10ms")
	return harness.Serve(t, nil, args...).Ready()
}

// stream begins a streamed chat and returns after its first token.
func stream(t testing.TB, s *harness.Gateway) *bufio.Reader {
	t.Helper()
	resp, err := http.Post(s.URL+"/v1/chat/completions", "application/json",
		strings.NewReader(`{"stream":true,"messages":[{"role":"user","content":"hi"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	r := bufio.NewReader(resp.Body)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("the stream ended before its first token: %v", err)
		}
		if strings.Contains(line, `"content":"`) {
			return r
		}
	}
}

// TestTheEngineIsKilledMidAnswer: the client is told, the tokens are counted,
// and the next request finds a new engine.
func TestTheEngineIsKilledMidAnswer(t *testing.T) {
	t.Parallel()
	s := slow(t)
	r := stream(t, s)
	for _, p := range s.Descendants() {
		for _, arg := range p.Words() {
			if arg == "sim-engine" && p.Words()[1] == "sim-engine" { // not its guard
				if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	rest, err := io.ReadAll(r)
	if err != nil || !strings.Contains(string(rest), `"code":"engine_failed"`) || !strings.HasSuffix(string(rest), "data: [DONE]\n\n") {
		t.Errorf("the stream ended with %.400q, %v", rest[max(0, len(rest)-400):], err)
	}
	if u := s.Usage(); u.ByStatus.Failed != 1 || u.CompletionTokens == 0 || u.CompletionTokens == 2000 {
		t.Errorf("report usage = %+v", u)
	}
	s.Logs(`"msg":"engine crashed"`)
	s.Ready()
	if status, _, body := s.Post("/v1/completions", `{"prompt":"hi","max_tokens":3}`); status != http.StatusOK {
		t.Errorf("after the restart: %d %s", status, body)
	}
	s.Stop()
}

// TestTheSecondSignal does not wait for the answers, and still counts them.
func TestTheSecondSignal(t *testing.T) {
	t.Parallel()
	s := slow(t, "--drain", "1h")
	const running = 20
	var streams []*bufio.Reader
	for range running {
		streams = append(streams, stream(t, s))
	}
	tree := s.Descendants()
	s.Signal(syscall.SIGTERM)
	s.Logs(`"msg":"draining"`)
	s.Signal(syscall.SIGINT)
	for _, r := range streams {
		if rest, err := io.ReadAll(r); err != nil || !strings.Contains(string(rest), `"code":"shutting_down"`) {
			t.Errorf("the stream ended with %.400q, %v", rest[max(0, len(rest)-400):], err)
		}
	}
	if err := s.Wait(); err != nil {
		t.Errorf("serve ended with %v", err)
	}
	harness.Eventually(t, "no process is left", func() bool { return !harness.AnyAlive(tree) })
	if u := s.Usage(); u.ByStatus.Failed != running || u.CompletionTokens < running {
		t.Errorf("report usage = %+v", u)
	}
}

// TestASignalAtOnce: also a serve that has hardly begun ends.
func TestASignalAtOnce(t *testing.T) {
	t.Parallel()
	s := harness.Serve(t, nil, "--demo")
	s.Stop()
}

// TestALostRequest: what ran when the gateway was killed is in the ledger of
// the next one, with the count of its last second.
func TestALostRequest(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/ledger.db"
	s := slow(t, "--ledger", path)
	r := stream(t, s)
	for tokens := 0; tokens < 250; { // at 10 ms a token: saved at least once
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, `"content":"`) {
			tokens++
		}
	}
	s.Kill()
	s = slow(t, "--ledger", path)
	if u := s.Usage(); u.ByStatus.Lost != 1 || u.CompletionTokens < 50 {
		t.Errorf("report usage = %+v", u)
	}
	if !strings.Contains(s.Stderr(), `"msg":"requests were lost when the last serve died"`) {
		t.Error("serve does not say what was lost")
	}
	s.Stop()
}

// abandon sends a chat and leaves when the engine is at work on it.
func abandon(t testing.TB, s *harness.Gateway, body string) {
	t.Helper()
	ctx, leave := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		left <- err
	}()
	harness.Eventually(t, "the engine is at work", func() bool { return s.EngineMetrics()["llamacpp:requests_processing"] > 0 })
	leave()
	<-left
}
