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
