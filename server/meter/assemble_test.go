package meter_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"spotinference/server/meter"
)

// assemble feeds a stream to the meter of a request that did not ask for one.
func assemble(t testing.TB, d meter.Dialect, body string, src []byte, cut func(left int) int) (result, string, error) {
	t.Helper()
	ask := prepare(t, d, meter.LlamaServer, body)
	if !ask.Assembled() || ask.Stream {
		t.Fatalf("%s is not assembled: %+v", body, ask)
	}
	m := meter.New(d, meter.LlamaServer, ask)
	for len(src) > 0 {
		n := cut(len(src))
		piece := bytes.Clone(src[:n])
		m.Stream(nil, piece)
		clear(piece)
		src = src[n:]
	}
	m.Close(nil)
	answer, err := m.Answer()
	return resultOf(m, nil), string(answer), err
}

func atOnce(left int) int { return left }

// TestAssemble: the recorded stream of two choices makes what the engine would
// have answered, but with the tokens of both.
func TestAssemble(t *testing.T) {
	src := capture(t, "chat-n2-stream")
	r, answer, err := assemble(t, meter.Chat, `{"n":2}`, src, atOnce)
	if err != nil || r.Usage != usage(59, 58, 8) || !r.Exact || !r.Done {
		t.Fatalf("%+v, %v", r, err)
	}
	var got, want map[string]any
	if err := json.Unmarshal([]byte(answer), &got); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	if err := json.Unmarshal(capture(t, "chat-n2"), &want); err != nil {
		t.Fatal(err)
	}
	usage := got["usage"]
	if !reflect.DeepEqual(usage, map[string]any{"completion_tokens": 8.0, "prompt_tokens": 59.0, "total_tokens": 67.0, "prompt_tokens_details": map[string]any{"cached_tokens": 58.0}}) {
		t.Errorf("usage = %v", usage)
	}
	// What was drawn differs between two recordings; the rest may not.
	for _, m := range []map[string]any{got, want} {
		for _, c := range m["choices"].([]any) {
			message := c.(map[string]any)["message"].(map[string]any)
			if text, _ := message["content"].(string); len(strings.Fields(text)) == 0 {
				t.Errorf("no text in %v", c)
			}
			delete(message, "content")
		}
		for _, name := range []string{"id", "created", "usage", "timings"} {
			delete(m, name)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("assembled\n%v\nwant\n%v", got, want)
	}
}

func TestAssembleEverything(t *testing.T) {
	t.Parallel()
	f := func(d meter.Dialect, body, want string, events ...string) {
		t.Helper()
		var src []byte
		for _, e := range events {
			src = append(src, "data: "+e+"\n\n"...)
		}
		for seed := range uint64(5) {
			r := rand.New(rand.NewPCG(seed, 3))
			cut := func(left int) int { return 1 + r.IntN(left) }
			if seed == 0 {
				cut = atOnce
			}
			if _, got, err := assemble(t, d, body, src, cut); got != want || err != nil {
				t.Fatalf("assembled\n%s, %v\nwant\n%s", got, err, want)
			}
		}
	}
	const u = `{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}`
	const end = `[DONE]`
	sum := func(completion, total string) string {
		return `"usage":{"completion_tokens":` + completion + `,"prompt_tokens":3,"total_tokens":` + total + `,"prompt_tokens_details":{"cached_tokens":0}}}`
	}

	// Reasoning, then tool calls in pieces, among those of another choice; a null event first.
	f(meter.Chat, `{"n":2}`,
		`{"choices":[{"index":0,"finish_reason":"tool_calls","message":{"role":"assistant","content":null,"reasoning_content":"hm \"x\"","tool_calls":[`+
			`{"id":"a","type":"function","function":{"name":"f","arguments":"{\"k\":1}"}},{"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]}},`+
			`{"index":1,"finish_reason":"stop","message":{"role":"assistant","content":"\ud83d\ude00"}}],"id":"c","object":"chat.completion",`+sum("4", "7"),
		`null`,
		`{"choices":[{"index":1,"finish_reason":null,"delta":{"role":"assistant","content":null}}],"id":"c","object":"chat.completion.chunk"}`,
		`{"choices":[{"index":0,"finish_reason":null,"delta":{"role":"assistant","content":null}}],"id":"c","object":"chat.completion.chunk"}`,
		`{"choices":[{"index":0,"finish_reason":null,"delta":{"reasoning_content":"hm "}}]}`,
		`{"choices":[{"index":1,"finish_reason":null,"delta":{"content":"\ud83d"}}]}`,
		`{"choices":[{"index":0,"finish_reason":null,"delta":{"reasoning_content":"\"x\""}}]}`,
		`{"choices":[{"index":0,"finish_reason":null,"delta":{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}}]}`,
		`{"choices":[{"index":0,"finish_reason":null,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"k\":"}}]}}]}`,
		`{"choices":[{"index":0,"finish_reason":null,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}}]}`,
		`{"choices":[{"index":0,"finish_reason":null,"delta":{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]}}]}`,
		`{"choices":[{"index":1,"finish_reason":null,"delta":{"content":"\ude00"}}]}`,
		`{"choices":[{"index":1,"finish_reason":"stop","delta":{}}]}`, u,
		`{"choices":[{"index":0,"finish_reason":"tool_calls","delta":{}}]}`, u, end)
	// Logprobs of several prompts; the second makes nothing.
	const lp = `{"id":1,"token":"a","bytes":[97],"logprob":-1.609437942e-05,"top_logprobs":[{"id":2,"logprob":0.0}]}`
	f(meter.Completions, `{"prompt":["a","b"],"logprobs":1}`,
		`{"choices":[{"text":"aa","index":0,"logprobs":{"content":[`+lp+`,`+lp+`]},"finish_reason":"length"},`+
			`{"text":"","index":1,"logprobs":null,"finish_reason":"stop"}],"object":"text_completion","usage":{"completion_tokens":2,"prompt_tokens":7,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":1}}}`,
		`{"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":null}],"object":"text_completion","prompt_progress":{"total":3,"cache":1,"processed":3}}`,
		`{"choices":[{"text":"a","index":0,"logprobs":{"content":[`+lp+`]},"finish_reason":null}]}`,
		`{"choices":[{"text":"","index":1,"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":0}}`,
		`{"choices":[{"text":"a","index":0,"logprobs":{"content":[`+lp+`]},"finish_reason":null}]}`,
		`{"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}`, end)

	refused := func(src, want string) {
		t.Helper()
		if _, got, err := assemble(t, meter.Chat, `{"n":2}`, []byte(src), atOnce); err == nil || err.Error() != want || got != "" {
			t.Errorf("%.80q: %q, %v, want error %q", src, got, err, want)
		}
	}
	const half = `data: {"choices":[{"index":0,"delta":{"content":"a"}}]}` + "\n\n"
	refused(half, "the stream was not whole")
	refused(half+`data: {"error":{"message":"m"}}`+"\n\n"+done, "the stream was not whole")
	refused(done, "the stream was not whole")
	refused(`data: {"usage":{"prompt_tokens":1,"completion_tokens":1}}`+"\n\n"+done, "the stream held no answer")
	refused(`data: {"choices":[{"index":4096,"delta":{}}]}`+"\n\n"+done, "an answer of over 4096 choices")
}

// TestAssembleLarge: what is too large to be read, or to be held, is refused. Nothing is
// cloned, as it is elsewhere, and nothing large is joined: that would take most of the time.
func TestAssembleLarge(t *testing.T) {
	t.Parallel()
	refused := func(want string, pieces ...string) {
		t.Helper()
		m := meter.New(meter.Chat, meter.LlamaServer, prepare(t, meter.Chat, meter.LlamaServer, `{"n":2}`))
		for _, p := range pieces {
			m.Stream(nil, []byte(p))
		}
		m.Close(nil)
		if got, err := m.Answer(); err == nil || err.Error() != want || got != nil {
			t.Errorf("%d bytes, %v, want error %q", len(got), err, want)
		}
	}
	const half = `data: {"choices":[{"index":0,"delta":{"content":"a"}}]}` + "\n\n"
	refused("an event that is too long to be read", `data: {"x":"`+strings.Repeat("x", 17<<20)+`"}`+"\n\n"+half+done)
	large := `data: {"choices":[{"index":0,"delta":{"content":"a"}}],"x":"` + strings.Repeat("x", 3<<20) + `"}` + "\n\n"
	refused("an answer of over 64 MiB", append(slices.Repeat([]string{large}, 22), done)...)
}

// FuzzAssemble: what is assembled is JSON, whatever pieces it came in, and the
// count is that of the stream.
func FuzzAssemble(f *testing.F) {
	add := func(src []byte) {
		f.Add(src, []byte{3, 50}, true)
		f.Add(src, []byte{99}, false)
	}
	addCaptures(f, add)
	add([]byte(`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}},7,[]]},"logprobs":{"content":[1]}}],"object":"a.chunk"}` + "\n\n" + done))
	f.Fuzz(checkAssembled)
}

func FuzzAssembleWords(f *testing.F) {
	f.Add([]byte{49, 29, 20, 37, 50, 14}, []byte{3}, true)
	f.Fuzz(func(t *testing.T, picks, lengths []byte, chat bool) {
		checkAssembled(t, sentence(picks), lengths, chat)
	})
}

func checkAssembled(t *testing.T, src, lengths []byte, chat bool) {
	d, body := meter.Completions, `{"prompt":["a","b"]}`
	if chat {
		d, body = meter.Chat, `{"n":2}`
	}
	whole, answer, err := assemble(t, d, body, src, atOnce)
	if (err == nil) != (answer != "") || err == nil && !json.Valid([]byte(answer)) {
		t.Errorf("assembled %q, %v", answer, err)
	}
	if got, again, err2 := assemble(t, d, body, src, cuts(lengths)); got != whole || again != answer || (err == nil) != (err2 == nil) {
		t.Errorf("in pieces %q %v\nwhole     %q %v", again, err2, answer, err)
	}
	streamed := copyStream(d, meter.LlamaServer, prepare(t, d, meter.LlamaServer, `{"stream":true,`+body[1:]), src, atOnce)
	if streamed.Usage != whole.Usage || streamed.Exact != whole.Exact || streamed.Done != whole.Done {
		t.Errorf("assembled %+v\nstreamed  %+v", whole, streamed)
	}
}
