package meter_test

import (
	"encoding/json"
	"strings"
	"testing"

	"spotinference/server/meter"
)

func TestPrepareInjects(t *testing.T) {
	f := func(d meter.Dialect, e meter.Engine, body, want string) {
		t.Helper()
		raw := []byte(body)
		_, got, err := meter.Prepare(d, e, raw)
		if err != nil || string(got) != want {
			t.Errorf("Prepare(%s %d, %s)\n got %s, %v\nwant %s", d, e, body, got, err, want)
		} else if want == body && &got[0] != &raw[0] {
			t.Errorf("Prepare(%s %d, %s) copied what it did not change", d, e, body)
		}
	}
	llama, vllm := meter.LlamaServer, meter.VLLM

	const usageBoth = `"stream_options":{"include_usage":true,"continuous_usage_stats":true}`
	f(meter.Chat, llama, `{"stream":true}`, `{"timings_per_token":true,"return_progress":true,"stream":true}`)
	f(meter.Chat, vllm, `{"stream":true}`, `{`+usageBoth+`,"stream":true}`)
	f(meter.Completions, llama, `{"stream":true}`, `{"timings_per_token":true,"return_progress":true,"stream":true}`)
	f(meter.Completions, vllm, ` { "stream" : true } `, ` {`+usageBoth+`, "stream" : true } `)
	f(meter.Responses, llama, `{"stream":true}`, `{"timings_per_token":true,"stream":true}`)

	// Merged with what is there, in its place.
	f(meter.Chat, llama, `{"stream":true,"stream_options":{},"timings_per_token":true}`,
		`{"return_progress":true,"stream":true,"stream_options":{},"timings_per_token":true}`)
	f(meter.Chat, vllm, `{"stream":true,"stream_options":{ },"a":1}`,
		`{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true },"a":1}`)
	f(meter.Chat, llama, `{"stream":true,"stream_options":null,"timings_per_token":false}`,
		`{"return_progress":true,"stream":true,"stream_options":null,"timings_per_token":true}`)
	f(meter.Chat, llama, `{"timings_per_token":null,"stream_options":{"x":[1],"include_usage":false},"stream":true}`,
		`{"return_progress":true,"timings_per_token":true,"stream_options":{"x":[1],"include_usage":false},"stream":true}`)
	f(meter.Chat, vllm, `{"stream_options":{"include_usage":true},"stream":true}`,
		`{"stream_options":{"continuous_usage_stats":true,"include_usage":true},"stream":true}`)
	f(meter.Chat, vllm, `{"stream_options":{"continuous_usage_stats":true},"stream":true}`,
		`{"stream_options":{"include_usage":true,"continuous_usage_stats":true},"stream":true}`)

	// Several results, not streamed: asked for as a stream.
	const all = `"timings_per_token":true,"return_progress":true`
	f(meter.Chat, llama, `{"n":2}`, `{"stream":true,`+all+`,"n":2}`)
	f(meter.Chat, llama, `{"stream":false,"n":2}`, `{`+all+`,"stream":true,"n":2}`)
	f(meter.Completions, llama, `{"prompt":["a","b"],"stream":null,"stream":false}`, `{`+all+`,"prompt":["a","b"],"stream":null,"stream":true}`)
	f(meter.Completions, llama, `{"n":2,"stream":null,"stream_options":{"include_usage":true},"timings_per_token":true,"return_progress":true}`,
		`{"n":2,"stream":true,"stream_options":{"include_usage":true},"timings_per_token":true,"return_progress":true}`)

	// llama-server takes options that are none, and asks for them are left as they are.
	f(meter.Chat, llama, `{"stream":true,"stream_options":"yes"}`, `{`+all+`,"stream":true,"stream_options":"yes"}`)
	f(meter.Chat, llama, `{"n":2,"stream_options":true}`, `{"stream":true,`+all+`,"n":2,"stream_options":true}`)
	// A client that wants to see how its request is understood would see these, too.
	f(meter.Chat, llama, `{"stream":true,"verbose":true}`, `{"stream":true,"verbose":true}`)
	f(meter.Chat, llama, `{"n":2,"verbose":true}`, `{"stream":true,"n":2,"verbose":true}`)

	// Every other byte stays: numbers, escapes, order, spaces.
	f(meter.Chat, llama, "{\n \"seed\": 1.0e400, \"a\\u0062\": \"\\ud83d\\ude00é\",\t\"stream\": true,\"z\":-0}",
		`{"timings_per_token":true,"return_progress":true,`+"\n \"seed\": 1.0e400, \"a\\u0062\": \"\\ud83d\\ude00é\",\t\"stream\": true,\"z\":-0}")

	// Named twice: the last counts, and is the only one left of what we set.
	f(meter.Chat, llama, `{"stream":false,"stream":true,"timings_per_token":true,"timings_per_token":false}`,
		`{"return_progress":true,"stream":false,"stream":true,"timings_per_token":true}`)
	f(meter.Chat, vllm, `{"stream_options":{"include_usage":true}, "stream":true, "stream_options":null , "a":1}`,
		`{"stream":true, `+usageBoth+` , "a":1}`)
	f(meter.Chat, vllm, `{"stream":true,"stream_options":{"include_usage":true,"include_usage":false}}`,
		`{"stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":true}}`)
	f(meter.Chat, vllm, `{"stream":true,"stream_options":null,"stream\u005foptions":{"include_usage":false}}`,
		`{"stream":true,"stream\u005foptions":{"continuous_usage_stats":true,"include_usage":true}}`)

	for _, same := range []struct {
		d    meter.Dialect
		e    meter.Engine
		body string
	}{
		// Not a stream.
		{meter.Chat, vllm, `{}`},
		{meter.Chat, vllm, `{"stream":false,"stream_options":{}}`},
		{meter.Chat, llama, `{"stream":"true"}`},
		{meter.Chat, llama, `{"stream":1}`},
		{meter.Chat, llama, `{"stream":true,"stream":null}`},
		{meter.Chat, llama, `{"messages":[{"stream":true}]}`},
		// Nothing to ask for.
		{meter.Responses, vllm, `{"stream":true}`},
		{meter.Messages, llama, `{"stream":true}`},
		{meter.Messages, vllm, `{"stream":true}`},
		{meter.Embeddings, llama, `{"stream":true}`},
		{meter.Rerank, vllm, `{"stream":true}`},
		{meter.Chat, vllm, `{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`},
		{meter.Chat, vllm, `{"stream":true,"stream_options":1,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`},
		{meter.Chat, llama, `{"stream":true,"stream_options":{"include_usage":true},"timings_per_token":true,"return_progress":true}`},
		// vLLM counts several results right, and so does llama-server one.
		{meter.Chat, vllm, `{"n":2}`},
		{meter.Completions, vllm, `{"prompt":["a","b"]}`},
		{meter.Chat, llama, `{"n":1,"stream":false}`},
		{meter.Messages, llama, `{"n":2}`},
		{meter.Responses, llama, `{"stream":true,"timings_per_token":true}`},
		// For the engine to refuse.
		{meter.Chat, vllm, `{"stream":true,"stream_options":[]}`},
		{meter.Chat, vllm, `{"stream":true,"stream_options":{"include_usage":"yes"}}`},
		{meter.Chat, vllm, `{"stream":true,"stream_options":{"continuous_usage_stats":1}}`},
		{meter.Chat, llama, `{"stream":true,"timings_per_token":"yes"}`},
		{meter.Chat, llama, `{"stream":true,"return_progress":1}`},
		{meter.Chat, llama, `{"n":2,"stream":1}`},
	} {
		f(same.d, same.e, same.body, same.body)
	}
}

// What a body's owner has left to the engine to refuse is also not hidden,
// should the engine be more lenient.
func TestPrepareLeavesAlone(t *testing.T) {
	ask := prepare(t, meter.Chat, meter.VLLM, `{"stream":true,"stream_options":{"include_usage":"yes"}}`)
	src := vllmChat + vllmFinal + done
	got := everySplit(t, copyStream, meter.Chat, meter.VLLM, ask, []byte(src))
	if got.Now+got.Tail != src || got.Usage != usage(12, 8, 3) {
		t.Errorf("forwarded\n%s\n%+v", got.Now+got.Tail, got.Usage)
	}
}

func TestPrepareAsk(t *testing.T) {
	f := func(d meter.Dialect, e meter.Engine, body string, want meter.Ask) {
		t.Helper()
		got := prepare(t, d, e, body)
		got = meter.Ask{Model: got.Model, Stream: got.Stream, N: got.N, Prompts: got.Prompts}
		if got != want {
			t.Errorf("%s: %+v, want %+v", body, got, want)
		}
	}
	llama, vllm := meter.LlamaServer, meter.VLLM
	f(meter.Chat, llama, `{"model":"qw\u0065n \"3\"","n":3,"stream":true}`, meter.Ask{Model: `qwen "3"`, N: 3, Prompts: 1, Stream: true})
	f(meter.Chat, llama, `{"model":7,"n":null,"prompt":["a","b"]}`, meter.Ask{N: 1, Prompts: 1})
	f(meter.Chat, llama, `{"model":"a","model":"b","n":-1}`, meter.Ask{Model: "b", N: 1, Prompts: 1})
	f(meter.Chat, llama, `{"n":99999}`, meter.Ask{N: 1, Prompts: 1})
	f(meter.Messages, llama, `{"n":3}`, meter.Ask{N: 1, Prompts: 1})
	f(meter.Completions, llama, `{"n_cmpl":2,"n":3}`, meter.Ask{N: 2, Prompts: 1})
	f(meter.Completions, vllm, `{"n_cmpl":2,"n":3}`, meter.Ask{N: 3, Prompts: 1})
	f(meter.Completions, vllm, `{"prompt":["a","b","c"]}`, meter.Ask{N: 1, Prompts: 3})
	f(meter.Completions, vllm, `{"prompt":[[1,2],[3]]}`, meter.Ask{N: 1, Prompts: 2})
	f(meter.Completions, vllm, `{"prompt":[1,2,3]}`, meter.Ask{N: 1, Prompts: 1})
	f(meter.Completions, llama, `{"prompt":[1,"a",3]}`, meter.Ask{N: 1, Prompts: 1})
	f(meter.Completions, llama, `{"prompt":[]}`, meter.Ask{N: 1, Prompts: 1})
	f(meter.Completions, llama, `{"prompt":"a"}`, meter.Ask{N: 1, Prompts: 1})
}

func TestPrepareRefuses(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		_, got, err := meter.Prepare(meter.Chat, meter.LlamaServer, []byte(body))
		if err == nil || err.Error() != want || got != nil {
			t.Errorf("Prepare(%.40q) = %q, %v, want error %q", body, got, err, want)
		}
	}
	f("", "request body must be a JSON object")
	f("[]", "request body must be a JSON object")
	f("null", "request body must be a JSON object")
	f("\xef\xbb\xbf{}", "request body must be a JSON object")
	f(`{bad}`, "request body is not valid JSON at byte 1")
	f(`{"a":1,}`, "request body is not valid JSON at byte 7")
	f(`{"a":1} {}`, "request body is not valid JSON at byte 8")
	f(`{"a":nul}`, "request body is not valid JSON at byte 5")
	f("{\"a\":\"\xff\"}", "request body is not valid UTF-8")
	f(`{"a":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000)+`}`, "request body is nested deeper than 1000 levels")
}

// A prepared body asks for nothing more when it is prepared again.
func TestPrepareTwice(t *testing.T) {
	for _, e := range []meter.Engine{meter.LlamaServer, meter.VLLM} {
		_, once, err := meter.Prepare(meter.Chat, e, []byte(`{"stream":true,"messages":[]}`))
		if err != nil || !json.Valid(once) {
			t.Fatalf("once = %s, %v", once, err)
		}
		if _, twice, err := meter.Prepare(meter.Chat, e, once); err != nil || &twice[0] != &once[0] {
			t.Errorf("twice = %s, %v", twice, err)
		}
	}
}

// TestPrepareReadsNAsTheEngineDoes: llama-server takes any JSON number and converts it to
// 32 bits; vLLM takes what is a whole number, also in a text.
func TestPrepareReadsNAsTheEngineDoes(t *testing.T) {
	f := func(n string, llama, vllm int) {
		t.Helper()
		for e, want := range map[meter.Engine]int{meter.LlamaServer: llama, meter.VLLM: vllm} {
			if got := prepare(t, meter.Chat, e, `{"n":`+n+`}`).N; got != want {
				t.Errorf("engine %d reads n %s as %d, want %d", e, n, got, want)
			}
		}
	}
	f(`3.0`, 3, 3)
	f(`3e0`, 3, 3)
	f(`30e-1`, 3, 3)
	f(`3.7`, 3, 1)
	f(`4294967298`, 2, 1)
	f(`-4294967294`, 2, 1)
	f(`9223372036854775810`, 2, 1)
	f(`18446744073709551618`, 1, 1)
	f(`4294967298.0`, 1, 1)
	f(`1e999`, 1, 1)
	f(`"3"`, 1, 3)
	f(`" 3 "`, 1, 3)
	f(`"x"`, 1, 1)
	f(`true`, 1, 1)
	f(`null`, 1, 1)
	f(`[3]`, 1, 1)
	f(`{"n":3}`, 1, 1)
	f(`0`, 1, 1)
}

// TestPrepareRefusesWhatIsNotCounted: forms whose answers do not say what they cost.
func TestPrepareRefusesWhatIsNotCounted(t *testing.T) {
	f := func(d meter.Dialect, e meter.Engine, body, want string) {
		t.Helper()
		got := ""
		if _, _, err := meter.Prepare(d, e, []byte(body)); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
	const (
		texts      = "texts is not served, since the engine does not say what it costs: use documents"
		content    = "content is not served, since the engine does not say what it costs: use input"
		background = "background is not served: the result could not be fetched here"
	)
	llama, vllm := meter.LlamaServer, meter.VLLM
	f(meter.Rerank, llama, `{"query":"q","texts":["a"]}`, texts)
	f(meter.Rerank, llama, `{"query":"q","texts":null,"documents":["a"]}`, texts) // the engine asks whether it is there
	f(meter.Rerank, llama, `{"query":"q","documents":["a"]}`, "")
	f(meter.Rerank, vllm, `{"query":"q","texts":["a"]}`, "")
	f(meter.Embeddings, llama, `{"content":"a"}`, content)
	f(meter.Embeddings, llama, `{"content":"a","input":"b"}`, "")
	f(meter.Embeddings, llama, `{"input":"b"}`, "")
	f(meter.Embeddings, vllm, `{"content":"a"}`, "")
	f(meter.Chat, llama, `{"content":"a","texts":[],"background":true}`, "")
	for _, e := range []meter.Engine{llama, vllm} { // BerriAI/litellm#11308
		f(meter.Responses, e, `{"input":"a","background":true}`, background)
		f(meter.Responses, e, `{"input":"a","background":1}`, background) // vLLM takes it for true
		f(meter.Responses, e, `{"input":"a","background":true,"background":false}`, "")
		f(meter.Responses, e, `{"input":"a","background":null}`, "")
	}
}
