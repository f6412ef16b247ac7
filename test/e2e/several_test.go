package e2e_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"spotinference/test/harness"
	"spotinference/test/realengine"
)

// severals are requests of several results, streamed and not.
var severals = []struct{ path, body string }{
	{"/v1/chat/completions", `{"model":"m","n":3,"max_tokens":5,"messages":[{"role":"user","content":"the bill of a token"}]}`},
	{"/v1/chat/completions", `{"model":"m","n":3,"max_tokens":5,"stream":true,"messages":[{"role":"user","content":"the bill of the engine"}]}`},
	{"/v1/chat/completions", `{"model":"m","n":2,"max_tokens":4,"logprobs":true,"top_logprobs":2,"messages":[{"role":"user","content":"one more answer"}]}`},
	{"/v1/completions", `{"model":"m","prompt":["the bill","a token is","the ledger keeps every sample"],"max_tokens":4}`},
	{"/v1/completions", `{"model":"m","prompt":["the engine","a token was"],"max_tokens":4,"stream":true}`},
	{"/v1/completions", `{"model":"m","n":2,"prompt":["the truth","an answer"],"max_tokens":3,"logprobs":1}`},
	{"/v1/completions", `{"model":"m","n":2,"prompt":["the truth is","an answer is"],"max_tokens":3,"stream":true}`},
	{"/v1/completions", `{"model":"m","n":4,"prompt":"the sample","max_tokens":6}`},
}

// severalResults sends them, holds each answer's own usage against its row, and
// returns the sums of the rows.
func severalResults(t *testing.T, s *harness.Gateway) (u harness.Usage) {
	t.Helper()
	for _, q := range severals {
		before := s.Usage()
		status, header, body := s.Post(q.path, q.body)
		u = s.Usage()
		if status != http.StatusOK {
			t.Fatalf("%s: %d %s", q.body, status, body)
		}
		made, read := u.CompletionTokens-before.CompletionTokens, u.PromptTokens-before.PromptTokens
		if made == 0 || read == 0 {
			t.Errorf("%s: the row has %d prompt and %d completion tokens", q.body, read, made)
		}
		if strings.Contains(q.body, `"stream":true`) {
			if !strings.HasSuffix(body, "data: [DONE]\n\n") || strings.Contains(body, "prompt_progress") || strings.Contains(body, `"choices":[]`) {
				t.Errorf("%s: %s", q.body, body)
			}
			continue
		}
		if !strings.HasPrefix(header.Get("Content-Type"), "application/json") {
			t.Errorf("%s: %v", q.body, header)
		}
		var a struct {
			Choices []struct {
				Index   int
				Text    string
				Message struct{ Role, Content string }
				Finish  string `json:"finish_reason"`
			}
			Usage struct {
				Prompt     int64 `json:"prompt_tokens"`
				Completion int64 `json:"completion_tokens"`
			}
		}
		if err := json.Unmarshal([]byte(body), &a); err != nil {
			t.Fatalf("%s: %v in %s", q.body, err, body)
		}
		if a.Usage.Prompt != read || a.Usage.Completion != made || len(a.Choices) < 2 {
			t.Errorf("%s: the row has %d and %d tokens, the answer %s", q.body, read, made, body)
		}
		for i, c := range a.Choices {
			if c.Index != i || c.Finish == "" || c.Text+c.Message.Content == "" {
				t.Errorf("%s: choice %d of %s", q.body, i, body)
			}
		}
	}
	return u
}

// TestSeveralResultsAreCounted: the ledger has what the real engine made, where
// its own answers report the first result's tokens alone.
func TestSeveralResultsAreCounted(t *testing.T) {
	t.Parallel()
	launcher, model := realengine.Find(t), realengine.Model(t)
	s := harness.Serve(t, nil, "--provider", "none", "--", launcher, "-m", model, "--alias", "tiny", "-t", "1", "-c", "8192", "-np", "4").Ready()
	u, m := severalResults(t, s), s.EngineIdle()
	if got, want := float64(u.CompletionTokens), m["llamacpp:tokens_predicted_total"]; got != want || want == 0 {
		t.Errorf("the ledger has %v completion tokens, the engine made %v", got, want)
	}
	if got, want := float64(u.PromptTokens-u.CachedTokens), m["llamacpp:prompt_tokens_total"]; got != want || want == 0 {
		t.Errorf("the ledger has %v prompt tokens beyond the cache, the engine read %v", got, want)
	}
	if u.ByStatus.OK != int64(len(severals)) {
		t.Errorf("report usage = %+v", u)
	}
	s.Stop()
}

// TestSeveralResultsOfVLLM: the same of vLLM's arithmetic, simulated.
func TestSeveralResultsOfVLLM(t *testing.T) {
	t.Parallel()
	s := harness.Serve(t, nil, "--provider", "none", "--engine", "vllm", "--",
		harness.Program(t), "sim-engine", "--flavour", "vllm", "--served-model-name", "m").Ready()
	u, m := severalResults(t, s), s.EngineMetrics()
	if got, want := float64(u.CompletionTokens), m[`vllm:generation_tokens_total{engine="0",model_name="m"}`]; got != want || want == 0 {
		t.Errorf("the ledger has %v completion tokens, the engine made %v", got, want)
	}
	s.Stop() // takes the last sample
	var r meterReport
	s.Report(&r, "meter", "--window", "1h")
	e := r.Engines[0]
	if e.Prompt.Ledger != u.PromptTokens || e.Prompt.Again == 0 || float64(u.PromptTokens+e.Prompt.Again) != m[`vllm:prompt_tokens_total{engine="0",model_name="m"}`] {
		t.Errorf("the ledger has %v prompt tokens, report meter %+v", u.PromptTokens, e)
	}
	if e.Prompt.Cause != "" || e.Completion.Cause != "" || len(r.Flags) > 0 {
		t.Errorf("report meter = %+v", r)
	}
}
