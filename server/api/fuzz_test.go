package api_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/listener"
)

// tape is a connection whose client has sent all that it will, and reads all
// that it is sent.
type tape struct {
	in     bytes.Reader
	once   sync.Once
	closed chan struct{}
}

func (c *tape) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *tape) Write(p []byte) (int, error)      { return len(p), nil }
func (c *tape) Close() error                     { c.once.Do(func() { close(c.closed) }); return nil }
func (c *tape) LocalAddr() net.Addr              { return &net.UnixAddr{Net: "tape"} }
func (c *tape) RemoteAddr() net.Addr             { return &net.UnixAddr{Net: "tape"} }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }

// asOthersRead is what the standard library makes of the same bytes: the
// requests, as arrivals writes them, up to where it does not understand it.
func asOthersRead(in []byte) (requests []string) {
	r := bufio.NewReader(bytes.NewReader(in))
	for {
		for { // RFC 9112, 2.2: blank lines before a request are not part of it
			b, err := r.Peek(1)
			if err != nil {
				return requests
			}
			if b[0] != '\r' && b[0] != '\n' {
				break
			}
			r.ReadByte()
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			return requests
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return requests
		}
		method := req.Method
		switch method {
		case http.MethodHead:
			method = http.MethodGet
			fallthrough
		case http.MethodGet:
			body = nil // means nothing, and is not forwarded
		}
		path, _, _ := strings.Cut(req.RequestURI, "?")
		path, _, _ = strings.Cut(path, "#")
		requests = append(requests, method+" "+path+" "+string(body))
		if req.Close {
			return requests
		}
	}
}

// FuzzHead sends arbitrary bytes to the listener. What reaches the engine must
// be what another server makes of the same bytes, in the same order: nothing
// more than once, nothing that was another request's body, and no less than an
// end to the connection.
func FuzzHead(f *testing.F) {
	for _, seed := range []string{
		post("{}"), post("{}") + evil, chunks("2\r\n{}\r\n0\r\n\r\n") + evil, chunks("2;a=b\r\n{}\r\n0\r\nA: b\r\n\r\n"),
		chunks("2\r\n{}\r\n0\r\nA: b\n\n" + evil), chunks("0\r\n\r\n"+evil, "Content-Length: 6\r\n"), post("{}", "Transfer-Encoding: identity\r\n") + evil,
		post("{}", "X-A: b\r\n Content-Length: 0\r\n") + evil, post("{}", "X-A: b\n\n"+evil), post(evil), "\r\n\n" + post("{}") + "\r\n" + evil,
		"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n" + evil, "HEAD /v1/models?a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + evil, post("{}", "Connection: close\r\n") + evil,
		"GET http://x/v1/models HTTP/1.1\r\nHost: x\r\n\r\n" + evil, post("{}", "Expect: 100-continue\r\n") + evil, post("{}", "Upgrade: h2c\r\nConnection: upgrade\r\n") + evil,
	} {
		f.Add([]byte(seed))
	}
	engineSaw := &arrivals{}
	up, down := newPipes(), newPipes()
	eng := &http.Server{Handler: engineSaw, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go eng.Serve(up)
	metrics := api.NewMetrics(func() (time.Time, bool) { return time.Time{}, false })
	cfg := api.Config{Engine: pipeEngine{up}, Ledger: &forgetful{}, Gate: &fakeGate{}, MaxBody: 1 << 20, Metrics: metrics, Log: slog.New(slog.DiscardHandler)}
	s, err := api.New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ln := listen(f, s, cfg, listener.Config{Listener: down})
	go func() { done <- s.Run(ctx, ctx, ln, api.Hooks{}) }()
	f.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			f.Error(err)
		}
		eng.Close()
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		c := &tape{closed: make(chan struct{})}
		c.in.Reset(in)
		down.conns <- c
		select {
		case <-c.closed:
		case <-time.After(20 * time.Second):
			t.Fatalf("%q: the connection hangs", in)
		}
		var text bytes.Buffer
		metrics.Write(&text)
		if !strings.Contains(text.String(), "spotinference_panics_total 0\n") {
			t.Fatalf("%q: a panic", in)
		}
		got := engineSaw.take()
		others := asOthersRead(in)
		for i, r := range got {
			at := slices.Index(others, r)
			if at < 0 {
				t.Fatalf("%q: the engine saw %q as number %d; others see %q", in, r, i+1, others)
			}
			others = others[at+1:]
		}
	})
}

// forgetful is a ledger that keeps nothing.
type forgetful struct{ fakeLedger }

func (f *forgetful) AddRequest(r ledger.Request) error { return nil }
