package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/listener"
	"spotinference/server/queue"
)

// pipes is a listener, and an engine, whose connections are in memory: inside a
// synctest bubble their deadlines pass as fast as nothing else happens.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) dial() (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Net: "pipe", Name: "pipe"} }

// pipeEngine is an engine behind pipes.
type pipeEngine struct{ *pipes }

func (e pipeEngine) Dial(context.Context) (net.Conn, error) { return e.dial() }
func (pipeEngine) Key() string                              { return "engine-key" }
func (pipeEngine) Kind() queue.Kind                         { return queue.Llama }
func (pipeEngine) Status() queue.Status                     { return queue.Status{State: ledger.Ready, Admits: true} }
func (pipeEngine) Admit(context.Context) error              { return nil }
func (pipeEngine) TryAdmit() bool                           { return true }
func (pipeEngine) Release(bool)                             {}

// startDateClock has fasthttp start the clock of its Date header, once a process and for
// ever: that must not happen inside a bubble.
var startDateClock = sync.OnceFunc(func() {
	c := &tape{closed: make(chan struct{})}
	c.in.Reset([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
	if err := (&fasthttp.Server{Handler: func(*fasthttp.RequestCtx) {}}).ServeConn(c); err != nil {
		panic(err)
	}
})

// inBubble runs do in a bubble of synthetic time. What it makes must be connected by
// pipes: see setting.inMemory.
func inBubble(t *testing.T, do func(t *testing.T)) {
	t.Helper()
	startDateClock()
	synctest.Test(t, func(t *testing.T) {
		// Run last: what is left of fasthttp ends by itself, idle workers and slow clients.
		t.Cleanup(func() { time.Sleep(5 * time.Minute) })
		do(t)
	})
}

// inTime runs do in a bubble, with a server whose clients dial gets, and which answers
// with h.
func inTime(t *testing.T, h http.HandlerFunc, do func(t *testing.T, l *fakeLedger, dial func() net.Conn)) {
	t.Helper()
	inTimeAt(t, listener.Config{}, h, do)
}

// inTimeAt is inTime with a listener that has a setting.
func inTimeAt(t *testing.T, at listener.Config, h http.HandlerFunc, do func(t *testing.T, l *fakeLedger, dial func() net.Conn)) {
	t.Helper()
	inBubble(t, func(t *testing.T) {
		down := newPipes()
		at.Listener = down
		w := newWorldOf(t, queue.Llama, h, setting{listen: at, inMemory: true, config: func(c *api.Config) { c.Drain = 0 }})
		do(t, w.ledger, func() net.Conn {
			c, err := down.dial()
			if err != nil {
				t.Fatal(err)
			}
			return c
		})
		if err := w.stop(); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

// TestSlowClients: a request has a minute for its head and five for its body,
// however its bytes are spread; then it is told so, and the connection closes.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	head := fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(chatBody))
	chunked := "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, c := range map[string]struct {
		first, each string // each is sent every second after first
		within      time.Duration
		status      int
	}{
		"half a head":                   {"POST /v1/chat", "", time.Minute, 408},
		"a head, a byte a second":       {"POST /v1/chat/completions HTTP/1.1\r\nX-A: ", "a", time.Minute, 408},
		"headers, one a second":         {"POST /v1/chat/completions HTTP/1.1\r\n", "X-A: a\r\n", time.Minute, 408},
		"no body":                       {head, "", 5 * time.Minute, 408},
		"half a body":                   {head + "{", "", 5 * time.Minute, 408},
		"no chunks":                     {chunked, "", 5 * time.Minute, 408},
		"chunks, one a second":          {chunked, "1\r\n \r\n", 5 * time.Minute, 408},
		"an extension, a byte a second": {chunked + "1;", "a", 5 * time.Minute, 408},
		"a trailer, a byte a second":    {chunked + "2\r\n{}\r\n0\r\nX-A: ", "a", 5 * time.Minute, 408},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, jsonAnswer(200, chatAnswer), func(t *testing.T, l *fakeLedger, dial func() net.Conn) {
				conn, began := dial(), time.Now()
				defer conn.Close()
				go func() {
					_, err := io.WriteString(conn, c.first)
					for err == nil && c.each != "" {
						time.Sleep(time.Second)
						_, err = io.WriteString(conn, c.each)
					}
				}()
				r := bufio.NewReader(conn)
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				if took := time.Since(began); resp.StatusCode != c.status || took > c.within+time.Second || !resp.Close {
					t.Errorf("%d after %s, %v %s", resp.StatusCode, took, resp.Header, body)
				}
				if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("after the answer: %v, want the end", err)
				}
				if rows := l.all(); len(rows) > 0 {
					t.Errorf("rows = %+v", rows)
				}
			})
		})
	}
}

// TestAnIdleConnectionIsClosed without a word, before its first request as after
// it: an answer that nobody asked for would be taken for that to the next one.
func TestAnIdleConnectionIsClosed(t *testing.T) {
	t.Parallel()
	for _, first := range []bool{true, false} {
		inTime(t, jsonAnswer(200, chatAnswer), func(t *testing.T, _ *fakeLedger, dial func() net.Conn) {
			conn := dial()
			defer conn.Close()
			r := bufio.NewReader(conn)
			if !first {
				io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
			}
			began := time.Now()
			if b, err := r.ReadByte(); !errors.Is(err, io.EOF) || time.Since(began) > time.Minute {
				t.Errorf("first %v: %q, %v after %s", first, b, err, time.Since(began))
			}
		})
	}
}

// TestHalfARequestDoesNotHoldTheStop: inTime wants the server to end with it.
func TestHalfARequestDoesNotHoldTheStop(t *testing.T) {
	t.Parallel()
	for _, half := range []string{"", "POST /v1/chat", "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"} {
		inTime(t, jsonAnswer(200, chatAnswer), func(t *testing.T, l *fakeLedger, dial func() net.Conn) {
			conn := dial()
			io.WriteString(conn, half)
			synctest.Wait()
			time.AfterFunc(time.Minute, func() { conn.Close() })
		})
	}
}

// TestAClientThatDoesNotRead is let go of after a minute, whatever its answer
// is; what it was sent is in the ledger.
func TestAClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	large := `{"data":"` + strings.Repeat("x", 2<<20) + `","usage":{"prompt_tokens":1,"total_tokens":1}}`
	for name, c := range map[string]struct {
		h      http.HandlerFunc
		path   string
		body   string
		status ledger.Status // "" for none
	}{
		"health":            {nil, "/healthz", "", ""},
		"a short answer":    {jsonAnswer(200, chatAnswer), "/v1/chat/completions", chatBody, ledger.OK},
		"a long answer":     {jsonAnswer(200, large), "/v1/embeddings", `{"input":"x"}`, ledger.Aborted},
		"a refusal":         {nil, "/v1/chat/completions", "{", ""},
		"an engine's error": {jsonAnswer(400, `{"error":{"code":400,"message":"no","type":"invalid_request_error"}}`), "/v1/chat/completions", chatBody, ledger.Failed},
		"a stream":          {sse(nil, delta(strings.Repeat("a", 64<<10), 1), usageChunk+doneEvent), "/v1/chat/completions", streamBody, ledger.Aborted},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, c.h, func(t *testing.T, l *fakeLedger, dial func() net.Conn) {
				conn := dial()
				defer conn.Close()
				method := "POST"
				if c.body == "" {
					method = "GET"
				}
				fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", method, c.path, len(c.body), c.body)
				time.Sleep(2 * time.Minute)
				if _, err := io.WriteString(conn, "G"); !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("after two minutes: %v, want it closed", err)
				}
				rows := l.all()
				if c.status == "" && len(rows) > 0 || c.status != "" && (len(rows) != 1 || rows[0].Status != c.status) {
					t.Errorf("rows = %+v, want one %q", rows, c.status)
				}
			})
		})
	}
}

// TestTheFirstOfTwoAnswersDoesNotWait for the second: who pipelines gets each
// answer when it is there.
func TestTheFirstOfTwoAnswersDoesNotWait(t *testing.T) {
	t.Parallel()
	second := make(chan struct{})
	w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/completions" {
			<-second
		}
		jsonAnswer(200, chatAnswer)(rw, r)
	}, nil)
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second)) // it would wait for ever
	goOn := sync.OnceFunc(func() { close(second) })
	defer goOn()
	io.WriteString(conn, post("{}")+evil)
	r := bufio.NewReader(conn)
	for i := range 2 {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(body) != chatAnswer {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
		if i == 0 {
			goOn() // not before the first answer was here
		}
	}
}

// TestALargeAnswerToHTTP10 has no chunks to show that it was cut. So it has a
// length, or is not sent.
func TestALargeAnswerToHTTP10(t *testing.T) {
	t.Parallel()
	large := `{"data":"` + strings.Repeat("x", 2<<20) + `","usage":{"prompt_tokens":1,"total_tokens":1}}`
	sized := true
	w := newWorld(t, queue.Llama, func(rw http.ResponseWriter, r *http.Request) {
		if sized {
			rw.Header().Set("Content-Length", fmt.Sprint(len(large)))
		}
		jsonAnswer(200, large)(rw, r)
	}, nil)
	ask := func() string {
		t.Helper()
		conn, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "POST /v1/embeddings HTTP/1.0\r\nContent-Length: 13\r\n\r\n{\"input\":\"x\"}")
		all, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		return string(all)
	}
	if got := ask(); !strings.HasSuffix(got, "\r\n\r\n"+large) || !strings.Contains(got, fmt.Sprintf("\r\nContent-Length: %d\r\n", len(large))) {
		t.Errorf("%.300q", got)
	}
	sized = false
	if got := ask(); !strings.HasPrefix(got, "HTTP/1.1 505 ") || strings.Contains(got, "xxx") {
		t.Errorf("%.300q", got)
	}
	if rows := w.ledger.all(); len(rows) != 2 || rows[1].Status != ledger.Failed || rows[1].HTTP != 505 {
		t.Errorf("rows = %+v", rows)
	}
}

// TestTheLimitOnConnections: those beyond it are told so, in their dialect, and
// the next one that fits is served.
func TestTheLimitOnConnections(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, queue.Llama, jsonAnswer(200, chatAnswer), setting{listen: listener.Config{MaxConns: 2}})
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ask := func(c net.Conn, path string) (*http.Response, string) {
		t.Helper()
		io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		return resp, string(body)
	}
	held := []net.Conn{dial(), dial()}
	for _, c := range held {
		if resp, body := ask(c, "/healthz"); resp.StatusCode != 200 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
	}
	resp, body := ask(dial(), "/v1/models")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !resp.Close || !strings.Contains(body, `"code":"too_many_connections"`) {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
	if _, body = ask(dial(), "/v1/messages"); !strings.Contains(body, `{"type":"error","error":{"type":"overloaded_error"`) {
		t.Error(body)
	}
	if resp, _ := ask(held[0], "/healthz"); resp.StatusCode != 200 {
		t.Errorf("one that was there: %d", resp.StatusCode)
	}
	held[0].Close()
	eventually(t, "another is served", func() bool { resp, _ := ask(dial(), "/healthz"); return resp.StatusCode == 200 })

	// Those that do not even fit beside are closed.
	closed := false
	for range 200 {
		c := dial()
		if _, err := io.WriteString(c, "G"); err != nil {
			closed = true
			break
		}
		c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			closed = true
			break
		}
	}
	if !closed {
		t.Error("200 connections beyond a limit of 2 were kept")
	}
}

// TestARefusedUploadHearsWhy: it is refused before its body, and goes on
// sending; a reset would hide the answer.
func TestARefusedUploadHearsWhy(t *testing.T) {
	// Not in parallel: the server reads on for five seconds, in which 20 MiB must arrive.
	w := newWorld(t, queue.Llama, jsonAnswer(200, chatAnswer), func(c *api.Config) { c.Key = "sk-right" })
	for range 5 {
		conn, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		const size = 20 << 20
		fmt.Fprintf(conn, "POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Api-Key: sk-wrong\r\nContent-Length: %d\r\n\r\n", size)
		if _, err := conn.Write(make([]byte, size)); err != nil {
			t.Errorf("write: %v", err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != 401 {
			t.Errorf("%+v, %v", resp, err)
		}
		conn.Close()
	}
}

// TestLargeBodiesAreNotKept while their answers run, nor after.
func TestLargeBodiesAreNotKept(t *testing.T) {
	const streams, size = 8, 16 << 20
	step := make(chan struct{})
	w := newWorld(t, queue.Llama, sse(step, delta(" a", 1), usageChunk+doneEvent), nil)
	body := `{"stream":true,"messages":[{"role":"user","content":"` + strings.Repeat("x", size) + `"}]}`
	var open []*http.Response
	for range streams {
		open = append(open, w.begin("POST", "/v1/chat/completions", body))
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // the second empties the pools
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc) - int64(len(body))
	}
	if n := heap(); n > 2*size {
		t.Errorf("%d streams of %d MiB requests hold %d MiB", streams, size>>20, n>>20)
	}
	for _, resp := range open {
		step <- struct{}{}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if n := heap(); n > 2*size {
		t.Errorf("after %d of %d MiB requests, %d MiB are held", streams, size>>20, n>>20)
	}
}

// brokenGate panics the first two times, as a bug would: in a bubble that is for requests,
// not for those who watch the gate.
type brokenGate struct {
	fakeGate
	asked atomic.Int32
}

func (g *brokenGate) Allow() error {
	if g.asked.Add(1) <= 2 {
		panic("oops")
	}
	return nil
}

// brokenLedger panics when a row is written.
type brokenLedger struct{ fakeLedger }

func (*brokenLedger) AddRequest(ledger.Request) error { panic("oops") }

// TestAPanicIsAnswered in the dialect, without a word of what it was, and the
// process and the connection live.
func TestAPanicIsAnswered(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := func(change func(*api.Config), path, body string, want ...string) {
			t.Helper()
			w := newWorldOf(t, queue.Llama, jsonAnswer(200, chatAnswer), setting{inMemory: true, config: change})
			for range 2 {
				resp, answer := w.do("POST", path, body)
				if resp.StatusCode != 500 || resp.Header.Get("X-Should-Retry") != "false" || resp.Header.Get("X-Request-Id") == "" || strings.Contains(answer, "oops") {
					t.Errorf("%s: %d %v %s", path, resp.StatusCode, resp.Header, answer)
				}
				for _, part := range want {
					if !strings.Contains(answer, part) {
						t.Errorf("%s: no %s in %s", path, part, answer)
					}
				}
			}
			if n := w.metric("spotinference_requests_running"); n != "0" {
				t.Errorf("%s: %s requests run on", path, n)
			}
		}
		gate := func(c *api.Config) { c.Gate = &brokenGate{} }
		led := func(c *api.Config) { c.Ledger = &brokenLedger{} }
		f(gate, "/v1/chat/completions", chatBody, `{"error":{"message":"Internal error.","type":"server_error","param":null,"code":null}}`)
		f(gate, "/v1/messages", chatBody, `{"type":"error","error":{"type":"api_error","message":"Internal error."},"request_id":"req_`)
		f(led, "/v1/chat/completions", chatBody, "Internal error.")

		// Within a stream the status has left: it ends short of its end.
		step := make(chan struct{}, 1)
		w := newWorldOf(t, queue.Llama, sse(step, delta(" a", 1), usageChunk+doneEvent), setting{inMemory: true, config: led})
		resp := w.begin("POST", "/v1/chat/completions", streamBody)
		defer resp.Body.Close()
		step <- struct{}{}
		if answer, err := io.ReadAll(resp.Body); err == nil || strings.Contains(string(answer), "[DONE]") {
			t.Errorf("the stream ended with %s, %v", answer, err)
		}
		eventually(t, "the panic is counted", func() bool { return w.metric("spotinference_panics_total") == "1" })
	})
}
