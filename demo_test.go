package main_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestTheMainJob is README's first command: the demo, a chat, a streamed chat,
// and the cost of them, equal to the simulated provider's own books.
func TestTheMainJob(t *testing.T) {
	s := serve(t, nil, "--demo").ready()
	chat := `{"model":"demo","messages":[{"role":"user","content":"What does a token cost?"}],"max_tokens":20}`
	status, header, body := s.post("/v1/chat/completions", chat)
	if status != http.StatusOK || header.Get("X-Request-Id") == "" || !strings.Contains(body, `"completion_tokens":20`) {
		t.Fatalf("chat: %d %s", status, body)
	}
	status, _, body = s.post("/v1/chat/completions", strings.Replace(chat, `"model"`, `"stream":true,"model"`, 1))
	if status != http.StatusOK || !strings.HasSuffix(body, "data: [DONE]\n\n") || strings.Contains(body, `"timings"`) || strings.Contains(body, `"usage"`) {
		t.Fatalf("streamed chat: %d %s", status, body)
	}

	var cost struct {
		Spend            struct{ Net, Gross string }
		CompletionTokens int64   `json:"completion_tokens"`
		Quotient         *string `json:"cost_per_million_output_tokens"`
		Reason           string
		Demo             bool
		Samples          struct {
			From, To struct {
				ID int64
				At time.Time
			}
		}
		Pending struct {
			NextSampleAt *time.Time `json:"next_sample_at"`
		}
	}
	eventually(t, 60*time.Second, "a sample after the answers", func() bool {
		s.report(&cost, "cost", "--window", "10m", "--demo")
		return cost.Quotient != nil && cost.CompletionTokens == 40
	})
	if cost.Reason != "" || !cost.Demo || cost.Pending.NextSampleAt == nil {
		t.Errorf("report = %+v", cost)
	}

	var books struct{ Spend string }
	ask := url.Values{"from": {cost.Samples.From.At.Format(time.RFC3339)}, "to": {cost.Samples.To.At.Format(time.RFC3339)}}
	resp, err := http.Get(demoBooks(t, s) + "?" + ask.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &books); err != nil || books.Spend != cost.Spend.Net || books.Spend == "0" {
		t.Errorf("the provider's books say %s (%v), the report says %s", text, err, cost.Spend.Net)
	}
	s.stop()
}

// demoBooks finds the simulated provider's own ledger where serve says it is.
func demoBooks(t *testing.T, s *serving) string {
	t.Helper()
	var line struct{ Books string }
	for text := range strings.Lines(s.stderr()) {
		if json.Unmarshal([]byte(text), &line) == nil && line.Books != "" {
			return line.Books
		}
	}
	t.Fatal("serve --demo does not say where its provider's books are")
	return ""
}
