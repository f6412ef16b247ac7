package api_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/queue"
)

// TestACompletedResponse: the stream of a response of llama-server leaves with what OpenAI's
// clients need, and that of vLLM, or with the setting off, as the engine wrote it.
func TestACompletedResponse(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join("..", "meter", "testdata", "llama-server", "responses-stream.body"))
	if err != nil {
		t.Fatal(err)
	}
	f := func(kind queue.Kind, on, completed bool) {
		t.Helper()
		w := newWorld(t, kind, sse(nil, string(b)), func(c *api.Config) { c.CompleteResponses = on })
		resp, body := w.do("POST", "/v1/responses", `{"model":"tiny","input":"hi","stream":true}`)
		if resp.StatusCode != http.StatusOK || (body == string(b)) == completed {
			t.Errorf("%s, %v: %d %s", kind, on, resp.StatusCode, body)
		}
		for _, want := range []string{
			`"type":"response.created","sequence_number":0,"response":{"id":"resp_2E9veCtSD3cOPsjSNOrS1gWmGG9lGahi","created_at":`,
			`"model":"tiny","output":[],`,
			`"type":"response.output_text.delta","sequence_number":4,"output_index":0,"content_index":0,`,
			`"type":"response.completed","sequence_number":13,`,
		} {
			if strings.Contains(body, want) != completed {
				t.Errorf("%s, %v: %s in %s", kind, on, want, body)
			}
		}
		if r := w.row(); r.Status != ledger.OK || r.LowerBound || r.Usage != (ledger.Usage{PromptTokens: 37, CachedTokens: 36, CompletionTokens: 6}) {
			t.Errorf("%s, %v: row = %+v", kind, on, r)
		}
	}
	f(queue.Llama, true, true)
	f(queue.Llama, false, false)
	f(queue.VLLM, true, false)
}
