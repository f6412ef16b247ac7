package queue

import (
	"os"
	"strings"
	"testing"
)

func TestParseCounters(t *testing.T) {
	f := func(kind Kind, page string, want Counters, fails string) {
		t.Helper()
		got, err := parseCounters(strings.NewReader(page), kind)
		if got != want || (err == nil) != (fails == "") || err != nil && err.Error() != fails {
			t.Errorf("%s: %+v, %v, want %+v, %q", kind, got, err, want, fails)
		}
	}
	recorded, err := os.ReadFile("../engine/sim/testdata/llama-server/metrics.body")
	if err != nil {
		t.Fatal(err)
	}
	f(Llama, string(recorded), Counters{Prompt: 132, Completion: 95, Work: 132 + 95 + 84}, "")
	f(Llama, "llamacpp:prompt_tokens_total 1.23457e+06\nllamacpp:tokens_predicted_total 7\nllamacpp:requests_processing 1\nllamacpp:requests_deferred 2\nllamacpp:prompt_tokens_seconds nan\n",
		Counters{Prompt: 1234570, Completion: 7, Running: 3, Work: 1234577}, "")
	const vllm = `# HELP vllm:prompt_tokens_total x
vllm:prompt_tokens_total{engine="0",model_name="a b"} 10.0
vllm:prompt_tokens_total{engine="1",model_name="a b"} 5.0
vllm:generation_tokens_total{engine="0",model_name="a b"} 1.000001e+06
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_waiting{engine="0"} 1.0
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf"} 9.0
vllm:iteration_tokens_total_count{engine="0"} 9.0
`
	f(VLLM, vllm, Counters{Prompt: 15, WithCached: true, Completion: 1000001, Running: 3, Work: 1000025}, "")
	f(VLLM, strings.ReplaceAll(vllm, "generation", "x"), Counters{}, "the page has no vllm:generation_tokens_total")
	f(Llama, "", Counters{}, "the page has no llamacpp:prompt_tokens_total, llamacpp:tokens_predicted_total, llamacpp:requests_processing, llamacpp:requests_deferred")
	f(Llama, "llamacpp:prompt_tokens_total many\n", Counters{}, `llamacpp:prompt_tokens_total: "many" is not a count`)
}
