package meter_test

import (
	"bytes"
	"io"
	"mime/multipart"
	"net/textproto"
	"strings"
	"testing"

	"spotinference/server/meter"
)

const formType = `multipart/form-data; boundary=xyz`

// form writes a multipart form by hand: pairs of a name and a value, and a file.
func form(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		b.WriteString("--xyz\r\nContent-Disposition: form-data; name=\"" + pairs[i] + "\"\r\n\r\n" + pairs[i+1] + "\r\n")
	}
	b.WriteString("--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n\r\n--xy\x00\xff\r\n--xyz--\r\n")
	return b.String()
}

func TestPrepareForm(t *testing.T) {
	f := func(e meter.Engine, body, model string, stream bool, want string) {
		t.Helper()
		ask, got, err := meter.PrepareForm(meter.Transcriptions, e, formType, []byte(body))
		if err != nil || string(got) != want || ask.Model != model || ask.Stream != stream {
			t.Errorf("PrepareForm(%q) = %+v, %v\n got %q\nwant %q", body, ask, err, got, want)
		}
	}
	same := func(e meter.Engine, model string, stream bool, pairs ...string) {
		t.Helper()
		f(e, form(pairs...), model, stream, form(pairs...))
	}
	same(meter.LlamaServer, "w", true, "model", "w", "stream", "true")
	same(meter.VLLM, "w", false, "model", "w")
	same(meter.VLLM, "b", false, "model", "a", "model", "b", "stream", "true", "stream", "false")
	same(meter.VLLM, "", false, "prompt", "")
	same(meter.VLLM, "", true, "stream", "1", "stream_include_usage", "true", "stream_continuous_usage_stats", "True")
	f(meter.VLLM, form("model", "w", "stream", "true"), "w", true,
		form("stream_include_usage", "true", "stream_continuous_usage_stats", "true", "model", "w", "stream", "true"))
	f(meter.VLLM, form("stream", "true", "stream_include_usage", "false"), "", true,
		form("stream_continuous_usage_stats", "true", "stream", "true", "stream_include_usage", "true"))
	f(meter.VLLM, form("stream", "true", "stream_include_usage", ""), "", true,
		form("stream_continuous_usage_stats", "true", "stream", "true", "stream_include_usage", "true"))

	refused := func(contentType, body, want string) {
		t.Helper()
		if ask, got, err := meter.PrepareForm(meter.Transcriptions, meter.VLLM, contentType, []byte(body)); err == nil || err.Error() != want || got != nil || ask != (meter.Ask{}) {
			t.Errorf("PrepareForm(%q, %q) = %+v, %q, %v", contentType, body, ask, got, err)
		}
	}
	refused("application/json", form(), "request body must be multipart/form-data")
	refused("multipart/form-data", form(), "request body must be multipart/form-data")
	const bad = "request body is not valid multipart/form-data"
	whole := form("model", "w")
	for i := range whole[:strings.LastIndex(whole, "--\r\n")+1] {
		refused(formType, whole[:i], bad)
	}
	refused(formType, "--xyz\r\nContent-Type: a\r\n\r\nb\r\n--xyz--", bad)
	refused(formType, "x--xyz--", bad)
	refused(formType, strings.Repeat("--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n", 300)+"--xyz--", bad)
}

// FuzzPrepareForm: what is made of a form that the standard library can read, it
// reads as the same form with the fields that were asked for.
func FuzzPrepareForm(f *testing.F) {
	f.Add([]byte(form("model", "w", "stream", "true")))
	f.Add([]byte(form("stream", "true", "stream_include_usage", "false", "stream_include_usage", "")))
	f.Add([]byte("\r\n--xyz \r\nContent-Disposition: form-data; name=stream\r\n\r\n1\r\n--xyz--"))
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		ask, out, err := meter.PrepareForm(meter.Transcriptions, meter.VLLM, formType, body)
		if !bytes.Equal(before, body) {
			t.Fatalf("body changed to %q", body)
		}
		if err != nil {
			return
		}
		again, twice, err := meter.PrepareForm(meter.Transcriptions, meter.VLLM, formType, out)
		if err != nil || !bytes.Equal(twice, out) || again.Stream != ask.Stream || again.Model != ask.Model {
			t.Errorf("made %q of %q: %+v, %v", twice, out, again, err)
		}
		was, ok := read(body)
		if !ok {
			return
		}
		is, ok := read(out)
		if !ok {
			t.Fatalf("made %q of %q", out, body)
		}
		for name, values := range was {
			if name != "stream_include_usage" && name != "stream_continuous_usage_stats" && strings.Join(values, "\x00") != strings.Join(is[name], "\x00") {
				t.Errorf("%s was %q, is %q", name, values, is[name])
			}
		}
	})
}

// read reads a form with the standard library; not ok where that cannot.
func read(body []byte) (map[string][]string, bool) {
	r := multipart.NewReader(bytes.NewReader(body), "xyz")
	out := map[string][]string{}
	for {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return out, true
		}
		if err != nil {
			return nil, false
		}
		v, err := io.ReadAll(p)
		if err != nil {
			return nil, false
		}
		if len(p.Header[textproto.CanonicalMIMEHeaderKey("Content-Disposition")]) != 1 {
			return nil, false
		}
		out[p.FormName()] = append(out[p.FormName()], string(v))
	}
}

func TestAudioAnswers(t *testing.T) {
	// OpenAI's events: the last ones wait, with and without [DONE] behind them.
	delta := "event: transcript.text.delta\ndata: {\"type\":\"transcript.text.delta\",\"delta\":\"a\"}\n\n"
	end := "event: transcript.text.done\ndata: {\"type\":\"transcript.text.done\",\"text\":\"aa\",\"usage\":{\"type\":\"tokens\",\"input_tokens\":14,\"output_tokens\":5,\"total_tokens\":19}}\n\n"
	for _, tail := range []string{end, end + done} {
		got := everySplit(t, copyStream, meter.Transcriptions, meter.LlamaServer, meter.Ask{}, []byte(delta+delta+tail))
		if got.Usage != usage(14, 0, 5) || !got.Exact || !got.Done || got.Now+got.Tail != delta+delta+tail || !strings.HasSuffix(got.Tail, tail) {
			t.Errorf("%q: %+v", tail, got)
		}
	}
	got := everySplit(t, copyStream, meter.Transcriptions, meter.LlamaServer, meter.Ask{}, []byte(delta+delta))
	if got.Usage != usage(0, 0, 2) || got.Exact || got.Done {
		t.Errorf("cut: %+v", got)
	}
	// Speech as events.
	sound := "data: {\"type\":\"speech.audio.delta\",\"audio\":\"UklGRg==\"}\n\n"
	spoken := "data: {\"type\":\"speech.audio.done\",\"usage\":{\"input_tokens\":3,\"output_tokens\":40,\"total_tokens\":43}}\n\n"
	got = everySplit(t, copyStream, meter.Speech, meter.VLLM, meter.Ask{}, []byte(sound+spoken))
	if got.Usage != usage(3, 0, 40) || !got.Exact || got.Tail != spoken {
		t.Errorf("speech: %+v", got)
	}
	// vLLM's chunks, with the usage that was asked for in the client's place.
	ask, _, err := meter.PrepareForm(meter.Transcriptions, meter.VLLM, formType, []byte(form("stream", "true")))
	if err != nil {
		t.Fatal(err)
	}
	chunk := `data: {"object":"transcription.chunk","model":"w","choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":9,"total_tokens":11,"completion_tokens":2}}` + "\n\n"
	final := `data: {"object":"transcription.chunk","model":"w","choices":[],"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3}}` + "\n\n"
	got = everySplit(t, copyStream, meter.Transcriptions, meter.VLLM, ask, []byte(chunk+final+done))
	if got.Usage != usage(9, 0, 3) || !got.Exact || got.Now+got.Tail != withoutUsage(chunk)+done {
		t.Errorf("vllm: %+v", got)
	}
	got = everySplit(t, copyStream, meter.Transcriptions, meter.VLLM, ask, []byte(chunk))
	if got.Usage != usage(9, 0, 2) || got.Exact {
		t.Errorf("vllm, cut: %+v", got)
	}
	// JSON: tokens, or seconds, which are no count.
	got = everySplit(t, copyJSON, meter.Transcriptions, meter.LlamaServer, meter.Ask{}, []byte(`{"text":"a","usage":{"type":"tokens","input_tokens":14,"output_tokens":5,"total_tokens":19}}`))
	if got.Usage != usage(14, 0, 5) || !got.Exact || !got.Done {
		t.Errorf("tokens: %+v", got)
	}
	got = everySplit(t, copyJSON, meter.Transcriptions, meter.VLLM, meter.Ask{}, []byte(`{"text":"a","usage":{"type":"duration","seconds":12}}`))
	if got.Usage != usage(0, 0, 0) || got.Exact || !got.Done {
		t.Errorf("seconds: %+v", got)
	}
}
