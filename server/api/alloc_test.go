package api

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/server/meter"
)

// endless is a stream of an engine that never ends, one event a read, and the
// client's connection as well.
type endless struct {
	net.Conn
	head, event []byte
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.head) > 0 {
		n := copy(p, e.head)
		e.head = e.head[n:]
		return n, nil
	}
	return copy(p, e.event), nil
}

func (*endless) SetWriteDeadline(time.Time) error { return nil }

// TestNoAllocationPerEvent: an event that is read, counted, stripped of what the
// client did not ask for and sent on leaves no garbage.
func TestNoAllocationPerEvent(t *testing.T) {
	if raceDetector {
		t.Skip("under the race detector a sync.Pool forgets at random")
	}
	f := func(e meter.Engine, payload string) {
		t.Helper()
		ask, _, err := meter.Prepare(meter.Chat, e, []byte(`{"stream":true,"messages":[]}`))
		if err != nil {
			t.Fatal(err)
		}
		engine := &endless{
			head:  []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"),
			event: fmt.Appendf(nil, "%x\r\ndata: %s\n\n\r\n", len("data: ")+len(payload)+2, payload),
		}
		cn := &engineConn{Conn: engine, br: bufio.NewReaderSize(engine, readBuffer)}
		resp := &fasthttp.Response{StreamBody: true}
		if err := resp.Read(cn.br); err != nil {
			t.Fatal(err)
		}
		s := &Server{cfg: Config{Now: time.Now, Log: slog.New(slog.DiscardHandler)}}
		a := s.newAnswer(&call{client: engine}, meter.New(meter.Chat, e, ask), &exchange{conn: cn, resp: resp}, formatEvents)
		sent := 0
		forward := func() {
			if a.copy(); a.state != answerCopying {
				t.Fatal(a.state, a.err)
			}
			n, err := a.send(io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			sent += n
		}
		const events = 5000
		if n := testing.AllocsPerRun(events, forward); n != 0 {
			t.Errorf("%v allocations an event, want none: %s", n, payload)
		}
		// AllocsPerRun forwards one more before it counts.
		if got := a.m.Usage().CompletionTokens; got < events || sent == 0 {
			t.Errorf("%d tokens in %d bytes after %d events", got, sent, events+1)
		}
	}
	f(meter.LlamaServer, `{"choices":[{"finish_reason":null,"index":0,"delta":{"content":" idle"}}],"model":"bigram","object":"chat.completion.chunk","timings":{"cache_n":58,"prompt_n":1,"predicted_n":9000,"predicted_ms":0.211}}`)
	f(meter.VLLM, `{"object":"chat.completion.chunk","model":"qwen","choices":[{"index":0,"delta":{"content":" idle"},"finish_reason":null}],"usage":{"prompt_tokens":59,"total_tokens":9059,"completion_tokens":9000}}`)
}
