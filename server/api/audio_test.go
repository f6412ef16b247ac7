package api_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"spotinference/ledger"
	"spotinference/server/queue"
)

const (
	soundForm = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n" +
		"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\x00\xff\r\n--b--\r\n"
	soundType = "multipart/form-data; boundary=b"
)

// TestAudio: forms go in as they came, and what comes out is counted by what the
// engine reports.
func TestAudio(t *testing.T) {
	t.Parallel()
	f := func(name, path, contentType, body, answerType, answer string, want ledger.Usage, lowerBound bool) {
		t.Helper()
		w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
			got, err := io.ReadAll(r.Body)
			if err != nil || string(got) != body || r.Header.Get("Content-Type") != contentType {
				t.Errorf("%s: the engine got %q as %s, %v", name, got, r.Header.Get("Content-Type"), err)
			}
			rw.Header().Set("Content-Type", answerType)
			if !strings.Contains(answerType, "audio") {
				for _, part := range strings.SplitAfter(answer, "\n\n") {
					io.WriteString(rw, part)
					rw.(http.Flusher).Flush()
				}
				return
			}
			for part := range slices.Chunk([]byte(answer), 50_000) {
				rw.Write(part)
				rw.(http.Flusher).Flush()
			}
		}, nil)
		resp, got := w.do("POST", path, body, "Content-Type", contentType)
		if resp.StatusCode != 200 || got != answer || resp.Header.Get("Content-Type") != answerType {
			t.Errorf("%s: %d %v %q", name, resp.StatusCode, resp.Header, got)
		}
		if r := w.row(); r.Status != ledger.OK || r.Usage != want || r.LowerBound != lowerBound || r.Endpoint != path[len("/v1/audio/"):] || r.Model != "whisper" {
			t.Errorf("%s: row = %+v", name, r)
		}
	}
	const transcriptions, speech = "/v1/audio/transcriptions", "/v1/audio/speech"
	five := ledger.Usage{PromptTokens: 14, CompletionTokens: 5}
	f("tokens", transcriptions, soundType, soundForm, "application/json", `{"text":"a","usage":{"type":"tokens","input_tokens":14,"output_tokens":5,"total_tokens":19}}`, five, false)
	f("seconds", transcriptions, soundType, soundForm, "application/json", `{"text":"a","usage":{"type":"duration","seconds":12}}`, ledger.Usage{}, true)
	f("a translation", "/v1/audio/translations", soundType, soundForm, "application/json", `{"text":"a"}`, ledger.Usage{}, true)
	f("subtitles", transcriptions, soundType, soundForm, "text/plain; charset=utf-8", "1\n00:00 --> 00:01\na\n\n2\n00:01 --> 00:02\nb\n\n", ledger.Usage{}, true)
	f("events", transcriptions, soundType, soundForm, "text/event-stream",
		"data: {\"type\":\"transcript.text.delta\",\"delta\":\"a\"}\n\ndata: {\"type\":\"transcript.text.done\",\"usage\":{\"type\":\"tokens\",\"input_tokens\":14,\"output_tokens\":5}}\n\ndata: [DONE]\n\n", five, false)
	f("events without [DONE]", transcriptions, soundType, soundForm, "text/event-stream",
		"data: {\"type\":\"transcript.text.delta\",\"delta\":\"a\"}\n\ndata: {\"type\":\"transcript.text.done\",\"usage\":{\"type\":\"tokens\",\"input_tokens\":14,\"output_tokens\":5}}\n\n", five, false)
	const say = `{"model":"whisper","input":"a","voice":"b"}`
	f("sound", speech, "application/json", say, "audio/mpeg", "ID3"+strings.Repeat("\x00\xff\n\n", 1<<18), ledger.Usage{}, true)
	f("no sound", speech, "application/json", say, "audio/mpeg", "", ledger.Usage{}, true)
	f("sound as events", speech, "application/json", `{"model":"whisper","input":"a","stream_format":"sse"}`, "text/event-stream",
		"data: {\"type\":\"speech.audio.delta\",\"audio\":\"UklGRg==\"}\n\ndata: {\"type\":\"speech.audio.done\",\"usage\":{\"input_tokens\":14,\"output_tokens\":5}}\n\n", five, false)

	w := newWorld(t, queue.Llama, jsonAnswer(200, "{}"), nil)
	if resp, body := w.do("POST", transcriptions, chatBody, "Content-Type", "application/json"); resp.StatusCode != 400 || !strings.Contains(body, "multipart/form-data") {
		t.Errorf("JSON for a form: %d %s", resp.StatusCode, body)
	}
}

// TestSoundThatIsNotRecorded, or that the engine cuts, has no end.
func TestSoundThatIsNotRecorded(t *testing.T) {
	t.Parallel()
	sound := func(cut bool) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			rw.Header().Set("Content-Type", "audio/mpeg")
			for range 3 {
				io.WriteString(rw, "sound")
				rw.(http.Flusher).Flush()
			}
			if cut {
				panic(http.ErrAbortHandler)
			}
		}
	}
	for _, cut := range []bool{false, true} {
		w := newWorld(t, queue.Llama, sound(cut), nil)
		if !cut {
			w.ledger.breaks()
		}
		resp := w.begin("POST", "/v1/audio/speech", `{"input":"a"}`)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil || len(body) >= 15 {
			t.Errorf("cut=%v: the client got %q, %v", cut, body, err)
		}
		if !cut {
			continue
		}
		if r := w.row(); r.Status != ledger.Failed || !r.LowerBound {
			t.Errorf("row = %+v", r)
		}
	}
}
