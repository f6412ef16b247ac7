package e2e_test

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"spotinference/test/harness"
)

// ledgerVerified proves the ledger at path by the command, with a head that was noted, and
// returns how many requests it holds.
func ledgerVerified(t *testing.T, path, head string) (requests int64) {
	t.Helper()
	stdout, stderr, code := harness.Command(t, nil, "ledger", "verify", "--ledger", path, "--head", head, "--output", "json")
	var v struct {
		OK   bool
		Rows map[string]int64
	}
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != 0 || !v.OK {
		t.Fatalf("ledger verify: exit %d, %v\n%s%s", code, err, stdout, stderr)
	}
	return v.Rows["request"]
}

// TestKilledWhileItWrites: whenever the gateway is killed, the chain and the rows fit, and
// no acknowledged request is missing; so does a copy that was made of it meanwhile.
func TestKilledWhileItWrites(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	var acknowledged atomic.Int64
	for round := range 3 {
		s := harness.Serve(t, nil, "--ledger", path, "--provider", "none", "--engine", "llama", "--", harness.Program(t), "sim-engine", "-m", "sim.gguf", "-np", "8", "--tokens", "3").Ready()
		before := acknowledged.Load()
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				for {
					resp, err := http.Post(s.URL+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"hi","max_tokens":3}`))
					if err != nil {
						return
					}
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if err != nil {
						return
					}
					if resp.StatusCode == http.StatusOK {
						acknowledged.Add(1)
					}
				}
			})
		}
		harness.Eventually(t, "requests are served", func() bool { return acknowledged.Load() > before+20 })
		var noted struct{ Chain struct{ Head string } }
		s.Report(&noted, "usage")
		if round == 1 {
			copied := filepath.Join(filepath.Dir(path), "copy.db")
			if _, stderr, code := harness.Command(t, nil, "ledger", "backup", copied, "--ledger", path); code != 0 {
				t.Fatalf("ledger backup: exit %d\n%s", code, stderr)
			}
			if n := ledgerVerified(t, copied, noted.Chain.Head); n < before {
				t.Errorf("%d requests in the copy, %d were acknowledged before serve started", n, before)
			}
		}
		s.Kill()
		clients.Wait()
		if n, want := ledgerVerified(t, path, noted.Chain.Head), acknowledged.Load(); n < want {
			t.Errorf("round %d: %d requests in the ledger, %d were acknowledged", round, n, want)
		}
	}
}
