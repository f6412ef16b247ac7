package api_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"spotinference/ledger"
	"spotinference/server/queue"
)

// golden says of each recorded answer, and of each written after vLLM's source,
// which path it answers and what it costs. A file that is not here fails.
var golden = map[string]struct {
	path   string
	tokens ledger.Usage // as prompt, cached, completion
}{
	"llama-server/chat.body":                              {"/v1/chat/completions", ledger.Usage{PromptTokens: 59, CompletionTokens: 8}},
	"llama-server/chat-logprobs.body":                     {"/v1/chat/completions", ledger.Usage{PromptTokens: 59, CachedTokens: 58, CompletionTokens: 2}},
	"llama-server/chat-n2.body":                           {"/v1/chat/completions", ledger.Usage{PromptTokens: 59, CachedTokens: 58, CompletionTokens: 4}},
	"llama-server/chat-n2-stream.body":                    {"/v1/chat/completions", ledger.Usage{PromptTokens: 59, CachedTokens: 58, CompletionTokens: 8}},
	"llama-server/chat-n2-stream-progress.body":           {"/v1/chat/completions", ledger.Usage{PromptTokens: 88, CompletionTokens: 6}},
	"llama-server/chat-stream.body":                       {"/v1/chat/completions", ledger.Usage{PromptTokens: 59, CachedTokens: 58, CompletionTokens: 8}},
	"llama-server/chat-stream-usage.body":                 {"/v1/chat/completions", ledger.Usage{PromptTokens: 59, CachedTokens: 58, CompletionTokens: 8}},
	"llama-server/chat-stream-usage-timings.body":         {"/v1/chat/completions", ledger.Usage{PromptTokens: 59, CachedTokens: 58, CompletionTokens: 8}},
	"llama-server/completions.body":                       {"/v1/completions", ledger.Usage{PromptTokens: 14, CachedTokens: 4, CompletionTokens: 6}},
	"llama-server/completions-array.body":                 {"/v1/completions", ledger.Usage{PromptTokens: 14, CachedTokens: 13, CompletionTokens: 3}},
	"llama-server/completions-stream.body":                {"/v1/completions", ledger.Usage{PromptTokens: 14, CachedTokens: 13, CompletionTokens: 6}},
	"llama-server/completions-array-stream-progress.body": {"/v1/completions", ledger.Usage{PromptTokens: 6, CachedTokens: 1, CompletionTokens: 6}},
	"llama-server/responses.body":                         {"/v1/responses", ledger.Usage{PromptTokens: 37, CachedTokens: 4, CompletionTokens: 6}},
	"llama-server/responses-stream.body":                  {"/v1/responses", ledger.Usage{PromptTokens: 37, CachedTokens: 36, CompletionTokens: 6}},
	"llama-server/responses-thoughts-stream.body":         {"/v1/responses", ledger.Usage{PromptTokens: 358, CachedTokens: 357, CompletionTokens: 3}},
	"llama-server/responses-calls-stream.body":            {"/v1/responses", ledger.Usage{PromptTokens: 358, CachedTokens: 357, CompletionTokens: 25}},
	"llama-server/messages.body":                          {"/v1/messages", ledger.Usage{PromptTokens: 15, CachedTokens: 12, CompletionTokens: 6}},
	"llama-server/messages-stream.body":                   {"/v1/messages", ledger.Usage{PromptTokens: 15, CachedTokens: 14, CompletionTokens: 6}},
	"llama-server/embeddings.body":                        {"/v1/embeddings", ledger.Usage{PromptTokens: 15}},
	"llama-server/messages-count.body":                    {"/v1/messages/count_tokens", ledger.Usage{}},
	"vllm/chat-stream-reasoning.body":                     {"/v1/chat/completions", ledger.Usage{PromptTokens: 12, CachedTokens: 8, CompletionTokens: 7}},
	"vllm/chat-stream-tools.body":                         {"/v1/chat/completions", ledger.Usage{PromptTokens: 12, CachedTokens: 8, CompletionTokens: 13}},
	"vllm/chat-stream-logprobs.body":                      {"/v1/chat/completions", ledger.Usage{PromptTokens: 12, CachedTokens: 8, CompletionTokens: 2}},
	"vllm/chat-n2-stream.body":                            {"/v1/chat/completions", ledger.Usage{PromptTokens: 12, CachedTokens: 8, CompletionTokens: 4}},
	"vllm/chat-structured.body":                           {"/v1/chat/completions", ledger.Usage{PromptTokens: 12, CompletionTokens: 9}},
	"vllm/completions-array-stream.body":                  {"/v1/completions", ledger.Usage{PromptTokens: 9, CachedTokens: 8, CompletionTokens: 4}},
	"vllm/completions-array.body":                         {"/v1/completions", ledger.Usage{PromptTokens: 9, CompletionTokens: 4}},
	"vllm/responses-stream.body":                          {"/v1/responses", ledger.Usage{PromptTokens: 12, CachedTokens: 8, CompletionTokens: 5}},
	"vllm/messages-stream.body":                           {"/v1/messages", ledger.Usage{PromptTokens: 12, CompletionTokens: 6}},
	"vllm/embeddings.body":                                {"/v1/embeddings", ledger.Usage{PromptTokens: 6}},
	"vllm/rerank.body":                                    {"/v1/rerank", ledger.Usage{PromptTokens: 56}},
	"vllm/transcriptions-stream.body":                     {"/v1/audio/transcriptions", ledger.Usage{PromptTokens: 30, CompletionTokens: 2}},
	"vllm/transcriptions.body":                            {"/v1/audio/transcriptions", ledger.Usage{}},
}

// notServed are recordings of answers that have a form of their own here, or of
// paths that are out of reach.
var notServed = regexp.MustCompile(`^llama-server/(error-.*|embeddings-disabled|metrics|models|props|tokenize)\.body$`)

// asksAll and asksNothing are what a client may have asked beyond its prompt. The
// engine is the test's, so the rest of the request is nothing.
const (
	asksAll     = `"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true},"timings_per_token":true,"return_progress":true`
	asksNothing = `"stream":true`
)

// TestGolden: what leaves is what came, less what was asked for in the client's
// place. Reasoning, tool calls, logprobs and whatever else an engine may say pass
// byte for byte.
func TestGolden(t *testing.T) {
	t.Parallel()
	files := map[string]string{}
	for _, dir := range []string{"../engine/sim/testdata/llama-server", "../meter/testdata/llama-server", "testdata/vllm"} {
		paths, err := filepath.Glob(filepath.Join(filepath.FromSlash(dir), "*.body"))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v", dir, err)
		}
		for _, path := range paths {
			files[filepath.Base(dir)+"/"+filepath.Base(path)] = path
		}
	}
	for name := range golden {
		if files[name] == "" {
			t.Errorf("%s is gone", name)
		}
	}
	less := 0 // files of which something was stripped
	for name, path := range files {
		g, known := golden[name]
		if !known {
			if !notServed.MatchString(name) {
				t.Errorf("%s: no word on it", name)
			}
			continue
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		body := string(raw)
		f := func(asks, want string) {
			t.Helper()
			kind, answerType := queue.Llama, "application/json"
			if strings.HasPrefix(name, "vllm") {
				kind = queue.VLLM
			}
			stream := strings.Contains(body, "data: ")
			if stream {
				answerType = "text/event-stream"
			} else {
				asks = `"x":1`
			}
			w := newWorld(t, kind, func(rw http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				rw.Header().Set("Content-Type", answerType)
				io.WriteString(rw, body)
			}, nil)
			request, requestType := "{"+asks+"}", "application/json"
			if strings.HasPrefix(g.path, "/v1/audio/") {
				request, requestType = audioForm(asks), soundType
			}
			resp, got := w.do("POST", g.path, request, "Content-Type", requestType)
			if resp.StatusCode != 200 || got != want {
				t.Errorf("%s, asked %s: %d\n%s\nwant\n%s", name, asks, resp.StatusCode, got, want)
			}
			if strings.HasSuffix(g.path, "count_tokens") {
				return
			}
			if r := w.row(); r.Usage != g.tokens || r.Status != ledger.OK {
				t.Errorf("%s: row = %+v", name, r)
			}
		}
		f(asksAll, body)
		without := stripped(strings.HasPrefix(name, "vllm"), body)
		if without != body {
			less++
		}
		f(asksNothing, without)
	}
	if less < 10 {
		t.Errorf("of only %d files something was stripped", less)
	}
}

// audioForm is the form of one who asks the same.
func audioForm(asks string) string {
	var b strings.Builder
	for _, name := range []string{"stream", "include_usage", "continuous_usage_stats"} {
		if strings.Contains(asks, `"`+name+`":true`) {
			field := "stream_" + name
			if name == "stream" {
				field = name
			}
			b.WriteString("--b\r\nContent-Disposition: form-data; name=\"" + field + "\"\r\n\r\ntrue\r\n")
		}
	}
	return b.String() + soundForm
}

var (
	timingsMember = regexp.MustCompile(`,"timings":\{[^{}]*\}`)
	usageMember   = regexp.MustCompile(`,"usage":\{[^{}]*\}\}$`)
)

// stripped takes a stream's injected parts away by means of its own: by lines and
// expressions, on what these recordings look like.
func stripped(vllm bool, body string) string {
	if !strings.Contains(body, "data: ") {
		return body
	}
	events := strings.SplitAfter(body, "\n\n")
	events = slices.DeleteFunc(events, func(e string) bool {
		return strings.Contains(e, `"choices":[],`) || strings.Contains(e, `"prompt_progress":`)
	})
	for i, e := range events {
		switch line := strings.TrimSuffix(e, "\n\n"); {
		case vllm && strings.Contains(e, `"choices":[{`):
			events[i] = usageMember.ReplaceAllString(line, "}") + "\n\n"
		case !vllm && !strings.Contains(e, `"usage":`) && !strings.Contains(e, `"finish_reason":"`):
			events[i] = timingsMember.ReplaceAllString(e, "")
		}
	}
	return strings.Join(events, "")
}
