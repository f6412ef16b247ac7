package e2e_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"spotinference/test/harness"
	"spotinference/test/realengine"
)

// manyForms are the ways in which llama-server can be asked for several results, each
// with how many come. It reads any JSON number and converts it to 32 bits.
var manyForms = []struct {
	path, asks string
	results    int64
}{
	{"/v1/chat/completions", `"n":3.0`, 3},
	{"/v1/chat/completions", `"n":3e0`, 3},
	{"/v1/chat/completions", `"n":2.9`, 2},
	{"/v1/chat/completions", `"n":4294967298`, 2},
	{"/v1/chat/completions", `"n":-4294967294`, 2},
	{"/v1/chat/completions", `"n":true`, 1},
	{"/v1/chat/completions", `"n_cmpl":3.0`, 3},
	{"/v1/chat/completions", `"n_cmpl":3`, 3},
	{"/v1/chat/completions", `"n":"x","n_cmpl":3`, 3},
	{"/v1/chat/completions", `"n":3,"n_cmpl":null`, 3},
	{"/v1/chat/completions", `"n":3,"n_cmpl":true`, 1},
	{"/v1/completions", `"n":4294967298.0e0,"n_cmpl":2`, 2},
	{"/v1/completions", `"n":30e-1`, 3},
	{"/v1/responses", `"n":4`, 4},
	{"/v1/responses", `"n":2.0`, 2},
	{"/v1/responses", `"n_cmpl":4294967299`, 3},
	{"/v1/messages", `"n":3,"n_cmpl":3`, 1},
}

// TestEveryFormOfNIsCounted: a number that asks for several results means to us what it
// means to the engine, streamed and not.
func TestEveryFormOfNIsCounted(t *testing.T) {
	t.Parallel()
	launcher, model := realengine.Find(t), realengine.Model(t)
	s := harness.Serve(t, nil, "--provider", "none", "--", launcher, "-m", model, "--alias", "tiny", "-t", "1", "-c", "8192", "-np", "4").Ready()
	const tokens = 20
	for _, f := range manyForms {
		for _, stream := range []string{"", `,"stream":true`} {
			body := `{"model":"m",` + f.asks + stream + `,"ignore_eos":true,"max_tokens":20,"max_output_tokens":20,"prompt":"the bill","input":"the bill","messages":[{"role":"user","content":"the bill"}]}`
			before := s.Usage()
			status, _, answer := s.Post(f.path, body)
			u := s.Usage()
			if status != http.StatusOK {
				t.Fatalf("%s %s: %d %s", f.path, body, status, answer)
			}
			if got := u.CompletionTokens - before.CompletionTokens; got != tokens*f.results && f.path != "/v1/messages" { // which knows no ignore_eos
				t.Errorf("%s %s: the row has %d tokens, want %d", f.path, body, got, tokens*f.results)
			}
			if f.path == "/v1/responses" && stream != "" {
				if got := strings.Count(answer, "event: response.completed\n"); int64(got) != f.results {
					t.Errorf("%s: %d responses of %d reached the client", body, got, f.results)
				}
			}
		}
	}
	u, m := s.Usage(), s.EngineIdle()
	if got, want := float64(u.CompletionTokens), m["llamacpp:tokens_predicted_total"]; got != want {
		t.Errorf("the ledger has %v completion tokens, the engine made %v", got, want)
	}
	var report meterReport
	s.Stop() // takes the last sample
	s.Report(&report, "meter", "--window", "1h")
	if e := report.Engines[0]; e.LowerBound != 0 || len(report.Flags) > 0 {
		t.Errorf("report meter = %+v", report)
	}
}

// TestErrorsThatMadeNothing: what the real engine refuses with a status of 500 and 501 has
// rows of 0, and no report says that a request was cut.
func TestErrorsThatMadeNothing(t *testing.T) {
	t.Parallel()
	s := harness.ServeReal(t)
	f := func(path, body string, want int) {
		t.Helper()
		if status, _, answer := s.PostAs(harness.Key, path, body); status < want {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
	f("/v1/chat/completions", `{"messages":[{"role":"user","content":[{"type":"text","text":"hi"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}]}`, 500)
	f("/v1/embeddings", `{"input":"the bill"}`, 501)
	s.Stop() // takes the last sample
	var r meterReport
	s.Report(&r, "meter", "--window", "1h")
	if e := r.Engines[0]; e.Requests != 2 || e.LowerBound != 0 || e.Completion.Cause != "" || len(r.Flags) > 0 {
		t.Errorf("report meter = %+v", r)
	}
}

// shape is what an answer's events, or its body, have at their tops, one line each: the
// names of the members, and what the engine says of how it understood the request.
func shape(t *testing.T, answer string) (lines []string) {
	t.Helper()
	for line := range strings.Lines(answer) {
		data := strings.TrimSpace(strings.TrimPrefix(line, "data: "))
		if data == "" || data == "[DONE]" || strings.HasPrefix(line, "event: ") {
			continue
		}
		var e map[string]any
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		text := strings.Join(slices.Sorted(maps.Keys(e)), " ")
		if v, ok := e["__verbose"].(map[string]any); ok {
			text += " verbose " + strings.Join(slices.Sorted(maps.Keys(v)), " ")
			if content, _ := v["content"].(string); content != "" {
				text += " text"
			}
			if set, ok := v["generation_settings"].(map[string]any); ok {
				b, _ := json.Marshal([]any{set["stream"], set["timings_per_token"], set["n_predict"]})
				text += string(b)
			}
		}
		lines = append(lines, text)
	}
	return lines
}

// TestWhatWeAskForIsNotSeen: through the gateway a client gets the events that the engine
// sends it, with the members that they have there.
func TestWhatWeAskForIsNotSeen(t *testing.T) {
	t.Parallel()
	launcher, model := realengine.Find(t), realengine.Model(t)
	s := harness.Serve(t, nil, "--provider", "none", "--", launcher, "-m", model, "--alias", "tiny", "-t", "1", "-c", "8192", "-np", "4").Ready()
	const common = `"seed":7,"ignore_eos":true,"max_tokens":4,"prompt":"the bill","messages":[{"role":"user","content":"the bill"}]`
	for _, path := range []string{"/v1/chat/completions", "/v1/completions"} {
		for _, asks := range []string{
			`"stream":true`,
			`"stream":true,"timings_per_token":true`,
			`"stream":true,"timings_per_token":false`,
			`"stream":true,"stream_options":{"include_usage":true}`,
			`"stream":true,"stream_options":{"include_usage":true},"timings_per_token":true`,
			`"stream":true,"stream_options":5`,
			`"stream":true,"verbose":true`,
			`"stream":true,"verbose":true,"timings_per_token":true`,
			`"stream":true,"return_progress":true`,
			`"verbose":true`,
			`"n":2`,
			`"n":2,"verbose":true`,
		} {
			body := `{` + asks + `,` + common + `}`
			s.EnginePost(path, body) // so that both find the prompt in the cache
			want := s.EnginePost(path, body)
			_, _, got := s.Post(path, body)
			if w, g := shape(t, want), shape(t, got); !slices.Equal(w, g) {
				t.Errorf("%s %s: got\n%s\nwant\n%s", path, asks, strings.Join(g, "\n"), strings.Join(w, "\n"))
			}
		}
	}
	if u := s.Usage(); u.ByStatus.OK != 24 || u.CompletionTokens != 4*28 {
		t.Errorf("report usage = %+v", u)
	}
	s.Stop()
}

// TestACutRequestExplainsNoMoreThanItself: llama-server makes a JSON answer to its last token
// while its metrics are asked for, though the client has left. Its row explains that much,
// and not what somebody else had made past the gateway.
func TestACutRequestExplainsNoMoreThanItself(t *testing.T) {
	t.Parallel()
	launcher, model := realengine.Find(t), realengine.Model(t)
	s := harness.Serve(t, nil, "--provider", "none", "--", launcher, "-m", model, "--alias", "tiny", "-t", "1").Ready()
	const most = 3000
	report := func() meterReport {
		t.Helper()
		var r meterReport
		s.Report(&r, "meter", "--window", "1h")
		return r
	}
	abandon(t, s, `{"max_tokens":3000,"ignore_eos":true,"messages":[{"role":"user","content":"hi"}]}`)
	harness.Eventually(t, "the cut request has its row", func() bool { return s.Usage().ByStatus.Aborted == 1 })
	m := s.EngineIdle() // asks all the time
	made := int64(m["llamacpp:tokens_predicted_total"])
	if made == 0 || made > most {
		t.Fatalf("the engine made %d tokens", made)
	}
	s.EnginePost("/v1/completions", `{"prompt":"hi","max_tokens":3500,"ignore_eos":true}`)
	s.Stop() // takes the last sample
	r := report()
	if e := r.Engines[0]; e.LowerBound != 1 || e.Completion.Engine != made+3500 || e.Completion.Cause != "drift" || !slices.Contains(r.Flags, "drift") {
		t.Errorf("report meter = %+v", r)
	}
}
