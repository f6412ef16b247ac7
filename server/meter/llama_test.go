package meter_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"spotinference/ledger"
	"spotinference/server/meter"
)

// The recordings were made without Prepare, so what a request must have asked
// for to be answered like this is spelt out.
const (
	asksNothing = `{"stream":true}`
	asksUsage   = `{"stream":true,"stream_options":{"include_usage":true}}`
	asksTimings = `{"stream":true,"timings_per_token":true}`
	asksBoth    = `{"stream":true,"timings_per_token":true,"stream_options":{"include_usage":true}}`
)

func TestLlamaStreams(t *testing.T) {
	for _, test := range []struct {
		capture string
		dialect meter.Dialect
		body    string
		want    ledger.Usage
		exact   bool
		tail    string
	}{
		{"chat-stream-usage-timings", meter.Chat, asksBoth, usage(59, 58, 8), true, "data: [DONE]\n\n"},
		{"chat-stream-usage-timings", meter.Chat, asksUsage, usage(59, 58, 8), true, "data: [DONE]\n\n"},
		{"chat-stream-usage-timings", meter.Chat, asksTimings, usage(59, 58, 8), true, "data: [DONE]\n\n"},
		{"chat-stream-usage-timings", meter.Chat, asksNothing, usage(59, 58, 8), true, "data: [DONE]\n\n"},
		{"chat-stream-usage", meter.Chat, asksNothing, usage(59, 58, 8), true, "data: [DONE]\n\n"},
		// No usage came, but the last chunk of a choice always has timings.
		{"chat-stream", meter.Chat, asksTimings, usage(59, 58, 8), true, "data: [DONE]\n\n"},
		{"chat-n2-stream", meter.Chat, `{"stream":true,"n":2}`, usage(59, 58, 8), true, "data: [DONE]\n\n"},
		{"completions-stream", meter.Completions, asksNothing, usage(14, 13, 6), true, "data: [DONE]\n\n"},
		{"responses-stream", meter.Responses, asksNothing, usage(37, 36, 6), true, "event: response.completed\n"},
		{"messages-stream", meter.Messages, asksNothing, usage(15, 14, 6), true, "event: message_stop\n"},
	} {
		src := capture(t, test.capture)
		ask := prepare(t, test.dialect, meter.LlamaServer, test.body)
		got := everySplit(t, copyStream, test.dialect, meter.LlamaServer, ask, src)
		if got.Usage != test.want || got.Exact != test.exact {
			t.Errorf("%s %s: usage %+v exact %v, want %+v exact %v",
				test.capture, test.body, got.Usage, got.Exact, test.want, test.exact)
		}
		if !got.Done || got.Fault != (meter.Fault{}) || got.Model != "bigram" {
			t.Errorf("%s: done %v fault %+v model %q", test.capture, got.Done, got.Fault, got.Model)
		}
		if !strings.HasPrefix(got.Tail, test.tail) {
			t.Errorf("%s: tail %q, want %q...", test.capture, got.Tail, test.tail)
		}
		if want := asked(src, test.dialect, test.body); got.Now+got.Tail != want {
			t.Errorf("%s %s: forwarded\n%s\nwant\n%s", test.capture, test.body, got.Now+got.Tail, want)
		}
	}
}

var (
	usageChunk = regexp.MustCompile(`data: \{"choices":\[\].*\n\n`)
	timings    = regexp.MustCompile(`(?m)^(data: .*),"timings":\{[^}]*\}(.*)$`)
)

// asked takes out of a recording what the body did not ask for, by another
// way than the meter's.
func asked(src []byte, d meter.Dialect, body string) string {
	s := string(src)
	if d == meter.Chat && !strings.Contains(body, "include_usage") {
		s = usageChunk.ReplaceAllString(s, "")
	}
	if !strings.Contains(body, "timings") {
		s = timings.ReplaceAllStringFunc(s, func(line string) string {
			if strings.Contains(line, `"usage":`) || strings.Contains(line, `"finish_reason":"`) {
				return line // llama-server puts them there by itself
			}
			return timings.ReplaceAllString(line, "$1$2")
		})
	}
	return s
}

func TestLlamaStreamUntouchedWithoutPrepare(t *testing.T) {
	for name, d := range map[string]meter.Dialect{
		"chat-stream-usage-timings": meter.Chat,
		"chat-n2-stream":            meter.Chat,
		"completions-stream":        meter.Completions,
		"responses-stream":          meter.Responses,
		"messages-stream":           meter.Messages,
	} {
		src := capture(t, name)
		got := everySplit(t, copyStream, d, meter.LlamaServer, meter.Ask{}, src)
		if got.Now+got.Tail != string(src) {
			t.Errorf("%s: forwarded\n%s\nwant\n%s", name, got.Now+got.Tail, src)
		}
	}
}

// cutAt returns the capture's first n events.
func cutAt(src []byte, n int) []byte {
	events := bytes.SplitAfter(src, []byte("\n\n"))
	return bytes.Join(events[:n], nil)
}

func TestLlamaStreamCut(t *testing.T) {
	f := func(name string, d meter.Dialect, body string, events int, want ledger.Usage, exact bool) {
		t.Helper()
		ask := prepare(t, d, meter.LlamaServer, body)
		got := everySplit(t, copyStream, d, meter.LlamaServer, ask, cutAt(capture(t, name), events))
		if got.Usage != want || got.Exact != exact || got.Done || got.Tail != "" {
			t.Errorf("%s cut after %d: usage %+v exact %v done %v tail %q, want %+v exact %v",
				name, events, got.Usage, got.Exact, got.Done, got.Tail, want, exact)
		}
	}
	// After the role chunk nothing was generated.
	f("chat-stream-usage-timings", meter.Chat, asksNothing, 1, usage(0, 0, 0), false)
	// After three tokens the third's timings have the count and the prompt.
	f("chat-stream-usage-timings", meter.Chat, asksNothing, 4, usage(59, 58, 3), false)
	// Before the usage chunk.
	f("chat-stream-usage-timings", meter.Chat, asksNothing, 10, usage(59, 58, 8), false)
	// Between the usage chunk and [DONE] the last word is known already.
	f("chat-stream-usage-timings", meter.Chat, asksNothing, 11, usage(59, 58, 8), true)
	// Without timings: a token an event, and no prompt.
	f("chat-stream", meter.Chat, asksNothing, 4, usage(0, 0, 3), false)
	f("completions-stream", meter.Completions, asksNothing, 4, usage(0, 0, 4), false)
	f("responses-stream", meter.Responses, asksNothing, 7, usage(0, 0, 3), false)
	// Anthropic's dialect says the prompt first.
	f("messages-stream", meter.Messages, asksNothing, 2, usage(15, 14, 0), false)
	f("messages-stream", meter.Messages, asksNothing, 5, usage(15, 14, 3), false)
	f("messages-stream", meter.Messages, asksNothing, 10, usage(15, 14, 6), true)
	// One of two choices has its usage, the other three tokens.
	f("chat-n2-stream", meter.Chat, `{"stream":true,"n":2}`, 11, usage(59, 58, 7), false)
	f("chat-n2-stream", meter.Chat, `{"stream":true,"n":2}`, 14, usage(59, 58, 8), true)
}

func TestLlamaJSON(t *testing.T) {
	f := func(name string, d meter.Dialect, body string, want ledger.Usage, exact bool) {
		t.Helper()
		ask := prepare(t, d, meter.LlamaServer, body)
		got := everySplit(t, copyJSON, d, meter.LlamaServer, ask, capture(t, name))
		if got.Usage != want || got.Exact != exact || !got.Done || got.Fault != (meter.Fault{}) || got.Model != "bigram" {
			t.Errorf("%s: %+v, want usage %+v exact %v", name, got, want, exact)
		}
	}
	f("chat", meter.Chat, `{}`, usage(59, 0, 8), true)
	f("chat-logprobs", meter.Chat, `{}`, usage(59, 58, 2), true)
	f("completions", meter.Completions, `{"prompt":"x"}`, usage(14, 4, 6), true)
	f("responses", meter.Responses, `{}`, usage(37, 4, 6), true)
	f("messages", meter.Messages, `{}`, usage(15, 12, 6), true)
	f("embeddings", meter.Embeddings, `{}`, usage(15, 0, 0), true)
	// The first result's usage alone is no count of the whole.
	f("chat-n2", meter.Chat, `{"n":2}`, usage(59, 58, 4), false)
	f("completions-array", meter.Completions, `{"prompt":["x","y"]}`, usage(14, 13, 3), false)
}

func TestLlamaCompletionsOfSeveralPrompts(t *testing.T) {
	chunk := func(index, prompt, cached, predicted string, final bool) string {
		s := `data: {"choices":[{"text":" x","index":` + index + `,"logprobs":null,"finish_reason":null}],` +
			`"timings":{"cache_n":` + cached + `,"prompt_n":` + prompt + `,"predicted_n":` + predicted + `}}` + "\n\n"
		if final {
			s = strings.Replace(s, `" x"`, `""`, 1)
			s = strings.Replace(s, `"finish_reason":null`, `"finish_reason":"stop"`, 1)
			s = strings.Replace(s, `"timings"`, `"usage":{"completion_tokens":`+predicted+`,"prompt_tokens":`+prompt+
				`,"prompt_tokens_details":{"cached_tokens":`+cached+`}},"timings"`, 1)
		}
		return s
	}
	// Two prompts of two choices: 0 and 1 share a prompt, 2 and 3 the other.
	body := `{"stream":true,"prompt":["a","b"],"n":2}`
	src := "data: null\n\n" +
		chunk("0", "10", "0", "1", false) + chunk("2", "20", "0", "1", false) +
		chunk("1", "10", "0", "2", false) + chunk("3", "20", "0", "2", false)
	ask := prepare(t, meter.Completions, meter.LlamaServer, body)
	got := everySplit(t, copyStream, meter.Completions, meter.LlamaServer, ask, []byte(src))
	if got.Usage != usage(30, 0, 6) || got.Exact {
		t.Errorf("running: %+v exact %v", got.Usage, got.Exact)
	}
	src += chunk("0", "10", "4", "3", true) + chunk("1", "10", "4", "5", true) + chunk("2", "20", "6", "7", true)
	got = everySplit(t, copyStream, meter.Completions, meter.LlamaServer, ask, []byte(src))
	if got.Usage != usage(30, 4, 17) || got.Exact {
		t.Errorf("three of four final: %+v exact %v", got.Usage, got.Exact)
	}
	src += chunk("3", "20", "6", "9", true) + "data: [DONE]\n\n"
	got = everySplit(t, copyStream, meter.Completions, meter.LlamaServer, ask, []byte(src))
	if got.Usage != usage(30, 10, 24) || !got.Exact {
		t.Errorf("final: %+v exact %v", got.Usage, got.Exact)
	}
	if strings.Count(got.Now, `"timings"`) != 4 || strings.Count(got.Now, `"usage"`) != 4 {
		t.Errorf("forwarded %s", got.Now)
	}
}

// The choices of one prompt take it over from the first, which alone evaluated
// it: what it found cached is what was cached.
func TestLlamaCachedOfSeveralChoices(t *testing.T) {
	chunk := func(cached string) string {
		return `data: {"choices":[],"usage":{"completion_tokens":2,"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":` + cached + `}}}` + "\n\n"
	}
	ask := prepare(t, meter.Chat, meter.LlamaServer, `{"stream":true,"n":3}`)
	got := everySplit(t, copyStream, meter.Chat, meter.LlamaServer, ask, []byte(chunk("8")+chunk("1")+chunk("8")))
	if got.Usage != usage(9, 1, 6) || !got.Exact || got.Now != "" {
		t.Errorf("%+v", got)
	}
}

// A token can make several events, of which only the last has timings: a tool
// call does. The engine's reading is then less than the number of events, and
// right.
func TestLlamaSeveralEventsOfOneToken(t *testing.T) {
	src := `data: {"choices":[{"index":0,"delta":{"content":"a"}}],"timings":{"cache_n":0,"prompt_n":9,"predicted_n":4}}` + "\n\n" +
		`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}}]}` + "\n\n"
	ask := prepare(t, meter.Chat, meter.LlamaServer, asksNothing)
	got := everySplit(t, copyStream, meter.Chat, meter.LlamaServer, ask, []byte(src))
	if got.Usage != usage(9, 0, 5) {
		t.Errorf("within the token: %+v", got.Usage)
	}
	src += `data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}}],"timings":{"cache_n":0,"prompt_n":9,"predicted_n":5}}` + "\n\n"
	got = everySplit(t, copyStream, meter.Chat, meter.LlamaServer, ask, []byte(src))
	if got.Usage != usage(9, 0, 5) {
		t.Errorf("after it: %+v", got.Usage)
	}
}

func TestLlamaPrefillCut(t *testing.T) {
	src := `data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],` +
		`"prompt_progress":{"total":4000,"cache":100,"processed":2048,"time_ms":5}}` + "\n\n"
	ask := prepare(t, meter.Chat, meter.LlamaServer, `{"stream":true,"return_progress":true}`)
	got := everySplit(t, copyStream, meter.Chat, meter.LlamaServer, ask, []byte(src))
	if got.Usage != usage(4000, 100, 0) || got.Exact {
		t.Errorf("usage %+v exact %v", got.Usage, got.Exact)
	}
}
