package api_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"spotinference/ledger"
	"spotinference/server/meter"
	"spotinference/server/queue"
)

// send writes a request on a connection of its own and reads nothing.
func (w *world) send(path, body string) net.Conn {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	return conn
}

// TestAClientThatLeavesARequestBehind: bytes that wait on its connection do not
// hide that it is gone.
func TestAClientThatLeavesARequestBehind(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		close(left)
	}, nil)
	conn := w.send("/v1/chat/completions", chatBody)
	eventually(t, "the request runs", func() bool { return w.metric("spotinference_requests_running") == "1" })
	io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	conn.Close()
	<-left
	if r := w.row(); r.Status != ledger.Aborted || !r.LowerBound {
		t.Errorf("row = %+v", r)
	}
}

// TestACutAtEveryByte: a client leaves after each byte of a recorded stream in
// turn. Its row is aborted, with what the meter had counted in what the engine
// had sent by then, and never less than the client received.
func TestACutAtEveryByte(t *testing.T) {
	// Not in parallel: it needs all CPUs, and other tests measure time.
	f := func(kind queue.Kind, e meter.Engine, d meter.Dialect, path, body string, src []byte) {
		t.Helper()
		w := newWorld(t, kind, func(rw http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			n, err := strconv.Atoi(r.Header.Get("Traceparent")) // a header that is passed on
			if err != nil {
				t.Error(err)
			}
			rw.Header().Set("Content-Type", "text/event-stream")
			rw.Write(src[:n])
			rw.(http.Flusher).Flush()
			<-r.Context().Done()
		}, nil)
		ask, _, err := meter.Prepare(d, e, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		// What must have arrived by each offset, and been counted.
		type state struct {
			sent  int
			usage ledger.Usage
		}
		var states []state
		for i := range src {
			m := meter.New(d, e, ask)
			sent := len(m.Stream(nil, src[:i]))
			if m.Done() {
				break
			}
			m.Close(nil) // an event that lacks only its blank line counts
			states = append(states, state{sent, m.Usage()})
		}
		// A client that leaves is seen within 200 ms, in which all wait; each holds four
		// descriptors.
		var files syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
			t.Fatal(err)
		}
		clients := min(512, int(min(files.Cur, 1<<20))/8)
		var next atomic.Int64
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				for i := next.Add(1) - 1; i < int64(len(states)); i = next.Add(1) - 1 {
					conn, err := net.Dial("tcp", w.addr)
					if err != nil {
						t.Error(err)
						return
					}
					fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nTraceparent: %d\r\nContent-Length: %d\r\n\r\n%s", path, i, len(body), body)
					resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
					if err != nil {
						t.Errorf("after %d bytes: %v", i, err)
						return
					}
					if _, err := io.CopyN(io.Discard, resp.Body, int64(states[i].sent)); err != nil {
						t.Errorf("after %d bytes: %v", i, err)
					}
					conn.Close()
				}
			})
		}
		wg.Wait()
		// The rows know no offsets, so as many of each count are expected as there
		// are offsets with it.
		want := map[ledger.Usage]int{}
		for _, s := range states {
			want[s.usage]++
		}
		eventually(t, "a row of each", func() bool { return len(w.ledger.all()) == len(states) })
		for _, r := range w.ledger.all() {
			if r.Status != ledger.Aborted || !r.Stream {
				t.Fatalf("%s: row = %+v", path, r)
			}
			want[r.Usage]--
		}
		for u, n := range want {
			if n != 0 {
				t.Errorf("%s: %d more rows were due with %+v", path, n, u)
			}
		}
	}
	recorded := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("..", "meter", "testdata", "llama-server", name+".body"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	f(queue.Llama, meter.LlamaServer, meter.Chat, "/v1/chat/completions", streamBody, recorded("chat-stream-usage-timings"))
	f(queue.Llama, meter.LlamaServer, meter.Completions, "/v1/completions", `{"stream":true,"prompt":"x"}`, recorded("completions-stream"))
	f(queue.Llama, meter.LlamaServer, meter.Messages, "/v1/messages", streamBody, recorded("messages-stream"))
	f(queue.Llama, meter.LlamaServer, meter.Responses, "/v1/responses", `{"stream":true,"input":"x"}`, recorded("responses-stream"))
}
