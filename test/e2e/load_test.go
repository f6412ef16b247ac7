package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	_ "modernc.org/sqlite"

	"spotinference/test/harness"
	"spotinference/test/realengine"
)

// kinds are the requests of a mixed load: every dialect, both modes. Each event
// that matches mark carries at least one token; end is the last thing of a
// whole answer.
var kinds = []struct {
	name, path, body string
	mark, end        string
}{
	{"chat", "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"%s"}],"max_tokens":%d}`, "", "}"},
	{"chat stream", "/v1/chat/completions", `{"model":"m","stream":true,"messages":[{"role":"user","content":"%s"}],"max_tokens":%d}`, `"delta":{"content":"`, "data: [DONE]\n\n"},
	{"completions", "/v1/completions", `{"model":"m","prompt":"%s","max_tokens":%d}`, "", "}"},
	{"completions stream", "/v1/completions", `{"model":"m","stream":true,"prompt":"%s","max_tokens":%d}`, `"text":" `, "data: [DONE]\n\n"},
	{"responses", "/v1/responses", `{"model":"m","input":"%s","max_output_tokens":%d}`, "", "}"},
	{"responses stream", "/v1/responses", `{"model":"m","stream":true,"input":"%s","max_output_tokens":%d}`, `"type":"response.output_text.delta"`, "\n\n"},
	{"messages", "/v1/messages", `{"model":"m","messages":[{"role":"user","content":"%s"}],"max_tokens":%d}`, "", "}"},
	{"messages stream", "/v1/messages", `{"model":"m","stream":true,"messages":[{"role":"user","content":"%s"}],"max_tokens":%d}`, `"type":"content_block_delta"`, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"},
}

var words = strings.Fields("the bill of a token is the truth and the engine serves one more answer while the ledger keeps every sample")

func prompt(rnd *rand.Rand) string {
	n := 3 + rnd.IntN(20)
	out := make([]string, n)
	for i := range out {
		out[i] = words[rnd.IntN(len(words))]
	}
	return strings.Join(out, " ")
}

// answer is what a client got of one request.
type answer struct {
	id     string
	status int
	whole  bool  // the last bytes were seen
	marks  int64 // events with tokens that were seen
	usage  int64 // completion tokens by a non-streamed answer's own word; -1 for none
}

// ask sends one request of kind k. It leaves after cut events, or reads to the
// end where cut is negative.
func ask(ctx context.Context, s *harness.Gateway, client *http.Client, k int, rnd *rand.Rand, tokens, cut int) (answer, error) {
	kind := kinds[k]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := answer{usage: -1}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+kind.path, strings.NewReader(fmt.Sprintf(kind.body, prompt(rnd), tokens)))
	if err != nil {
		return a, err
	}
	req.Header.Set("Authorization", "Bearer "+harness.Key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.id, a.status = resp.Header.Get("X-Request-Id"), resp.StatusCode
	if kind.mark == "" || a.status != http.StatusOK {
		body, err := io.ReadAll(resp.Body)
		var u struct {
			Usage struct {
				C *int64 `json:"completion_tokens"`
				O *int64 `json:"output_tokens"`
			}
		}
		if err == nil && a.status == http.StatusOK && json.Unmarshal(body, &u) == nil {
			a.whole = true
			for _, n := range []*int64{u.Usage.C, u.Usage.O} {
				if n != nil {
					a.usage = *n
				}
			}
		}
		return a, err
	}
	var tail []byte
	r := bufio.NewReader(resp.Body)
	for {
		line, err := r.ReadBytes('\n')
		if bytes.Contains(line, []byte(kind.mark)) {
			a.marks++
		}
		if bytes.Contains(line, []byte(`"error"`)) {
			return a, fmt.Errorf("error event: %s", line)
		}
		tail = append(tail, line...)
		tail = tail[max(0, len(tail)-200):]
		if err == io.EOF {
			a.whole = bytes.HasSuffix(tail, []byte(kind.end))
			return a, nil
		}
		if err != nil {
			return a, err
		}
		if cut >= 0 && a.marks >= int64(cut) {
			return a, nil
		}
	}
}

func clients(n int) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n, MaxConnsPerHost: n}}
}

// TestEveryTokenOfAThousandRequests: mixed requests, 32 at a time, over the real
// engine; the ledger equals the engine's own counters.
func TestEveryTokenOfAThousandRequests(t *testing.T) {
	t.Parallel()
	s := harness.ServeReal(t, "-c", "32768", "-np", "8")
	client := clients(32)
	defer client.CloseIdleConnections()
	const total = 1000
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= total {
					return
				}
				rnd := rand.New(rand.NewPCG(1, uint64(i)))
				a, err := ask(context.Background(), s, client, int(i)%len(kinds), rnd, 1+rnd.IntN(24), -1)
				if err != nil || a.status != http.StatusOK || !a.whole {
					t.Errorf("%s %s: %+v, %v", kinds[i%int64(len(kinds))].name, a.id, a, err)
				}
			}
		})
	}
	wg.Wait()
	m, u := s.EngineIdle(), s.Usage()
	if u.Requests != total || u.ByStatus.OK != total {
		t.Errorf("report usage = %+v, want %d finished requests", u, total)
	}
	// Below a million the engine prints its counters exactly; its prompt counter
	// leaves out what came from its cache.
	if got, want := float64(u.CompletionTokens), m["llamacpp:tokens_predicted_total"]; got != want || want == 0 {
		t.Errorf("the ledger has %v completion tokens, the engine made %v", got, want)
	}
	if got, want := float64(u.PromptTokens-u.CachedTokens), m["llamacpp:prompt_tokens_total"]; got != want {
		t.Errorf("the ledger has %v prompt tokens beyond the cache, the engine read %v", got, want)
	}
	s.Stop()
}

// TestClientsThatLeave: what a client received ≤ what the ledger has ≤ what the
// engine made.
func TestClientsThatLeave(t *testing.T) {
	t.Parallel()
	s := harness.ServeReal(t, "-c", "32768", "-np", "8")
	const total = 200
	var received, whole atomic.Int64
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			client := clients(1)
			defer client.CloseIdleConnections()
			for {
				i := next.Add(1) - 1
				if i >= total {
					return
				}
				rnd := rand.New(rand.NewPCG(2, uint64(i)))
				k := 2*rnd.IntN(len(kinds)/2) + 1 // streams
				cut := -1
				if i%4 != 0 {
					cut = rnd.IntN(60)
				}
				a, err := ask(context.Background(), s, client, k, rnd, 200, cut)
				if err != nil || a.status != http.StatusOK {
					t.Errorf("%s: %+v, %v", kinds[k].name, a, err)
				}
				received.Add(a.marks)
				if a.whole {
					whole.Add(1)
				}
			}
		})
	}
	wg.Wait()
	var u harness.Usage
	harness.Eventually(t, "every request has its row", func() bool { u = s.Usage(); return u.Requests == total })
	m := s.EngineIdle()
	if u.ByStatus.Aborted == 0 || u.ByStatus.OK < whole.Load() || u.ByStatus.Failed+u.ByStatus.Lost > 0 {
		t.Errorf("by status: %+v, %d answers were read whole", u.ByStatus, whole.Load())
	}
	if float64(u.CompletionTokens) > m["llamacpp:tokens_predicted_total"] || u.CompletionTokens < received.Load() {
		t.Errorf("received %d ≤ ledger %d ≤ engine %v does not hold", received.Load(), u.CompletionTokens, m["llamacpp:tokens_predicted_total"])
	}
	t.Logf("received %d ≤ ledger %d ≤ engine %v", received.Load(), u.CompletionTokens, m["llamacpp:tokens_predicted_total"])
	s.Stop()
}

// TestKillUnderLoad kills the gateway under load, ten times, on one ledger: no
// process is left, the file is whole, and every answer whose last bytes a
// client saw has its row.
func TestKillUnderLoad(t *testing.T) {
	t.Parallel()
	t.Run("real llama-server", func(t *testing.T) {
		launcher, model := realengine.Find(t), realengine.Model(t)
		killUnderLoad(t, "--", launcher, "-m", model, "-t", "1", "-c", "32768", "-np", "8")
	})
	t.Run("simulated vLLM and its process tree", func(t *testing.T) {
		gpu := filepath.Join(t.TempDir(), "gpu")
		killUnderLoad(t, "--engine", "vllm", "--", harness.Program(t), "sim-engine", "--flavour", "vllm", "--gpu", gpu, "--delay", "2ms", "--escape", "--served-model-name", "m")
	})
}

func killUnderLoad(t *testing.T, engine ...string) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	args := append([]string{"--provider", "none", "--ledger", path}, engine...)
	seen := map[string]answer{} // by id: the answers that were read to the end
	for round := range 10 {
		s := harness.Serve(t, []string{"SPOTINFERENCE_API_KEY=" + harness.Key}, args...).Ready()
		ctx, cancel := context.WithCancel(context.Background())
		var mu sync.Mutex
		var wg sync.WaitGroup
		var done atomic.Int64
		for c := range 16 {
			wg.Go(func() {
				client := clients(1)
				defer client.CloseIdleConnections()
				rnd := rand.New(rand.NewPCG(uint64(round), uint64(c)))
				for ctx.Err() == nil {
					a, err := ask(ctx, s, client, rnd.IntN(len(kinds)), rnd, 1+rnd.IntN(40), -1)
					if err == nil && a.whole {
						mu.Lock()
						seen[a.id] = a
						mu.Unlock()
						done.Add(1)
					}
				}
			})
		}
		// Killed in the midst of it: after some answers, at an arbitrary point.
		harness.Eventually(t, "answers under load", func() bool { return done.Load() > int64(20+7*round) })
		tree := s.Descendants()
		if len(tree) < 2 {
			t.Fatalf("round %d: only %d processes below the gateway", round, len(tree))
		}
		s.Kill()
		harness.Eventually(t, "every process of the engine is gone", func() bool { return !harness.AnyAlive(tree) })
		cancel()
		wg.Wait()
		checkLedger(t, path, seen)
	}
	t.Logf("%d acknowledged answers over ten kills, none missing", len(seen))
}

// checkLedger opens the file as it lies and looks for every answer in it.
func checkLedger(t *testing.T, path string, seen map[string]answer) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("integrity_check = %q, %v", verdict, err)
	}
	for id, a := range seen {
		var status string
		var completion int64
		err := db.QueryRow("SELECT status, completion_tokens FROM request WHERE id = ?", id).Scan(&status, &completion)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			t.Errorf("%s was read to its end and has no row", id)
		case err != nil:
			t.Fatal(err)
		case status != "ok" || completion < a.marks || a.usage >= 0 && completion != a.usage:
			t.Errorf("%s: row %s with %d tokens, the client saw %+v", id, status, completion, a)
		}
	}
}
