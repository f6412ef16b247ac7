package meter_test

import (
	"strings"
	"testing"

	"spotinference/ledger"
	"spotinference/server/meter"
)

// vllmChat is a streamed chat of two tokens, as vLLM answers it with both of
// its usage options on.
const vllmChat = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":12,"total_tokens":12,"completion_tokens":0}}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,"delta":{"content":"Hel"},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":12,"total_tokens":14,"completion_tokens":2}}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,"delta":{"content":"lo"},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":12,"total_tokens":15,"completion_tokens":3}}

`

const vllmFinal = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[],"usage":{"prompt_tokens":12,"total_tokens":15,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}}}

`

const done = "data: [DONE]\n\n"

// withoutUsage takes usage off every chunk that has a choice.
func withoutUsage(stream string) string {
	lines := strings.SplitAfter(stream, "\n")
	for i, line := range lines {
		if at := strings.Index(line, `,"usage":`); at >= 0 && !strings.Contains(line, `"choices":[]`) {
			lines[i] = line[:at] + "}\n"
		}
	}
	return strings.Join(lines, "")
}

func TestVLLMChat(t *testing.T) {
	f := func(body, src, now, tail string, want ledger.Usage, exact bool) {
		t.Helper()
		ask := prepare(t, meter.Chat, meter.VLLM, body)
		got := everySplit(t, copyStream, meter.Chat, meter.VLLM, ask, []byte(src))
		if got.Usage != want || got.Exact != exact {
			t.Errorf("%s: usage %+v exact %v, want %+v exact %v", body, got.Usage, got.Exact, want, exact)
		}
		if got.Now != now || got.Tail != tail {
			t.Errorf("%s: forwarded\n%s\nheld %q, want\n%s\nheld %q", body, got.Now, got.Tail, now, tail)
		}
	}
	continuous := `{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`
	all := vllmChat + vllmFinal + done
	f(asksNothing, all, withoutUsage(vllmChat), done, usage(12, 8, 3), true)
	f(asksUsage, all, withoutUsage(vllmChat)+vllmFinal, done, usage(12, 8, 3), true)
	f(continuous, all, vllmChat+vllmFinal, done, usage(12, 8, 3), true)
	// Without include_usage vLLM does not give continuous usage either.
	f(`{"stream":true,"stream_options":{"continuous_usage_stats":true}}`, all, withoutUsage(vllmChat), done, usage(12, 8, 3), true)
	// Cut off before the final usage: what the last chunk said.
	f(asksNothing, vllmChat, withoutUsage(vllmChat), "", usage(12, 0, 3), false)
	f(asksNothing, strings.SplitAfter(vllmChat, "\n\n")[0], withoutUsage(strings.SplitAfter(vllmChat, "\n\n")[0]), "", usage(12, 0, 0), false)
	// An engine that gives no running usage: a token an event.
	f(asksNothing, withoutUsage(vllmChat), withoutUsage(vllmChat), "", usage(0, 0, 2), false)
	// [DONE] without final usage is no proof of anything.
	f(asksNothing, vllmChat+done, withoutUsage(vllmChat), done, usage(12, 0, 3), false)
}

func TestVLLMSeveralChoices(t *testing.T) {
	chunk := func(index, prompt, completion string) string {
		return `data: {"choices":[{"index":` + index + `,"text":"x","finish_reason":null}],"usage":{"prompt_tokens":` + prompt +
			`,"total_tokens":0,"completion_tokens":` + completion + `}}` + "\n\n"
	}
	final := `data: {"choices":[],"usage":{"prompt_tokens":30,"total_tokens":50,"completion_tokens":20}}` + "\n\n"
	src := chunk("0", "10", "1") + chunk("2", "20", "4") + chunk("0", "10", "3") + chunk("3", "20", "2")

	// Two prompts of two choices in the completions dialect.
	ask := prepare(t, meter.Completions, meter.VLLM, `{"stream":true,"n":2,"prompt":[[1,2],[3]]}`)
	got := everySplit(t, copyStream, meter.Completions, meter.VLLM, ask, []byte(src))
	if got.Usage != usage(30, 0, 9) || got.Exact {
		t.Errorf("running: %+v exact %v", got.Usage, got.Exact)
	}
	got = everySplit(t, copyStream, meter.Completions, meter.VLLM, ask, []byte(src+final+done))
	if got.Usage != usage(30, 0, 20) || !got.Exact {
		t.Errorf("final: %+v exact %v", got.Usage, got.Exact)
	}

	// Four choices of one prompt in the chat dialect.
	src = strings.ReplaceAll(strings.ReplaceAll(src, `"text":"x"`, `"delta":{"content":"x"}`), `:20`, `:10`)
	ask = prepare(t, meter.Chat, meter.VLLM, `{"stream":true,"n":4}`)
	got = everySplit(t, copyStream, meter.Chat, meter.VLLM, ask, []byte(src))
	if got.Usage != usage(10, 0, 9) || got.Exact {
		t.Errorf("chat: %+v exact %v", got.Usage, got.Exact)
	}
}

func TestVLLMErrors(t *testing.T) {
	// vLLM sends [DONE] after an error too; both are held.
	failure := `data: {"error":{"message":"out of blocks","type":"InternalServerError","param":null,"code":500}}` + "\n\n"
	ask := prepare(t, meter.Chat, meter.VLLM, asksNothing)
	got := everySplit(t, copyStream, meter.Chat, meter.VLLM, ask, []byte(vllmChat+failure+done))
	want := result{
		Now: withoutUsage(vllmChat), Tail: failure + done,
		Usage: usage(12, 0, 3), Done: true, Model: "qwen",
		Fault: meter.Fault{Message: "out of blocks", Type: "server_error"},
	}
	if got != want {
		t.Errorf("chat error = %+v, want %+v", got, want)
	}

	m := meter.New(meter.Chat, meter.VLLM, ask)
	if msg, failed := m.Failed(); failed || msg != "" {
		t.Errorf("Failed before = %q, %v", msg, failed)
	}
	m.Stream(nil, []byte(failure))
	if msg, failed := m.Failed(); !failed || msg != "out of blocks" {
		t.Errorf("Failed = %q, %v", msg, failed)
	}

	failure = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"internal_error\",\"message\":\"boom\"}}\n\n"
	got = everySplit(t, copyStream, meter.Messages, meter.VLLM, meter.Ask{}, []byte(failure))
	if !got.Done || got.Tail != failure || got.Now != "" || got.Fault.Message != "boom" || got.Fault.Type != "server_error" {
		t.Errorf("messages error = %+v", got)
	}

	// [DONE] after half an answer, or none, ends nothing.
	for _, src := range []string{"", strings.SplitAfter(vllmChat, "\n\n")[0]} {
		got = everySplit(t, copyStream, meter.Chat, meter.VLLM, ask, []byte(src+done))
		if got.Fault.Message != "the engine ended its answer without finishing it" || got.Exact || got.Tail != done {
			t.Errorf("the end after %q = %+v", src, got)
		}
	}

	// A key that is there and null is no error.
	src := `data: {"choices":[{"index":0,"delta":{"content":"a"}}],"error":null}` + "\n\n"
	got = everySplit(t, copyStream, meter.Chat, meter.VLLM, ask, []byte(src))
	if got.Done || got.Now != src || got.Fault != (meter.Fault{}) {
		t.Errorf("null error = %+v", got)
	}
}

func TestVLLMResponses(t *testing.T) {
	delta := "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n"
	created := "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"qwen\",\"error\":null,\"usage\":null}}\n\n"
	completed := func(output string) string {
		return "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"model\":\"qwen\",\"error\":null,\"usage\":" +
			"{\"input_tokens\":40,\"input_tokens_details\":{\"cached_tokens\":32},\"output_tokens\":" + output +
			",\"output_tokens_details\":{\"reasoning_tokens\":1},\"total_tokens\":0}}}\n\n"
	}
	f := func(src string, want ledger.Usage, exact bool, tail string) {
		t.Helper()
		got := everySplit(t, copyStream, meter.Responses, meter.VLLM, meter.Ask{}, []byte(src))
		if got.Usage != want || got.Exact != exact || got.Tail != tail || got.Now+got.Tail != src || got.Model != "qwen" {
			t.Errorf("%s: %+v, want %+v exact %v tail %q", src, got, want, exact, tail)
		}
	}
	f(created+delta+delta+completed("5"), usage(40, 32, 5), true, completed("5"))
	// One path of vLLM does not count its output and says 0.
	f(created+delta+delta+completed("0"), usage(40, 32, 2), false, completed("0"))
	f(created+delta+delta, usage(0, 0, 2), false, "")
	reasoning := strings.ReplaceAll(delta, "output_text", "reasoning_text")
	arguments := strings.ReplaceAll(delta, "output_text", "function_call_arguments")
	f(created+reasoning+arguments+delta, usage(0, 0, 3), false, "")
	incomplete := strings.ReplaceAll(completed("5"), "completed", "incomplete")
	f(created+delta+incomplete, usage(40, 32, 5), true, incomplete)

	failed := "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\",\"message\":\"boom\"},\"usage\":null}}\n\n"
	f(created+delta+failed, usage(0, 0, 1), false, failed)
	if got := everySplit(t, copyStream, meter.Responses, meter.VLLM, meter.Ask{}, []byte(failed)); got.Fault.Message != "boom" {
		t.Errorf("failed: %+v", got.Fault)
	}
	bare := "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"bang\",\"param\":null}\n\n"
	f(created+bare, usage(0, 0, 0), false, bare)
	if got := everySplit(t, copyStream, meter.Responses, meter.VLLM, meter.Ask{}, []byte(bare)); got.Fault.Message != "bang" {
		t.Errorf("error: %+v", got.Fault)
	}
}

func TestVLLMMessages(t *testing.T) {
	src := "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"qwen\",\"usage\":{\"input_tokens\":4,\"cache_read_input_tokens\":8,\"cache_creation_input_tokens\":2,\"output_tokens\":0}}}\n\n" +
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}}\n\n" +
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"abc\"}}\n\n" +
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"\"}}\n\n" +
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\"}}\n\n"
	got := everySplit(t, copyStream, meter.Messages, meter.VLLM, meter.Ask{}, []byte(src))
	if got.Usage != usage(14, 8, 2) || got.Exact || got.Model != "qwen" {
		t.Errorf("running: %+v", got)
	}
	// The final usage repeats the prompt and leaves the cached part out.
	stop := "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
	src += "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"input_tokens\":4,\"output_tokens\":7}}\n\n" + stop
	got = everySplit(t, copyStream, meter.Messages, meter.VLLM, meter.Ask{}, []byte(src))
	if got.Usage != usage(14, 8, 7) || !got.Exact || got.Tail != stop {
		t.Errorf("final: %+v", got)
	}
}

func TestVLLMJSON(t *testing.T) {
	f := func(d meter.Dialect, body, src string, want ledger.Usage, exact bool) {
		t.Helper()
		got := everySplit(t, copyJSON, d, meter.VLLM, prepare(t, d, meter.VLLM, body), []byte(src))
		if got.Usage != want || got.Exact != exact || !got.Done {
			t.Errorf("%s: %+v, want %+v exact %v", src, got, want, exact)
		}
	}
	// Totals over all choices and prompts.
	f(meter.Chat, `{"n":3}`, `{"usage":{"prompt_tokens":12,"total_tokens":20,"completion_tokens":8,"prompt_tokens_details":null}}`, usage(12, 0, 8), true)
	f(meter.Completions, `{"prompt":["a","b"]}`, `{"usage":{"prompt_tokens":12,"completion_tokens":8,"prompt_tokens_details":{"cached_tokens":3}}}`, usage(12, 3, 8), true)
	f(meter.Responses, `{}`, `{"usage":{"input_tokens":9,"output_tokens":0}}`, usage(9, 0, 0), false)
	f(meter.Embeddings, `{}`, `{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":6,"total_tokens":6,"completion_tokens":0,"prompt_tokens_details":null}}`, usage(6, 0, 0), true)
	f(meter.Rerank, `{}`, `{"results":[],"usage":{"total_tokens":6}}`, usage(6, 0, 0), true)
	f(meter.Rerank, `{}`, `[{"index":0,"score":0.5,"usage":{"total_tokens":6}}]`, usage(0, 0, 0), false)
	f(meter.Chat, `{}`, `{"usage":null}`, usage(0, 0, 0), false)
}

// TestVLLMMembersGoBack: what vLLM puts on the last chunk is on the usage chunk where that is
// asked for. A client that did not ask finds it with the finish_reason, as without us.
func TestVLLMMembersGoBack(t *testing.T) {
	const begin = `data: {"id":"a","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}` + "\n\n"
	const finish = `data: {"id":"a","choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]`
	const members = `,"system_fingerprint":"vllm-1","metrics":{"ttft":{"p":[1,2]}}`
	const final = `data: {"id":"a","choices":[],"usage":{"prompt_tokens":5,"total_tokens":6,"completion_tokens":1},"x":null` + members + "}\n\n"
	f := func(body, src, want string) {
		t.Helper()
		got := everySplit(t, copyStream, meter.Chat, meter.VLLM, prepare(t, meter.Chat, meter.VLLM, body), []byte(src))
		if got.Now+got.Tail != want {
			t.Errorf("%s: forwarded\n%s\nwant\n%s", body, got.Now+got.Tail, want)
		}
	}
	const end = "}\n\n"
	f(asksNothing, begin+finish+end+final+done, begin+finish+members+end+done)
	f(asksUsage, begin+finish+end+final+done, begin+finish+end+final+done)
	f(asksNothing, begin+finish+`,"system_fingerprint":"own"`+end+final+done, begin+finish+`,"system_fingerprint":"own","metrics":{"ttft":{"p":[1,2]}}`+end+done)
	// Of two choices, the one that ends last has them.
	other := strings.Replace(finish, `"index":0`, `"index":1`, 1)
	f(`{"stream":true,"n":2}`, finish+end+begin+other+end+final+done, finish+end+begin+other+members+end+done)
	// The usage does not come, or something else does before it.
	f(asksNothing, begin+finish+end+done, begin+finish+end+done)
	f(asksNothing, begin+finish+end, begin+finish+end)
	f(asksNothing, finish+end+": ping\n\n"+done, finish+end+": ping\n\n"+done)
}
