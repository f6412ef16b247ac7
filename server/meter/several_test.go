package meter_test

import (
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/meter"
)

// Recorded from build 11669, shortened: two responses in one stream, their events mixed.
const (
	responsesBegin = `event: response.created
data: {"type":"response.created","response":{"id":"resp_A","object":"response","status":"in_progress"}}

event: response.output_item.added
data: {"type":"response.output_item.added","item":{"content":[],"id":"msg_A","role":"assistant","status":"in_progress","type":"message"}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","item_id":"msg_A","delta":" A","timings":{"cache_n":12,"prompt_n":1,"predicted_n":1}}

event: response.created
data: {"type":"response.created","response":{"id":"resp_B","object":"response","status":"in_progress"}}

event: response.output_item.added
data: {"type":"response.output_item.added","item":{"content":[],"id":"msg_B","role":"assistant","status":"in_progress","type":"message"}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","item_id":"msg_B","delta":" It","timings":{"cache_n":12,"prompt_n":1,"predicted_n":1}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","item_id":"msg_A","delta":" bill","timings":{"cache_n":12,"prompt_n":1,"predicted_n":2}}

`
	responsesFirst = `event: response.completed
data: {"type":"response.completed","response":{"id":"resp_A","object":"response","model":"tiny","usage":{"input_tokens":13,"output_tokens":4,"total_tokens":17,"input_tokens_details":{"cached_tokens":12}}},"timings":{"cache_n":12,"prompt_n":1,"predicted_n":4}}

`
	responsesLast = `event: response.completed
data: {"type":"response.completed","response":{"id":"resp_B","object":"response","model":"tiny","usage":{"input_tokens":13,"output_tokens":3,"total_tokens":16,"input_tokens_details":{"cached_tokens":11}}},"timings":{"cache_n":11,"prompt_n":2,"predicted_n":3}}

`
)

func TestSeveralResponses(t *testing.T) {
	ask := prepare(t, meter.Responses, meter.LlamaServer, `{"stream":true,"timings_per_token":true,"n":2.0}`)
	got := everySplit(t, copyStream, meter.Responses, meter.LlamaServer, ask, []byte(responsesBegin+responsesFirst+responsesLast))
	if got.Usage != usage(13, 11, 7) || !got.Exact || !got.Done || got.Now != responsesBegin+responsesFirst || got.Tail != responsesLast {
		t.Errorf("whole: %+v", got)
	}
	got = everySplit(t, copyStream, meter.Responses, meter.LlamaServer, ask, []byte(responsesBegin+responsesFirst))
	if got.Usage != usage(13, 12, 4) || got.Exact || got.Done {
		t.Errorf("cut after the first: %+v", got)
	}
	got = everySplit(t, copyStream, meter.Responses, meter.LlamaServer, ask, []byte(responsesBegin))
	if got.Usage != usage(13, 12, 3) || got.Exact || got.Done {
		t.Errorf("cut before the first ended: %+v", got)
	}
	// One fails: the answer has failed, and what the others made is counted.
	failed := strings.Replace(strings.ReplaceAll(responsesLast, "response.completed", "response.failed"), `"usage":{`, `"error":{"message":"full"},"usage":{`, 1)
	got = everySplit(t, copyStream, meter.Responses, meter.LlamaServer, ask, []byte(responsesBegin+responsesFirst+failed))
	if got.Usage != usage(13, 11, 7) || !got.Done || got.Fault.Message != "full" {
		t.Errorf("failed: %+v", got)
	}
}

// TestSeveralResponsesAreCompleted: the items of each count from 0, and the response that
// we began has our name, the other its own.
func TestSeveralResponsesAreCompleted(t *testing.T) {
	m := meter.New(meter.Responses, meter.LlamaServer, prepare(t, meter.Responses, meter.LlamaServer, `{"stream":true,"n":2}`))
	m.Complete(7)
	m.Heartbeat("X", time.Unix(7, 0))
	got := streamThrough(m, []byte(responsesBegin+responsesFirst+responsesLast), atOnce)
	all := got.Now + got.Tail
	if strings.Contains(all, `"output_index":1`) || strings.Count(all, `"output_index":0`) != 5 {
		t.Errorf("output_index: %s", all)
	}
	if strings.Contains(all, "resp_A") || strings.Count(all, `"resp_X"`) != 2 || strings.Count(all, `"resp_B"`) != 2 {
		t.Errorf("ids: %s", all)
	}
}

// TestAListOfResponses is llama-server's answer to n > 1 that is not streamed.
func TestAListOfResponses(t *testing.T) {
	const one = `{"id":"resp_A","model":"tiny","output":[{"content":[{"text":"{,}"}],"usage":{"input_tokens":99}}],"usage":{"input_tokens":13,"output_tokens":4,"input_tokens_details":{"cached_tokens":12}}}`
	const two = ` {"usage":{"input_tokens":13,"output_tokens":3,"input_tokens_details":{"cached_tokens":11}},"model":"tiny"} `
	for _, body := range []string{`{"n":2}`, `{}`} { // whatever we understood
		ask := prepare(t, meter.Responses, meter.LlamaServer, body)
		got := everySplit(t, copyJSON, meter.Responses, meter.LlamaServer, ask, []byte(`[`+one+`,`+two+`]`))
		if got.Usage != usage(13, 11, 7) || !got.Exact || !got.Done || got.Model != "tiny" {
			t.Errorf("%s: %+v", body, got)
		}
		got = everySplit(t, copyJSON, meter.Responses, meter.LlamaServer, ask, []byte(`[`+one+`,{"model":"tiny"}]`))
		if got.Usage != usage(13, 12, 4) || got.Exact || !got.Done {
			t.Errorf("%s, one without usage: %+v", body, got)
		}
		got = everySplit(t, copyJSON, meter.Responses, meter.LlamaServer, ask, []byte(`[`+one+`,`))
		if got.Usage != usage(13, 12, 4) || got.Exact || got.Done {
			t.Errorf("%s, cut: %+v", body, got)
		}
	}
}

// TestMoreChoicesThanUnderstood: an answer that holds more results than the request was
// understood to ask for has only the first one's count, and says so.
func TestMoreChoicesThanUnderstood(t *testing.T) {
	const answer = `{"choices":[{"index":0,"message":{"content":"a","tool_calls":[{"id":"x"}]}},{"index":1}],"model":"tiny","usage":{"prompt_tokens":5,"completion_tokens":2}}`
	for d, body := range map[meter.Dialect]string{meter.Chat: `{}`, meter.Completions: `{"prompt":"a"}`} {
		got := everySplit(t, copyJSON, d, meter.LlamaServer, prepare(t, d, meter.LlamaServer, body), []byte(answer))
		if got.Usage != usage(5, 0, 2) || got.Exact {
			t.Errorf("%s: %+v", body, got)
		}
		one := strings.Replace(answer, `,{"index":1}`, "", 1)
		if got := everySplit(t, copyJSON, d, meter.LlamaServer, prepare(t, d, meter.LlamaServer, body), []byte(one)); !got.Exact {
			t.Errorf("%s: %+v", body, got)
		}
	}
	// The same of a stream that is cut after one of its results.
	src := `data: {"choices":[{"index":1,"delta":{"content":"b"},"finish_reason":null}]}` + "\n\n" +
		`data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"timings":{"cache_n":1,"prompt_n":4,"predicted_n":2}}` + "\n\n"
	got := everySplit(t, copyStream, meter.Chat, meter.LlamaServer, prepare(t, meter.Chat, meter.LlamaServer, `{"stream":true}`), []byte(src))
	if got.Usage != usage(5, 1, 3) || got.Exact {
		t.Errorf("stream: %+v", got)
	}
}

// TestRerankCountsUnderMeta is Cohere's form of the answer: BerriAI/litellm#36185.
func TestRerankCountsUnderMeta(t *testing.T) {
	f := func(d meter.Dialect, answer string, want ledger.Usage, exact bool) {
		t.Helper()
		got := everySplit(t, copyJSON, d, meter.VLLM, prepare(t, d, meter.VLLM, `{}`), []byte(answer))
		if got.Usage != want || got.Exact != exact {
			t.Errorf("%s: %+v", answer, got)
		}
	}
	f(meter.Rerank, `{"results":[{"index":0}],"meta":{"billed_units":{"total_tokens":9},"tokens":{"input_tokens":7,"output_tokens":0}}}`, usage(7, 0, 0), true)
	f(meter.Rerank, `{"results":[{"index":0}],"meta":{"tokens":{"input_tokens":7},"billed_units":{"input_tokens":9}}}`, usage(7, 0, 0), true)
	f(meter.Rerank, `{"results":[],"meta":{"billed_units":{"total_tokens":9}}}`, usage(9, 0, 0), true)
	f(meter.Rerank, `{"meta":{"billed_units":{"total_tokens":9}},"usage":{"prompt_tokens":4,"total_tokens":4}}`, usage(4, 0, 0), true)
	f(meter.Rerank, `{"usage":{"prompt_tokens":4,"total_tokens":4},"meta":{"billed_units":{"total_tokens":9}}}`, usage(4, 0, 0), true)
	f(meter.Rerank, `{"results":[],"meta":{"billed_units":{"search_units":1}}}`, usage(0, 0, 0), false)
	f(meter.Embeddings, `{"meta":{"tokens":{"input_tokens":7}}}`, usage(0, 0, 0), false)
}
