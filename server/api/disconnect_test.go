package api_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/queue"
)

// halfClose closes the sending half of a connection's socket.
func halfClose(t *testing.T, conn net.Conn) {
	t.Helper()
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

// finalResponse reads the response that is no interim one.
func finalResponse(t *testing.T, conn net.Conn) *http.Response {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(conn)
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusContinue {
			return resp
		}
	}
}

// silences are the states in which a client may wait for an engine that says nothing. Each
// engine says the rest of its answer after go on.
var silences = map[string]struct {
	body   string
	engine func(goOn <-chan struct{}) http.HandlerFunc
	asleep bool
	beats  bool // our head leaves before the engine's
	want   string
}{
	"a JSON answer": {body: chatBody, want: chatAnswer, engine: func(goOn <-chan struct{}) http.HandlerFunc {
		return waitThen(goOn, jsonAnswer(200, chatAnswer))
	}},
	"half a JSON answer": {body: chatBody, want: chatAnswer, engine: func(goOn <-chan struct{}) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			rw.Header().Set("Content-Type", "application/json")
			io.WriteString(rw, chatAnswer[:20])
			rw.(http.Flusher).Flush()
			waitThen(goOn, func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, chatAnswer[20:]) })(rw, r)
		}
	}},
	"a stream before its head": {body: streamBody, want: "[DONE]", engine: func(goOn <-chan struct{}) http.HandlerFunc {
		return waitThen(goOn, sse(nil, delta(" a", 1), usageChunk+doneEvent))
	}},
	"a stream that we have begun": {body: streamBody, want: "[DONE]", beats: true, engine: func(goOn <-chan struct{}) http.HandlerFunc {
		return waitThen(goOn, sse(nil, delta(" a", 1), usageChunk+doneEvent))
	}},
	"a stream after an event": {body: streamBody, want: "[DONE]", engine: func(goOn <-chan struct{}) http.HandlerFunc {
		return sse(goOn, delta(" a", 1), usageChunk+doneEvent)
	}},
	"a stream within an event": {body: streamBody, want: "[DONE]", engine: func(goOn <-chan struct{}) http.HandlerFunc {
		event := delta(" a", 1)
		return sse(goOn, event+event[:10], event[10:]+usageChunk+doneEvent)
	}},
	"a stream for an engine that sleeps": {body: streamBody, want: "[DONE]", asleep: true, beats: true, engine: func(<-chan struct{}) http.HandlerFunc {
		return sse(nil, delta(" a", 1), usageChunk+doneEvent)
	}},
	"a JSON answer for an engine that sleeps": {body: chatBody, want: chatAnswer, asleep: true, engine: func(<-chan struct{}) http.HandlerFunc {
		return jsonAnswer(200, chatAnswer)
	}},
}

// waitThen answers with h after go on.
func waitThen(goOn <-chan struct{}, h http.HandlerFunc) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		select {
		case <-goOn:
			h(rw, r)
		case <-r.Context().Done():
		}
	}
}

// eachSilence runs do for each way in and each silence, once the request runs.
func eachSilence(t *testing.T, do func(t *testing.T, w *world, conn net.Conn, want string, goOn func())) {
	for wayName, way := range ways {
		for name, c := range silences {
			t.Run(wayName+", "+name, func(t *testing.T) {
				t.Parallel()
				step := make(chan struct{})
				w, dial := way(t, c.engine(step), setting{config: func(cfg *api.Config) {
					if c.beats {
						cfg.Heartbeat = 20 * time.Millisecond
					}
				}})
				if c.asleep {
					w.engine.set(ledger.Suspended)
				}
				conn := dial()
				defer conn.Close()
				io.WriteString(conn, post(c.body))
				eventually(t, "the request runs", func() bool { inside, waiting := w.engine.load(); return inside+waiting == 1 })
				if c.beats {
					if n, err := conn.Read(make([]byte, 17)); err != nil || n == 0 {
						t.Fatalf("our head: %d, %v", n, err)
					}
				}
				do(t, w, conn, c.want, func() {
					if c.asleep {
						w.engine.set(ledger.Ready)
						close(w.engine.wakes)
					} else {
						close(step)
					}
				})
			})
		}
	}
}

// TestAHalfClosedClientIsServed: it has sent its request and said that this was all, as nc -N
// does. It waits for an engine that is silent for several looks, and gets all of its answer.
func TestAHalfClosedClientIsServed(t *testing.T) {
	t.Parallel()
	eachSilence(t, func(t *testing.T, w *world, conn net.Conn, want string, goOn func()) {
		halfClose(t, conn)
		time.Sleep(500 * time.Millisecond) // clients are looked for every 200 ms
		goOn()
		conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		all, err := io.ReadAll(conn) // it closes: nothing more can come
		if err != nil || !strings.Contains(string(all), want) || strings.Contains(string(all), "client left") {
			t.Errorf("%q, %v", all, err)
		}
		if r := w.row(); r.Status != ledger.OK || r.LowerBound {
			t.Errorf("row = %+v", r)
		}
	})
}

// TestAClientThatLeftIsSeen soon, wherever it waits, though a half-closed one is served.
func TestAClientThatLeftIsSeen(t *testing.T) {
	t.Parallel()
	eachSilence(t, func(t *testing.T, w *world, conn net.Conn, _ string, goOn func()) {
		began := time.Now()
		conn.Close()
		eventually(t, "nobody waits", func() bool { inside, waiting := w.engine.load(); return inside+waiting == 0 })
		if took := time.Since(began); took > 5*time.Second { // on a loaded machine
			t.Errorf("seen after %s", took)
		}
		goOn()
	})
}

// TestAHalfClosedClientThatLeaves later is seen, too: it is asked again.
func TestAHalfClosedClientThatLeaves(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	defer close(goOn)
	w := newWorld(t, queue.Llama, waitThen(goOn, jsonAnswer(200, chatAnswer)), nil)
	conn := w.send("/v1/chat/completions", chatBody)
	halfClose(t, conn)
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusContinue {
		t.Fatalf("%v, %v, want to be asked", resp, err)
	}
	conn.Close()
	eventually(t, "it is seen", func() bool { inside, _ := w.engine.load(); return inside == 0 })
	if r := w.row(); r.Status != ledger.Aborted {
		t.Errorf("row = %+v", r)
	}
}

// TestAnInterimResponseBreaksNoClient: Go's own, whose connection is half-closed under it.
func TestAnInterimResponseBreaksNoClient(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	w := newWorld(t, queue.Llama, waitThen(goOn, jsonAnswer(200, chatAnswer)), nil)
	var conn net.Conn
	w.client.Transport = &http.Transport{DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return conn, err
	}}
	go func() {
		defer close(goOn)
		for inside := 0; inside == 0; time.Sleep(time.Millisecond) {
			inside, _ = w.engine.load()
		}
		conn.(*net.TCPConn).CloseWrite()
		time.Sleep(500 * time.Millisecond)
	}()
	if resp, body := w.do("POST", "/v1/chat/completions", chatBody); resp.StatusCode != 200 || body != chatAnswer {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// TestAnOlderClientIsNotAsked: HTTP/1.0 knows no interim response, so a half-closed client
// has left, and hears so if it has not.
func TestAnOlderClientIsNotAsked(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	defer close(goOn)
	w := newWorld(t, queue.Llama, waitThen(goOn, jsonAnswer(200, chatAnswer)), nil)
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", len(chatBody), chatBody)
	eventually(t, "the request runs", func() bool { inside, _ := w.engine.load(); return inside == 1 })
	halfClose(t, conn)
	if resp := finalResponse(t, conn); resp.StatusCode != 499 {
		t.Errorf("status %d", resp.StatusCode)
	}
}
