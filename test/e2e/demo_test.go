package e2e_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/test/harness"
)

// TestTheMainJob is README's first command: the demo, a chat, a streamed chat,
// and the cost of them, equal to the simulated provider's own books.
func TestTheMainJob(t *testing.T) {
	t.Parallel()
	s := harness.Serve(t, nil, "--demo").Ready()
	chat := `{"model":"demo","messages":[{"role":"user","content":"What does a token cost?"}],"max_tokens":20}`
	status, header, body := s.Post("/v1/chat/completions", chat)
	if status != http.StatusOK || header.Get("X-Request-Id") == "" || !strings.Contains(body, `"completion_tokens":20`) {
		t.Fatalf("chat: %d %s", status, body)
	}
	status, _, body = s.Post("/v1/chat/completions", strings.Replace(chat, `"model"`, `"stream":true,"model"`, 1))
	if status != http.StatusOK || !strings.HasSuffix(body, "data: [DONE]\n\n") || strings.Count(body, `"timings"`) != 1 || strings.Contains(body, `"usage"`) { // its last timings are llama-server's own doing
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
	harness.Eventually(t, "a sample after the answers", func() bool {
		s.Report(&cost, "cost", "--window", "10m", "--demo")
		return cost.Quotient != nil && cost.CompletionTokens == 40
	})
	if cost.Reason != "" || !cost.Demo || cost.Pending.NextSampleAt == nil {
		t.Errorf("report = %+v", cost)
	}

	if got := books(t, s, cost.Samples.From.At, cost.Samples.To.At); got != nanos(t, cost.Spend.Net) || got == 0 {
		t.Errorf("the provider's books say %d nano-USD, the report says %s", got, cost.Spend.Net)
	}
	s.Stop()
}

// TestEveryProviderOfTheDemo: what an adapter reads equals the books, to the
// last digit that its API gives.
func TestEveryProviderOfTheDemo(t *testing.T) {
	t.Parallel()
	for provider, digit := range map[string]ledger.Nanos{
		"hyperstack": 0, "runpod": 0, "verda": 0,
		"vast": 2 * 1_000_000, // two contracts, each rounded to 0.001
	} {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			s := harness.Serve(t, nil, "--demo", "--demo-provider", provider).Ready()
			var cost struct {
				Spend    struct{ Net string }
				Currency string
				Samples  struct {
					From, To struct{ At time.Time }
					Count    int
				}
			}
			seen := map[string]bool{}
			harness.Eventually(t, "four samples", func() bool {
				_, after, _ := strings.Cut(s.Get("/metrics"), "\nspotinference_sample_timestamp_seconds ")
				at, _, _ := strings.Cut(after, "\n")
				seen[at] = true
				return len(seen) >= 4
			})
			harness.Eventually(t, "four samples in the ledger", func() bool {
				s.Report(&cost, "cost", "--window", "10m", "--demo")
				return cost.Samples.Count >= 4
			})
			got, want := nanos(t, cost.Spend.Net), books(t, s, cost.Samples.From.At, cost.Samples.To.At)
			if diff := got - want; diff > digit || diff < -digit || cost.Currency != "USD" {
				t.Errorf("the report says %d nano-%s, the books %d", got, cost.Currency, want)
			}
			s.Stop()
		})
	}
}

func nanos(t *testing.T, text string) ledger.Nanos {
	t.Helper()
	n, err := ledger.ParseNanos(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// books asks the simulated provider's own ledger what a window cost.
func books(t testing.TB, s *harness.Gateway, from, to time.Time) ledger.Nanos {
	t.Helper()
	var line struct{ Books string }
	for text := range strings.Lines(s.Stderr()) {
		if json.Unmarshal([]byte(text), &line) == nil && line.Books != "" {
			break
		}
	}
	ask := url.Values{"from": {from.Format(time.RFC3339)}, "to": {to.Format(time.RFC3339)}}
	resp, err := http.Get(line.Books + "?" + ask.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var books struct{ Nanos ledger.Nanos }
	if err := json.NewDecoder(resp.Body).Decode(&books); err != nil {
		t.Fatal(err)
	}
	return books.Nanos
}

// TestDemoLoad: the demo has traffic of its own, so that its first price is not that of a
// machine that nobody uses.
func TestDemoLoad(t *testing.T) {
	t.Parallel()
	s := harness.Serve(t, []string{"SPOTINFERENCE_DEMO_LOAD=on"}, "--demo", "--sample-every", "1s").Ready()
	var cost struct {
		Requests int64   `json:"requests"`
		Price    *string `json:"cost_per_million_output_tokens"`
	}
	harness.Eventually(t, "two requests have a price", func() bool {
		s.Report(&cost, "cost", "--window", "10m", "--demo")
		return cost.Requests >= 2 && cost.Price != nil
	})
	// 2.54 an hour; 192 tokens every 5 s are $18 a million, and the start is in it.
	if price, err := strconv.ParseFloat(*cost.Price, 64); err != nil || price > 60 {
		t.Errorf("the first price is %s a million, %v", *cost.Price, err)
	}
	s.Stop()
}
