package meter_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"spotinference/server/meter"
)

// cuts makes pieces whose lengths are the bytes of lengths, over and over.
func cuts(lengths []byte) func(int) int {
	i := 0
	return func(left int) int {
		if len(lengths) == 0 {
			return left
		}
		n := int(lengths[i%len(lengths)])%100 + 1
		i++
		return min(n, left)
	}
}

func addCaptures(f *testing.F, add func(body []byte)) {
	paths, err := filepath.Glob(filepath.Join("testdata", "llama-server", "*.body"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no captures: %v", err)
	}
	for _, path := range paths {
		body, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		add(body)
	}
}

func FuzzStream(f *testing.F) {
	add := func(body []byte) {
		for d := range byte(4) {
			f.Add(body, []byte{1, 7, 60}, d, true)
		}
	}
	addCaptures(f, add)
	add([]byte(vllmChat + vllmFinal + done))
	add([]byte("event: error\r\ndata: {\"error\":{}}\r\n\r\n: x\n\ndata: a\ndata: b\n\n"))
	f.Fuzz(checkStream)
}

// words are what streams are made of. Put together at random they reach corners
// that random bytes do not.
var words = []string{
	"data: ", "data:", "event: ", "event: error\n", "event: response.completed\n", "event: message_stop\n", ": ping\n", "id: 1\n",
	"\n", "\n\n", "\r\n", "\r\n\r\n", "\r", "[DONE]", "data: [DONE]\n\n",
	"{", "}", "{}", "[", "]", ",", ":", " ", "null", "1", "-1", `"`, `\`, "true",
	`"timings":{"cache_n":1,"prompt_n":2,"predicted_n":3}`, `"timings":{}`, `"timings":null`, `"tim\u0069ngs":{}`,
	`"usage":{"prompt_tokens":5,"completion_tokens":6}`, `"usage":{"input_tokens":5,"output_tokens":6,"cache_read_input_tokens":2}`, `"usage":{}`,
	`"choices":[]`, `"choices":[{"index":0,"delta":{"content":"x"}}]`, `"choices":[{"index":1,"text":"y","finish_reason":"stop"}]`,
	`"error":{"message":"m","code":400}`, `"error":null`, `"model":"a"`, `"type":"response.output_text.delta","delta":"x"`,
	`"type":"message_delta"`, `"type":"message_stop"`, `"type":"content_block_delta","delta":{"text":"x"}`,
	`"response":{"usage":{"input_tokens":5,"output_tokens":6}}`, `"message":{"usage":{"input_tokens":5}}`, `"x":",\"timings\":{}"`,
	`"prompt_progress":{"total":9,"cache":1,"processed":2}`, `"type":"transcript.text.delta","delta":"x"`, `"type":"transcript.text.done"`, "event: speech.audio.done\n",
	`"type":"response.created","response":{"id":"r"}`, `"type":"response.output_item.added","item":{"id":"a"}`, `"type":"response.content_part.added","item_id":"a"`,
	`"type":"response.reasoning_text.delta","item_id":"a"`, `"sequence_number":4`, `"output_index":1`, `"content_index":null`, `"item_id":"a"`,
	"data: {", "}\n\n", "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":6}}\n\n",
}

func sentence(picks []byte) []byte {
	var b []byte
	for _, p := range picks {
		b = append(b, words[int(p)%len(words)]...)
	}
	return b
}

func FuzzStreamWords(f *testing.F) {
	f.Add([]byte{49, 29, 20, 37, 50, 14}, []byte{3}, byte(0), true)
	f.Fuzz(func(t *testing.T, picks, lengths []byte, dialect byte, llama bool) {
		checkStream(t, sentence(picks), lengths, dialect, llama)
	})
}

// The same without a fuzzer: payloads that are mostly well formed.
func TestStreamWords(t *testing.T) {
	var members []string
	for _, w := range words {
		if len(w) > 1 && w[0] == '"' {
			members = append(members, w)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for turn := range 8000 {
		var src []byte
		for range 1 + r.IntN(4) {
			src = append(src, "data: {"...)
			for i := range r.IntN(6) {
				if i > 0 {
					src = append(src, []string{",", " , "}[r.IntN(2)]...)
				}
				src = append(src, members[r.IntN(len(members))]...)
			}
			src = append(src, []string{"}\n\n", " }\r\n\r\n", "}", "}\n\ndata: [DONE]\n\n"}[r.IntN(4)]...)
		}
		lengths := []byte{byte(r.IntN(100)), byte(r.IntN(100)), byte(r.IntN(100))}
		dialect, llama := byte(r.IntN(6)), r.IntN(2) == 0
		if turn >= 5000 {
			dialect, llama = 2, true // the responses that are completed
		}
		if checkStream(t, src, lengths, dialect, llama); t.Failed() {
			t.Fatalf("stream %q", src)
		}
	}
}

func checkStream(t *testing.T, src, lengths []byte, dialect byte, llama bool) {
	dialects := []meter.Dialect{meter.Chat, meter.Completions, meter.Responses, meter.Messages, meter.Transcriptions, meter.Speech}
	d, e := dialects[int(dialect)%len(dialects)], meter.VLLM
	if llama {
		e = meter.LlamaServer
	}
	whole := func(left int) int { return left }

	// With nothing injected, what leaves is what came.
	plain := copyStream(d, e, meter.Ask{}, src, whole)
	if plain.Now+plain.Tail != string(src) {
		t.Errorf("forwarded %q of %q", plain.Now+plain.Tail, src)
	}
	if plain.Done != (plain.Tail != "") {
		t.Errorf("done %v with %q held", plain.Done, plain.Tail)
	}
	ask := prepare(t, d, e, asksNothing)
	stripped := copyStream(d, e, ask, src, whole)
	if got := copyStream(d, e, ask, src, cuts(lengths)); got != stripped {
		t.Errorf("in pieces %+v\nwhole     %+v", got, stripped)
	}
	// What is stripped changes no count, and leaves JSON behind.
	if plain.Usage != stripped.Usage || plain.Exact != stripped.Exact || plain.Fault != stripped.Fault {
		t.Errorf("stripped %+v\nplain    %+v", stripped, plain)
	}
	if u := stripped.Usage; u.PromptTokens < 0 || u.CachedTokens < 0 || u.CompletionTokens < 0 || u.CachedTokens > u.PromptTokens {
		t.Errorf("usage %+v", u)
	}
	checkStripped(t, plain.Now+plain.Tail, stripped.Now+stripped.Tail)

	completed := completeStream(d, e, ask, src, whole)
	if got := completeStream(d, e, ask, src, cuts(lengths)); got != completed {
		t.Errorf("completed in pieces %+v\nwhole %+v", got, completed)
	}
	checkCompleted(t, stripped, completed)
}

// checkStripped checks that each line of out is one of in, or a JSON payload of
// in with nothing but usage or timings taken away.
func checkStripped(t *testing.T, in, out string) {
	t.Helper()
	if in == out {
		return
	}
	lines := bytes.SplitAfter([]byte(in), []byte("\n"))
	for _, line := range bytes.SplitAfter([]byte(out), []byte("\n")) {
		for ; len(lines) > 0; lines = lines[1:] {
			if bytes.Equal(lines[0], line) || sameButInjected(lines[0], line) {
				break
			}
		}
		if len(lines) == 0 {
			if string(line) == "\n" || len(line) == 0 { // after a comment that was beside a hidden chunk
				continue
			}
			t.Fatalf("line %q came from nowhere in %q", line, in)
		}
	}
}

func sameButInjected(in, out []byte) bool {
	decode := func(line []byte) map[string]json.RawMessage { // raw: a number may be beyond a float
		var m map[string]json.RawMessage
		_, payload, _ := bytes.Cut(line, []byte(":"))
		if json.Unmarshal(payload, &m) != nil {
			return nil
		}
		delete(m, "usage")
		delete(m, "timings")
		return m
	}
	a, b := decode(in), decode(out)
	return a != nil && reflect.DeepEqual(a, b)
}

func FuzzJSON(f *testing.F) {
	addCaptures(f, func(body []byte) { f.Add(body, []byte{3, 1, 50}, byte(0)) })
	f.Add([]byte(`{"us\u0061ge":{"prompt_tokens":1,"completion_tokens":2},"model":"\ud83d","error":"x"}`), []byte{1}, byte(3))
	f.Fuzz(func(t *testing.T, src, lengths []byte, dialect byte) {
		d := meter.Dialect(dialect % 6)
		want := copyJSON(d, meter.LlamaServer, meter.Ask{}, src, func(left int) int { return left })
		if got := copyJSON(d, meter.LlamaServer, meter.Ask{}, src, cuts(lengths)); got != want {
			t.Errorf("in pieces %+v\nwhole     %+v", got, want)
		}
		// Where encoding/json can read it, it reads the same.
		var answer struct {
			Usage *struct {
				Prompt     *int64 `json:"prompt_tokens"`
				Completion *int64 `json:"completion_tokens"`
			}
		}
		if d != meter.Chat || !json.Valid(src) || ambiguous(src) || json.Unmarshal(src, &answer) != nil {
			return
		}
		if !want.Done && bytes.IndexByte(bytes.TrimLeft(src, " \t\r\n")[:1], '{') == 0 {
			t.Errorf("a whole object is not done")
		}
		u := answer.Usage
		if u == nil || u.Prompt == nil || u.Completion == nil {
			return
		}
		if p, c := *u.Prompt, *u.Completion; p >= 0 && c >= 0 && p < 1<<32 && c < 1<<32 {
			if !want.Exact || want.Usage.PromptTokens != p || want.Usage.CompletionTokens != c {
				t.Errorf("usage %+v exact %v, want %d and %d", want.Usage, want.Exact, p, c)
			}
		}
	})
}

// ambiguous reports whether encoding/json may read the text differently from
// the engines: it folds case, and merges members named twice.
func ambiguous(src []byte) bool {
	lower := bytes.ToLower(src)
	return bytes.Count(lower, []byte("us")) > 1 || bytes.Contains(lower, []byte("\\u")) ||
		bytes.Count(lower, []byte("_to")) > 2 || bytes.Contains(lower, []byte("input")) ||
		bytes.Contains(lower, []byte("output")) || !bytes.Contains(src, []byte(`"usage"`)) ||
		!bytes.Contains(src, []byte(`"prompt_tokens"`)) || !bytes.Contains(src, []byte(`"completion_tokens"`)) ||
		len(src) > 60<<10 || bytes.ContainsRune(src, 'ſ')
}

func FuzzPrepare(f *testing.F) {
	for _, body := range []string{
		`{"stream":true}`,
		`{"model":"a","stream":true,"stream_options":{"include_usage":false,"include_usage":true},"n":2}`,
		`{"timings_per_token":false,"stream":true,"timings_per_token":null,"stream_options":null}`,
		` { "stream_options" : { } , "stream" : true , "stream_options" : { "continuous_usage_stats" : false } } `,
		`{"stream\u005foptions":{},"stream":true,"prompt":["a",["b"],1]}`,
		`{"stream":true,"stream_options":[]}`,
		`{"n":2,"stream":false,"return_progress":false}`,
	} {
		for d := range byte(4) {
			f.Add([]byte(body), d, true)
			f.Add([]byte(body), d, false)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, dialect byte, llama bool) {
		d, e := meter.Dialect(dialect%6), meter.VLLM
		if llama {
			e = meter.LlamaServer
		}
		before := bytes.Clone(body)
		ask, out, err := meter.Prepare(d, e, body)
		if !bytes.Equal(before, body) {
			t.Fatalf("body changed to %q", body)
		}
		if err != nil {
			if out != nil || ask != (meter.Ask{}) {
				t.Errorf("refused with %+v %q", ask, out)
			}
			return
		}
		if !json.Valid(out) {
			t.Fatalf("made %q of %q", out, body)
		}
		if !ask.Stream && !ask.Assembled() && !bytes.Equal(out, body) {
			t.Errorf("not streamed, and made %q of %q", out, body)
		}
		again, twice, err := meter.Prepare(d, e, out)
		if err != nil || !bytes.Equal(twice, out) {
			t.Errorf("made %q of %q, %v", twice, out, err)
		}
		if again.Model != ask.Model || again.Stream != (ask.Stream || ask.Assembled()) || again.N != ask.N || again.Prompts != ask.Prompts {
			t.Errorf("asks %+v, before %+v", again, ask)
		}
		// Nothing else is changed.
		if got, want := rest(t, out), rest(t, body); !reflect.DeepEqual(got, want) {
			t.Errorf("left %v of %v", got, want)
		}
	})
}

// rest is what a body holds beside the members that Prepare sets.
func rest(t *testing.T, body []byte) map[string]any {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatalf("unmarshal %q: %v", body, err)
	}
	for _, name := range []string{"stream", "timings_per_token", "return_progress"} {
		delete(m, name)
	}
	out := map[string]any{}
	for k, v := range m {
		out[k] = string(v)
	}
	var options map[string]json.RawMessage
	json.Unmarshal(m["stream_options"], &options)
	delete(options, "include_usage")
	delete(options, "continuous_usage_stats")
	out["stream_options"] = len(options)
	return out
}

func FuzzValid(f *testing.F) {
	addCaptures(f, func(body []byte) { f.Add(body) })
	f.Add([]byte(`{"a":[1,-2.5e+3,"\u00e9\n",true,false,null,{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, want := meter.Valid(b), json.Valid(b)
		if got != want && bytes.Count(b, []byte("["))+bytes.Count(b, []byte("{")) <= meter.MaxDepth {
			t.Errorf("Valid(%q) = %v, want %v", b, got, want)
		}
	})
}
