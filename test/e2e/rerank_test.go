package e2e_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"spotinference/test/harness"
)

// TestRerankOverARealEngine uses no SDK, since none of the two has rerank.
func TestRerankOverARealEngine(t *testing.T) {
	t.Parallel()
	s := harness.ServeReal(t, "--reranking")
	req, err := http.NewRequest(http.MethodPost, s.URL+"/v1/rerank",
		strings.NewReader(`{"model":"tiny","query":"the bill","documents":["the engine","the token and the bill"]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+harness.Key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct {
		Results []struct{ Index int }
		Usage   struct {
			PromptTokens int64 `json:"prompt_tokens"`
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || resp.StatusCode != http.StatusOK || len(got.Results) != 2 || got.Usage.PromptTokens == 0 {
		t.Errorf("rerank: %d %+v, %v", resp.StatusCode, got, err)
	}
	if u := s.Usage(); u.PromptTokens != got.Usage.PromptTokens || u.CompletionTokens != 0 || u.ByStatus.OK != 1 {
		t.Errorf("report usage = %+v, the client saw %+v", u, got.Usage)
	}
	s.Stop()
}

// TestFormsWithoutUsageAreRefused: llama-server answers them and does not say what they
// cost. The forms that it does count stay, and nothing is taken for cut.
func TestFormsWithoutUsageAreRefused(t *testing.T) {
	t.Parallel()
	f := func(flag, path, refused, served, want string) {
		t.Helper()
		s := harness.ServeReal(t, flag)
		if status, _, body := s.PostAs(harness.Key, path, refused); status != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%s %s: %d %s", path, refused, status, body)
		}
		if status, _, body := s.PostAs(harness.Key, path, served); status != http.StatusOK {
			t.Errorf("%s %s: %d %s", path, served, status, body)
		}
		if u := s.Usage(); u.PromptTokens == 0 || u.Requests != 1 || u.ByStatus.OK != 1 {
			t.Errorf("%s: report usage = %+v", path, u)
		}
		s.Stop()
		var m meterReport
		s.Report(&m, "meter", "--window", "1h")
		if e := m.Engines[0]; e.LowerBound != 0 || len(m.Flags) > 0 {
			t.Errorf("%s: report meter = %+v", path, m)
		}
	}
	f("--reranking", "/v1/rerank", `{"query":"the bill","texts":["the engine"]}`, `{"query":"the bill","documents":["the engine"]}`, "texts is not served")
	f("--embeddings", "/v1/embeddings", `{"content":"the bill"}`, `{"input":"the bill"}`, "content is not served")
}
