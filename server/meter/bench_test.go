package meter_test

import (
	"bytes"
	"testing"

	"spotinference/server/meter"
)

const llamaChunk = `data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" idle"}}],"created":1795436993,"id":"chatcmpl-CZEFYjCINzf9v1hxu2JUfcaHDtpZO33W","model":"bigram","system_fingerprint":"b0-unknown","object":"chat.completion.chunk","timings":{"cache_n":58,"prompt_n":1,"prompt_ms":0.384,"prompt_per_token_ms":0.384,"prompt_per_second":2604.1666666666665,"predicted_n":2,"predicted_ms":0.211,"predicted_per_token_ms":0.1055,"predicted_per_second":9478.67298578199}}

`

const vllmChunk = `data: {"id":"chatcmpl-8f3c6f1e2b7a4d6f9c0e1a2b3c4d5e6f","object":"chat.completion.chunk","created":1795436993,"model":"Qwen/Qwen3-32B-AWQ","choices":[{"index":0,"delta":{"content":" idle"},"logprobs":null,"finish_reason":null,"token_ids":null}],"usage":{"prompt_tokens":59,"total_tokens":61,"completion_tokens":2}}

`

func benchmarkStream(b *testing.B, e meter.Engine, event string, cut int) {
	m := meter.New(meter.Chat, e, prepare(b, meter.Chat, e, asksNothing))
	out := make([]byte, 0, 4096)
	src := []byte(event)
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		out = m.Stream(out[:0], src[:cut])
		out = m.Stream(out, src[cut:])
	}
}

func BenchmarkStreamLlama(b *testing.B) { benchmarkStream(b, meter.LlamaServer, llamaChunk, 0) }
func BenchmarkStreamVLLM(b *testing.B)  { benchmarkStream(b, meter.VLLM, vllmChunk, 0) }
func BenchmarkStreamSplit(b *testing.B) { benchmarkStream(b, meter.LlamaServer, llamaChunk, 200) }

func BenchmarkJSONEmbeddings(b *testing.B) {
	src := capture(b, "embeddings")
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		meter.New(meter.Embeddings, meter.LlamaServer, meter.Ask{}).JSON(src)
	}
}

func BenchmarkPrepareImage(b *testing.B) {
	body := []byte(`{"stream":true,"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,` +
		string(bytes.Repeat([]byte("iVBORw0KGgo+"), 1<<17)) + `"}}]}]}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := meter.Prepare(meter.Chat, meter.VLLM, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPrepareChat(b *testing.B) {
	body := []byte(`{"model":"bigram","stream":true,"max_tokens":64,"messages":[{"role":"system","content":"You count."},{"role":"user","content":"What does the ledger keep?"}]}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := meter.Prepare(meter.Chat, meter.LlamaServer, body); err != nil {
			b.Fatal(err)
		}
	}
}
