package meter_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"spotinference/server/meter"
)

func TestStrip(t *testing.T) {
	f := func(e meter.Engine, payload, want string) {
		t.Helper()
		ask := prepare(t, meter.Chat, e, asksNothing)
		got := everySplit(t, copyStream, meter.Chat, e, ask, []byte("data: "+payload+"\n\n"))
		if want != "" {
			want = "data: " + want + "\n\n"
		}
		if got.Now+got.Tail != want {
			t.Errorf("%s\nforwarded %q\nwant      %q", payload, got.Now+got.Tail, want)
		}
	}
	llama, vllm := meter.LlamaServer, meter.VLLM
	choice := `"choices":[{"index":0,"delta":{"content":"x"}}]`

	// First, middle, last, only.
	f(llama, `{"timings":{"predicted_n":1},`+choice+`}`, `{`+choice+`}`)
	f(llama, `{"id":"a","timings":{"predicted_n":1},`+choice+`}`, `{"id":"a",`+choice+`}`)
	f(llama, `{`+choice+`,"timings":{"predicted_n":1}}`, `{`+choice+`}`)
	f(llama, `{"timings":{"predicted_n":1}}`, `{}`)
	// Spaces stay where they do no harm.
	f(llama, ` { "timings" : {"predicted_n":1} , "id" : 1 } `, ` {  "id" : 1 } `)
	f(llama, `{ "id" : 1 , "timings" : { } }`, `{ "id" : 1  }`)
	f(llama, `{ "timings" : {} }`, `{  }`)
	// Named twice, side by side or apart, and together with a name that is escaped.
	f(llama, `{"timings":{},"timings":{},"id":1}`, `{"id":1}`)
	f(llama, `{"timings":{},"timings":{}}`, `{}`)
	f(llama, `{"timings":{},"id":1,"timings":{}}`, `{"id":1}`)
	f(llama, `{"id":1,"timings":{},"timings":{}}`, `{"id":1}`)
	f(llama, `{"id":1,"tim\u0069ngs":{}}`, `{"id":1}`)
	// The text of an answer may say anything.
	text := `{"choices":[{"index":0,"delta":{"content":",\"timings\":{\"predicted_n\":9},\"usage\":{} \\\" }"}}]}`
	f(llama, text, text)
	f(vllm, text, text)
	// A member of that name deeper down, or of another type, is not ours.
	f(llama, `{"x":{"timings":{}}}`, `{"x":{"timings":{}}}`)
	f(llama, `{"timings":null}`, `{"timings":null}`)
	// llama-server puts timings beside a final usage by itself.
	f(llama, `{`+choice+`,"usage":{"prompt_tokens":1,"completion_tokens":1},"timings":{}}`,
		`{`+choice+`,"usage":{"prompt_tokens":1,"completion_tokens":1},"timings":{}}`)
	// A chunk that holds nothing but usage goes, one that an error is in stays.
	f(llama, `{"choices":[],"usage":{}}`, "")
	f(vllm, `{"usage":{},"choices":[ ]}`, "")
	f(vllm, `{"usage":{},"choices":[],"error":{"message":"x"}}`, `{"usage":{},"choices":[],"error":{"message":"x"}}`)
	// vLLM's usage beside a choice.
	f(vllm, `{"usage":{"completion_tokens":1},`+choice+`}`, `{`+choice+`}`)
	f(vllm, `{`+choice+`,"usage":{"completion_tokens":1},"x":1}`, `{`+choice+`,"x":1}`)
	f(vllm, `{`+choice+`,"usage":null}`, `{`+choice+`,"usage":null}`)
	f(vllm, `{`+choice+`,"timings":{}}`, `{`+choice+`,"timings":{}}`)
	// What is not JSON is not touched.
	for _, s := range []string{"null", "[1]", "{", `{"timings":{},}`, "\x00", `{"timings":{}} x`} {
		f(llama, s, s)
	}
	got := everySplit(t, copyStream, meter.Chat, llama, meter.Ask{}, []byte("data:\n\n"))
	if got.Now != "data:\n\n" {
		t.Errorf("empty data: forwarded %q", got.Now)
	}
}

func TestStreamFraming(t *testing.T) {
	f := func(src, now, tail string, tokens int64) {
		t.Helper()
		ask := prepare(t, meter.Chat, meter.LlamaServer, asksNothing)
		got := everySplit(t, copyStream, meter.Chat, meter.LlamaServer, ask, []byte(src))
		if got.Now != now || got.Tail != tail || got.Usage.CompletionTokens != tokens {
			t.Errorf("%q\nforwarded %q\nheld      %q, %d tokens\nwant %q\nheld %q, %d tokens",
				src, got.Now, got.Tail, got.Usage.CompletionTokens, now, tail, tokens)
		}
	}
	one := `{"choices":[{"index":0,"delta":{"content":"x"}}]}`
	timed := `{"choices":[{"index":0,"delta":{"content":"x"}}],"timings":{"predicted_n":3}}`

	f(": ping\n\ndata: "+one+"\n\n", ": ping\n\ndata: "+one+"\n\n", "", 1)
	f("data:"+timed+"\r\n\r\n: ping\r\n\r\ndata: [DONE]\r\n\r\n", "data:"+one+"\r\n\r\n: ping\r\n\r\n", "data: [DONE]\r\n\r\n", 3)
	f("id: 7\nevent: chunk\ndata: "+timed+"\nretry: 5\n\n", "id: 7\nevent: chunk\ndata: "+one+"\nretry: 5\n\n", "", 3)
	f("\n\n\ndata: "+one+"\n\n\n\n", "\n\n\ndata: "+one+"\n\n\n\n", "", 1)
	// A payload on several lines is read, and left as it is.
	split := "data: {\"choices\":[{\"index\":0,\ndata: \"delta\":{\"content\":\"x\"}}],\"timings\":{\"predicted_n\":4}}\n\n"
	f(split, split, "", 4)
	// A carriage return in the middle, and one that begins a line.
	f("data: a\rb\n\rdata: x\n\n", "data: a\rb\n\rdata: x\n\n", "", 0)
	// The comment of a hidden event is not hidden.
	f(": ping\ndata: {\"choices\":[],\"usage\":{}}\n\n", ": ping\n\n", "", 0)

	// A line of one byte is not blank: this is one event, and hidden.
	f("x\ndata: {\"choices\":[],\"usage\":{}}\n\n", "", "", 0)

	// The end of the stream.
	f("data: "+timed+"\n", "data: "+one+"\n", "", 3)
	f("data: "+timed, "data: "+one, "", 3)
	f("data: "+timed[:60], "data: "+timed[:60], "", 0)
	f("data: "+one+"\n\ndata: [DONE]", "data: "+one+"\n\n", "data: [DONE]", 1)
	f("data: "+one+"\n\ndata: [DO", "data: "+one+"\n\ndata: [DO", "", 1)
	f("event: error\ndata: {\"er", "event: error\ndata: {\"er", "", 0)
	f("event: error\ndata: {\"er\n\n", "", "event: error\ndata: {\"er\n\n", 0)
	f("data: [DONE]\n\n: late\n\ndata: more", "", "data: [DONE]\n\n: late\n\ndata: more", 0)
	f("", "", "", 0)
}

func TestStreamLargeEvents(t *testing.T) {
	t.Parallel()
	// Token probabilities make events far larger than a read.
	payload := `{"choices":[{"index":0,"delta":{"content":"x"},"logprobs":{"content":"` + strings.Repeat(`é\"`, 30<<10) + `"}}]}`
	src := "data: " + payload[:len(payload)-1] + `,"timings":{"predicted_n":2,"cache_n":0,"prompt_n":5}}` + "\n\n" + done
	ask := prepare(t, meter.Chat, meter.LlamaServer, asksNothing)
	got := everySplit(t, copyStream, meter.Chat, meter.LlamaServer, ask, []byte(src))
	if got.Now != "data: "+payload+"\n\n" || got.Usage != usage(5, 0, 2) || got.Tail != done {
		t.Errorf("large event: usage %+v, %d bytes of %d", got.Usage, len(got.Now), len(payload)+8)
	}
}

func TestStreamLimit(t *testing.T) {
	event := func(n int) string {
		return `data: {"choices":[{"index":0,"delta":{"content":"` + strings.Repeat("x", n) + `"}}],"timings":{"predicted_n":2}}` + "\n\n"
	}
	// The lines of a long event are not taken for events of their own.
	long := ": " + strings.Repeat("x", 1000) + "\ndata: [DONE]\n\n"
	src := event(10) + event(1000) + long + event(10) + done + strings.Repeat("z", 2000)
	ask := prepare(t, meter.Chat, meter.LlamaServer, asksNothing)
	limited := func(d meter.Dialect, e meter.Engine, ask meter.Ask, src []byte, cut func(int) int) result {
		m := meter.New(d, e, ask)
		m.SetLimit(500)
		var now []byte
		for len(src) > 0 {
			n := cut(len(src))
			now = m.Stream(now, src[:n])
			src = src[n:]
			if m.Kept() > 500 {
				t.Fatalf("%d bytes kept", m.Kept())
			}
		}
		return resultOf(m, m.Close(now))
	}
	got := everySplit(t, limited, meter.Chat, meter.LlamaServer, ask, []byte(src))
	small := strings.Replace(event(10), `,"timings":{"predicted_n":2}`, "", 1)
	if want := small + event(1000) + long + small; got.Now != want {
		t.Errorf("forwarded %q, want %q", got.Now, want)
	}
	if want := (done + strings.Repeat("z", 2000))[:1000]; got.Tail != want {
		t.Errorf("held %d bytes, want %d", len(got.Tail), len(want))
	}
}

func TestStreamNonsense(t *testing.T) {
	f := func(e meter.Engine, src string, tokens int64, exact bool) {
		t.Helper()
		ask := prepare(t, meter.Chat, e, `{"stream":true,"n":2}`)
		got := everySplit(t, copyStream, meter.Chat, e, ask, []byte(src))
		if got.Usage.CompletionTokens != tokens || got.Exact != exact {
			t.Errorf("%s: %+v exact %v, want %d tokens exact %v", src, got.Usage, got.Exact, tokens, exact)
		}
	}
	final := func(completion string) string {
		return `data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":` + completion + `}}` + "\n\n"
	}
	two := strings.Repeat(`data: {"choices":[{"index":0,"delta":{"content":"x"}}]}`+"\n\n", 2)
	for _, n := range []string{"-5", "1e3", "7.0", "99999999999", "4294967297", `"7"`, "null", "{}", "true"} {
		f(meter.VLLM, two+final(n)+done, 2, false)
		f(meter.LlamaServer, two+final(n)+done, 2, false)
		// One good count does not make up for one that cannot be read.
		f(meter.LlamaServer, two+final("4")+final(n)+done, 4, false)
	}
	f(meter.VLLM, two+final("4294967296")+done, 1<<32, true)
	// An engine that gave fewer choices than were asked for is done at [DONE],
	// unless an error came first.
	f(meter.LlamaServer, two+final("4"), 4, false)
	f(meter.LlamaServer, two+final("4")+done, 4, true)
	f(meter.LlamaServer, two+final("4")+"data: {\"error\":\"x\"}\n\n"+done, 4, false)
	// A choice beyond any number that was asked for still counts its events.
	f(meter.VLLM, `data: {"choices":[{"index":4000000000,"delta":{"content":"x"}}]}`+"\n\n", 1, false)
	f(meter.VLLM, `data: {"choices":[{"index":-1,"delta":{"content":"x"}}]}`+"\n\n", 1, false)
	// A reading that goes back is not one.
	read := func(n int) string {
		return fmt.Sprintf(`data: {"choices":[{"index":0,"delta":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":%d}}`+"\n\n", n)
	}
	f(meter.VLLM, read(5)+read(2), 6, false)
}

func TestStreamContent(t *testing.T) {
	f := func(choice string, tokens int64) {
		t.Helper()
		src := `data: {"choices":[` + choice + `]}` + "\n\n"
		got := everySplit(t, copyStream, meter.Chat, meter.VLLM, meter.Ask{}, []byte(src))
		if got.Usage.CompletionTokens != tokens {
			t.Errorf("%s: %d tokens, want %d", choice, got.Usage.CompletionTokens, tokens)
		}
	}
	f(`{"delta":{"role":"assistant","content":""}}`, 0)
	f(`{"delta":{"role":"assistant","content":null,"reasoning":null,"tool_calls":[]}}`, 0)
	f(`{"delta":{"content":""},"finish_reason":"stop"}`, 0)
	f(`{"delta":{}}`, 0)
	f(`{"delta":{"content":"a"}}`, 1)
	f(`{"delta":{"reasoning_content":"a"}}`, 1)
	f(`{"delta":{"refusal":"a"}}`, 1)
	f(`{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}}`, 1)
	f(`{"delta":{"tool_calls":[ ]}}`, 0)
	f(`{"delta":7}`, 0)
	f(`7`, 0)
	f(`{"text":"a"}`, 1)
	f(`{"text":""}`, 0)
}

// The steady state of a stream costs no garbage.
func TestStreamAllocations(t *testing.T) {
	f := func(d meter.Dialect, e meter.Engine, event string) {
		t.Helper()
		m := meter.New(d, e, prepare(t, d, e, asksNothing))
		out := make([]byte, 0, 4096)
		src := []byte(event)
		m.Stream(out, src)
		if n := testing.AllocsPerRun(100, func() { out = m.Stream(out[:0], src) }); n != 0 {
			t.Errorf("%s %d: %v allocations for an event", d, e, n)
		}
		// In two pieces, the first of which has to be kept.
		m.Stream(out, src[:40])
		m.Stream(out, src[40:])
		n := testing.AllocsPerRun(100, func() {
			out = m.Stream(out[:0], src[:100])
			out = m.Stream(out, src[100:])
		})
		if n != 0 {
			t.Errorf("%s %d: %v allocations for a split event", d, e, n)
		}
	}
	f(meter.Chat, meter.LlamaServer, llamaChunk)
	f(meter.Chat, meter.VLLM, vllmChunk)
	f(meter.Responses, meter.LlamaServer, string(cutAt(capture(t, "responses-stream"), 5)))
	f(meter.Messages, meter.VLLM, string(cutAt(capture(t, "messages-stream"), 3)))
}

func TestJSONAnswer(t *testing.T) {
	f := func(d meter.Dialect, src string, want result) {
		t.Helper()
		got := everySplit(t, copyJSON, d, meter.LlamaServer, meter.Ask{}, []byte(src))
		if got != want {
			t.Errorf("%s:\n%+v, want\n%+v", src, got, want)
		}
	}
	counted := result{Usage: usage(9, 4, 2), Exact: true, Done: true}
	f(meter.Chat, `{"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}`, counted)
	// The cached part from timings, wherever they stand.
	f(meter.Chat, `{"timings":{"cache_n":4},"usage":{"prompt_tokens":9,"completion_tokens":2}}`, counted)
	f(meter.Chat, `{"usage":{"prompt_tokens":9,"completion_tokens":2},"timings":{"cache_n":4}}`, counted)
	f(meter.Chat, ` { "us\u0061ge" : { "prompt_tokens" : 9 , "completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}} , "x" : [ ] } `, counted)
	f(meter.Chat, `{"a":"\"","b":"\\","usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}`, counted)
	// Named twice: the last.
	f(meter.Chat, `{"usage":{"prompt_tokens":1,"completion_tokens":1},"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}`, counted)
	// More cached than there is.
	f(meter.Chat, `{"usage":{"prompt_tokens":4,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":9}}}`,
		result{Usage: usage(4, 4, 2), Exact: true, Done: true})
	// What only looks like it.
	f(meter.Chat, `{"a":"\"usage\":{\"prompt_tokens\":9}","b":{"usage":{"prompt_tokens":9,"completion_tokens":2}},"c":["usage",{"usage":1}]}`, result{Done: true})
	f(meter.Chat, `{"usage":{"prompt_tokens":9,"completion_tokens":}}`, result{Done: true})
	f(meter.Chat, `{"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":5.5}},"timings":7,"model":7}`, result{Usage: usage(9, 0, 2), Exact: true, Done: true})
	f(meter.Chat, `{"usage":{"prompt_tokens":9,"completion_tokens":2},"usage":`, result{Usage: usage(9, 0, 2), Exact: true})
	f(meter.Chat, `{"usage":{"prompt_tokens":9,"completion_tokens":2}`, result{})
	f(meter.Chat, `{"usage":{"prompt_tokens":9,"completion_tokens":"2"}}`, result{Usage: usage(9, 0, 0), Done: true})
	f(meter.Chat, `"usage"`, result{})
	f(meter.Chat, `[{"usage":{"prompt_tokens":9,"completion_tokens":2}}]`, result{Done: true})
	f(meter.Chat, ``, result{})
	f(meter.Chat, `{"model":"a\nb\u00e9","model2":"c"}`, result{Model: "a\nbé", Done: true})
	f(meter.Chat, `{"error":{"message":"no","code":404}}`, result{Done: true, Fault: meter.Fault{Message: "no", Type: "invalid_request_error"}})
	f(meter.Chat, `{"error":null}`, result{Done: true})
	f(meter.Chat, `{}{"usage":{"prompt_tokens":9,"completion_tokens":2}}`, result{Done: true})
	// A value too large to be one of ours is not kept, and does no harm.
	f(meter.Chat, `{"error":"`+strings.Repeat("x", 70<<10)+`","usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}`, counted)
	f(meter.Chat, `{"`+strings.Repeat("x", 70<<10)+`":1,"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}`, counted)
}

func TestJSONAnswerKeepsLittle(t *testing.T) {
	m := meter.New(meter.Embeddings, meter.LlamaServer, meter.Ask{})
	m.JSON([]byte(`{"error":"`))
	for range 1000 {
		m.JSON([]byte(strings.Repeat("x", 1000)))
		if m.Kept() > 70<<10 {
			t.Fatalf("%d bytes kept", m.Kept())
		}
	}
}

func TestCursorValid(t *testing.T) {
	for _, s := range []string{
		`{}`, `[]`, ` [ 1 , -0.5e+3 , "a\u00e9\n" , true , false , null , { "a" : {} } ] `, `"é"`, "0", `"\ud800"`,
		``, ` `, `{`, `}`, `[1,]`, `{"a":1,}`, `{a:1}`, `{"a"}`, `{"a":}`, `{"a" 1}`, `[1 2]`, `01`, `1.`, `.5`, `-`, `1e`, `+1`,
		`"a`, "\"a\nb\"", `"\x"`, `"\u12g4"`, `"\u12`, `"\`, `tru`, `truex`, `nul`, `NaN`, `[1]]`, `{"a":1}}`, "\xef\xbb\xbf{}",
		`"12345678\"`, `"1234567"`, "\"1234567\x1f\"", `"éééééé\"éé"`,
	} {
		if got, want := meter.Valid([]byte(s)), json.Valid([]byte(s)); got != want {
			t.Errorf("Valid(%q) = %v, want %v", s, got, want)
		}
	}
	deep := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if !meter.Valid(deep(meter.MaxDepth)) || meter.Valid(deep(meter.MaxDepth+1)) {
		t.Errorf("nesting is not bounded at %d", meter.MaxDepth)
	}
}

// TestALongEventTakesLittle: while events of 64 MiB pass, each stream keeps what one that is
// read may have, and when they have passed next to nothing.
func TestALongEventTakesLittle(t *testing.T) {
	// Not in parallel: it looks at the whole process's memory.
	const streams, size, most = 8, 64 << 20, 5 << 20 // a buffer grows by a quarter
	heap := func() int64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	piece := []byte(strings.Repeat("x", 8<<10))
	for name, head := range map[string]string{
		"one line":   `data: {"choices":[{"index":0,"delta":{"content":"`,
		"many lines": "data: 1\ndata: 2\ndata: ",
		"a comment":  ": ",
	} {
		before := heap()
		var ms []*meter.Meter
		out := make([]byte, 0, 64<<10) // as the server does, it is not kept when it grew
		feed := func(m *meter.Meter, p []byte) { m.Stream(out, p) }
		for range streams {
			m := meter.New(meter.Chat, meter.LlamaServer, meter.Ask{})
			feed(m, []byte(head))
			ms = append(ms, m)
		}
		var peak int64
		for sent := 0; sent < size; sent += len(piece) {
			for _, m := range ms {
				feed(m, piece)
			}
			if sent%(size/64) == 0 {
				peak = max(peak, heap()-before)
			}
		}
		for _, m := range ms {
			feed(m, []byte("\n\n"))
		}
		if peak > streams*most {
			t.Errorf("%s: %d MiB a stream", name, peak/streams>>20)
		}
		if left := heap() - before; left > streams*(256<<10) {
			t.Errorf("%s: afterwards %d KiB a stream", name, left/streams>>10)
		}
		runtime.KeepAlive(ms)
	}
}

// TestTheLastEventOfALongAnswerIsRead: the text of a million tokens is in it.
func TestTheLastEventOfALongAnswerIsRead(t *testing.T) {
	m := meter.New(meter.Responses, meter.VLLM, meter.Ask{Stream: true})
	text := strings.Repeat("word ", 700_000)
	m.Stream(nil, []byte(`data: {"type":"response.completed","response":{"status":"completed","output":[{"content":[{"text":"`+text+`"}]}],"usage":{"input_tokens":7,"output_tokens":1000000}}}`+"\n\n"))
	if u := m.Usage(); !m.Exact() || u.CompletionTokens != 1_000_000 || u.PromptTokens != 7 {
		t.Errorf("%+v, exact %v", u, m.Exact())
	}
}
