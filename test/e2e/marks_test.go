package e2e_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spotinference/billing/sim"
	"spotinference/test/harness"
)

// marks are secrets that are told from everything else.
type marks map[string]string

func newMarks(names ...string) marks {
	m := marks{}
	for _, name := range names {
		m[name] = "mark" + rand.Text()
	}
	return m
}

// find fails the test where b holds a mark, as it is or in base64.
func (m marks) find(t *testing.T, where string, b []byte) {
	t.Helper()
	for name, mark := range m {
		for _, form := range []string{mark, base64.StdEncoding.EncodeToString([]byte(mark)), fmt.Sprintf("%x", mark)} {
			if at := bytes.Index(b, []byte(form)); at >= 0 {
				t.Errorf("%s holds the %s: ...%q...", where, name, b[max(0, at-60):min(len(b), at+60)])
			}
		}
	}
}

// findInFiles looks through every file below dir.
func (m marks) findInFiles(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		m.find(t, path, b)
		files = append(files, filepath.Base(path))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestNothingSecretIsKept: a life of serve, kill -9 included, with secrets that are
// marked. They are in no line of log, no error, no file, no report.
func TestNothingSecretIsKept(t *testing.T) {
	t.Parallel()
	m := newMarks("API key", "wrong key", "prompt", "answer", "provider's credential", "end user", "path", "header")
	cloud, err := sim.New(sim.Config{Key: m["provider's credential"], VM: sim.VM{ID: 7}})
	if err != nil {
		t.Fatal(err)
	}
	if err := cloud.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- cloud.Run(ctx) }()
	defer func() { end(); <-ran }()

	dir := t.TempDir()
	env := []string{"SPOTINFERENCE_API_KEY=" + m["API key"], "HYPERSTACK_API_KEY=" + m["provider's credential"]}
	args := []string{"--ledger", filepath.Join(dir, "ledger.db"), "--provider", "hyperstack", "--provider-url", cloud.URL(), "--instance", "7",
		"--sample-every", "1s", "--engine", "llama", "--", harness.Program(t), "sim-engine", "-m", "sim.gguf", "-a", "tiny", "-np", "8", "--delay", "5ms", "--embeddings"}
	s := harness.Serve(t, env, args...).Ready()
	made, stderr, code := harness.Command(t, nil, "key", "create", "--name", "someone", "--ledger", s.Ledger)
	if made = strings.TrimSpace(made); code != 0 || made == "" {
		t.Fatalf("key create: exit %d: %s", code, stderr)
	}
	m["key that was made"] = made
	m.find(t, "what key create says beside the key", []byte(stderr))

	ask := func(key, path, body string) (status int, answer []byte) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, s.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Custom", m["header"])
		req.Header.Set("User-Agent", m["header"])
		if len(body)%2 == 0 {
			req.Header.Set("X-Api-Key", key)
		} else {
			req.Header.Set("Authorization", "Bearer "+key)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err = io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, answer
	}
	chat := func(more string) string {
		return fmt.Sprintf(`{"model":"tiny","user":%q,"messages":[{"role":"user","content":"What is %s?"}]%s}`, m["end user"], m["prompt"], more)
	}
	say := fmt.Sprintf(`"say":%q`, m["answer"])
	for _, more := range []string{`,"sim":{` + say + `}`, `,"stream":true,"sim":{` + say + `}`, `,"n":2,"sim":{` + say + `} `} {
		if status, answer := ask(m["API key"], "/v1/chat/completions", chat(more)); status != http.StatusOK || !bytes.Contains(answer, []byte(m["answer"])) {
			t.Errorf("%s: %d %s", more, status, answer)
		}
	}
	if status, answer := ask(made, "/v1/chat/completions", chat("")); status != http.StatusOK {
		t.Errorf("with the key that was made: %d %s", status, answer)
	}
	// What fails, before the engine, in it and after it has begun.
	for _, c := range []struct{ key, path, body string }{
		{m["wrong key"], "/v1/chat/completions", chat("")},
		{m["wrong key"], "/v1/messages", chat(" ")},
		{m["API key"], "/v1/" + m["path"], chat("")},
		{m["API key"], "/v1/messages/" + m["path"] + "?x=" + m["path"], chat("")},
		{m["API key"], "/v1/chat/completions", chat("") + m["prompt"]},
		{m["API key"], "/v1/chat/completions", `{"messages":"` + m["prompt"]},
		{m["API key"], "/v1/chat/completions", chat(`,"stream":"` + m["prompt"] + `"`)},
		{m["API key"], "/v1/chat/completions", chat(`,"sim":{"error_after":1}`)},
		{m["API key"], "/v1/chat/completions", chat(`,"sim":{"drop_after":1}`)},
		{m["API key"], "/v1/audio/transcriptions", m["prompt"]},
	} {
		status, answer := ask(c.key, c.path, c.body)
		if status < 400 {
			t.Errorf("%s %s: %d %s", c.path, c.body, status, answer)
		}
		m.find(t, fmt.Sprintf("the error for %s (%d)", c.path, status), answer)
	}
	if status, answer := ask(m["API key"], "/v1/chat/completions", chat(`,"stream":true,"sim":{"error_after":2}`)); status != http.StatusOK || !bytes.Contains(answer, []byte(`"error"`)) {
		t.Errorf("a stream that fails: %d %s", status, answer)
	} else {
		m.find(t, "an error event", answer[bytes.Index(answer, []byte(`"error"`)):])
	}
	// One that its client leaves, and one that is lost.
	left, leave := context.WithCancel(context.Background())
	for ctx, least := range map[context.Context]int{left: 2000, context.Background(): 150_000} { // long enough to be saved as open
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/v1/chat/completions", strings.NewReader(chat(`,"stream":true,"sim":{`+say+`,"tokens":4000}`)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+m["API key"])
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		buf := make([]byte, 256<<10)
		if n, err := io.ReadAtLeast(resp.Body, buf, least); err != nil || !bytes.Contains(buf[:n], []byte(m["answer"])) {
			t.Errorf("%v, %.2000s", err, buf[:n])
		}
	}
	leave()
	harness.Eventually(t, "who left has a row", func() bool { return s.Usage().ByStatus.Aborted == 1 })

	look := func() {
		t.Helper()
		for _, path := range []string{"/readyz", "/healthz", "/metrics"} {
			resp, err := http.Get(s.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || len(b) == 0 {
				t.Errorf("%s: %v", path, err)
			}
			m.find(t, path, b)
		}
		for _, line := range []string{"status", "status --output json", "report usage --output json", "report cost --output json", "report cost --by key --output json",
			"report cost --by model --output json", "report meter --output json", "report cost --explain", "key list", "key list --output json"} {
			words := append(strings.Fields(line), "--ledger", s.Ledger)
			stdout, stderr, code := harness.Command(t, nil, words...)
			if stdout == "" || code != 0 && code != 3 {
				t.Errorf("%s: exit %d: %s", line, code, stderr)
			}
			m.find(t, line, []byte(stdout+stderr))
		}
		m.findInFiles(t, dir)
	}
	look()
	first := s
	s.Kill()
	m.findInFiles(t, dir) // as a thief of the disk finds it
	s = harness.Serve(t, env, args...).Ready()
	if u := s.Usage(); u.ByStatus.Lost != 1 || u.ByStatus.OK < 4 || u.ByStatus.Failed < 3 {
		t.Errorf("report usage = %+v", u)
	}
	look()
	s.Stop()
	m.findInFiles(t, dir)
	for _, log := range []string{first.Stderr(), s.Stderr()} {
		if !strings.Contains(log, `"msg":"listening"`) {
			t.Error("no log")
		}
		m.find(t, "the log", []byte(log))
	}
}
