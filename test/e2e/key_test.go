package e2e_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spotinference/test/harness"
)

// keyed posts a chat request with a key, and returns the whole answer.
func chatWith(t testing.TB, s *harness.Gateway, key string) (status int, header http.Header, answer string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.URL+"/v1/chat/completions",
		strings.NewReader(`{"model":"m","messages":[{"role":"user","content":"hello"}],"max_tokens":5}`))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// key runs a key command against the ledger of s and returns its stdout.
func keyCommand(t testing.TB, s *harness.Gateway, args ...string) string {
	t.Helper()
	stdout, stderr, code := harness.Command(t, nil, append([]string{"key"}, append(args, "--demo", "--ledger", s.Ledger)...)...)
	if code != 0 {
		t.Fatalf("key %s: exit %d\n%s", strings.Join(args, " "), code, stderr)
	}
	return strings.TrimSpace(stdout)
}

// TestKeysAtOnce: in a serve that runs, a key counts as soon as its command ends, and
// from the first one on nobody comes in without; a revoked one never again. What a key
// used is the report's figure, and its budget is held against that. No key stands
// anywhere when all is over.
func TestKeysAtOnce(t *testing.T) {
	t.Parallel()
	s := harness.Serve(t, nil, "--demo", "--sample-every", "1s").Ready()
	if status, _, _ := chatWith(t, s, ""); status != http.StatusOK {
		t.Fatalf("without a key, before there is any: %d", status)
	}
	free := keyCommand(t, s, "create", "--name", "free")
	want := func(key string, status int, words ...string) {
		t.Helper()
		got, _, answer := chatWith(t, s, key)
		if got != status {
			t.Errorf("status %d, want %d: %s", got, status, answer)
		}
		for _, w := range words {
			if !strings.Contains(answer, w) {
				t.Errorf("want %s in %s", w, answer)
			}
		}
	}
	want("", 401, "invalid_api_key")
	want("sk-si-"+strings.Repeat("x", 43), 401, "invalid_api_key")
	want(free, 200)

	limited := keyCommand(t, s, "create", "--name", "limited", "--rpm", "2")
	want(limited, 200)
	_, header, _ := chatWith(t, s, limited)
	if header.Get("X-Ratelimit-Limit-Requests") != "2" || header.Get("X-Ratelimit-Remaining-Requests") != "0" {
		t.Errorf("head: %v", header)
	}
	want(limited, 429, "rate_limit_exceeded")

	small := keyCommand(t, s, "create", "--name", "small", "--budget", "0.000000001/day")
	want(small, 200) // it has used nothing yet
	harness.Eventually(t, "the budget of a key is spent", func() bool {
		status, header, answer := chatWith(t, s, small)
		return status == 402 && strings.Contains(answer, "insufficient_quota") && header.Get("Retry-After") == ""
	})
	want(free, 200)
	var cost struct {
		Groups []struct {
			Name, ID string
			Gross    *string
		}
	}
	s.Report(&cost, "cost", "--by", "key", "--window", "10m", "--demo")
	found := false
	for _, g := range cost.Groups {
		found = found || g.Name == "small" && strings.HasPrefix(g.ID, "key_") && g.Gross != nil && *g.Gross != "0"
	}
	if !found {
		t.Errorf("report by key: %+v", cost.Groups)
	}

	keyCommand(t, s, "revoke", "free")
	want(free, 401, "has been revoked")
	keyCommand(t, s, "revoke", "limited")
	keyCommand(t, s, "revoke", "small")
	want("", 401) // the end of the last key lets nobody in
	again := keyCommand(t, s, "create", "--name", "free")
	want(again, 200)
	s.Stop()

	places := map[string][]byte{"stderr": []byte(s.Stderr())}
	files, err := filepath.Glob(s.Ledger + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("files of the ledger: %v, %v", files, err)
	}
	for _, path := range files {
		if places[path], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	for place, text := range places {
		for _, key := range []string{free, limited, small, again} {
			if bytes.Contains(text, []byte(strings.TrimPrefix(key, "sk-si-"))) {
				t.Errorf("%s holds a key", place)
			}
		}
	}
}

// TestAKeySurvives: keys come from the ledger when serve starts, those that were made
// before it too.
func TestAKeySurvives(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	key, stderr, code := harness.Command(t, nil, "key", "create", "--name", "early", "--rpm", "1", "--ledger", path)
	if code != 0 {
		t.Fatal(stderr)
	}
	key = strings.TrimSpace(key)
	engine := []string{"--provider", "none", "--engine", "llama", "--ledger", path, "--", harness.Program(t), "sim-engine", "-m", "x.gguf"}
	for range 2 {
		s := harness.Serve(t, nil, engine...).Ready()
		if status, _, _ := chatWith(t, s, ""); status != 401 {
			t.Errorf("without a key: %d", status)
		}
		if status, _, answer := chatWith(t, s, key); status != 200 {
			t.Errorf("with a key from before: %d %s", status, answer)
		}
		s.Stop()
	}
}
