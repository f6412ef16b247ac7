package api_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/listener"
	"spotinference/server/listener/certtest"
	"spotinference/server/queue"
)

// ways are the kinds of listener, each with what dials it.
var ways = map[string]func(t *testing.T, h http.HandlerFunc, set setting) (*world, func() net.Conn){
	"tcp": func(t *testing.T, h http.HandlerFunc, set setting) (*world, func() net.Conn) {
		w := newWorldOf(t, queue.Llama, h, set)
		return w, func() net.Conn { return dialed(t)(net.Dial("tcp", w.addr)) }
	},
	"tls": func(t *testing.T, h http.HandlerFunc, set setting) (*world, func() net.Conn) {
		w, client := newTLSWorld(t, h, set)
		return w, func() net.Conn { return dialed(t)(tls.Dial("tcp", w.addr, client)) }
	},
	"unix": func(t *testing.T, h http.HandlerFunc, set setting) (*world, func() net.Conn) {
		path := filepath.Join(t.TempDir(), "api.sock")
		set.listen.Address = listener.UnixPrefix + path
		w := newWorldOf(t, queue.Llama, h, set)
		w.client.Transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}
		w.url = "http://gateway"
		return w, func() net.Conn { return dialed(t)(net.Dial("unix", path)) }
	},
}

func dialed(t *testing.T) func(net.Conn, error) net.Conn {
	return func(c net.Conn, err error) net.Conn {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// secured makes at speak TLS, and returns what trusts it.
func secured(t *testing.T, at *listener.Config) (client *tls.Config) {
	t.Helper()
	p := certtest.Make(t, time.Now().Add(time.Hour))
	dir := t.TempDir()
	at.CertFile, at.KeyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string][]byte{at.CertFile: p.Cert, at.KeyFile: p.Key} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p.Client()
}

func newTLSWorld(t *testing.T, h http.HandlerFunc, set setting) (*world, *tls.Config) {
	t.Helper()
	client := secured(t, &set.listen)
	w := newWorldOf(t, queue.Llama, h, set)
	w.url = "https://" + w.addr
	w.client.Transport = &http.Transport{TLSClientConfig: client}
	return w, client
}

func TestTLS(t *testing.T) {
	t.Parallel()
	w, client := newTLSWorld(t, jsonAnswer(200, chatAnswer), setting{})
	for range 2 { // the second on the same connection
		resp, body := w.do("POST", "/v1/chat/completions", chatBody)
		if resp.StatusCode != 200 || body != chatAnswer || resp.TLS == nil || resp.Proto != "HTTP/1.1" || resp.TLS.NegotiatedProtocol != "" {
			t.Errorf("%s %d %s %+v", resp.Proto, resp.StatusCode, body, resp.TLS)
		}
	}
	refuses := func(what string, change func(*tls.Config)) {
		t.Helper()
		cfg := client.Clone()
		change(cfg)
		if c, err := tls.Dial("tcp", w.addr, cfg); err == nil {
			t.Errorf("%s: agreed on %+v", what, c.ConnectionState())
			c.Close()
		}
	}
	refuses("TLS 1.1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
	refuses("HTTP/2 alone", func(c *tls.Config) { c.NextProtos = []string{"h2"} })

	cfg := client.Clone()
	cfg.NextProtos, cfg.MaxVersion = []string{"h2", "http/1.1"}, tls.VersionTLS12
	c, err := tls.Dial("tcp", w.addr, cfg)
	if err != nil || c.ConnectionState().NegotiatedProtocol != "http/1.1" {
		t.Fatalf("%v, %v, want http/1.1", c, err)
	}
	c.Close()
	if n := w.metric("spotinference_tls_handshake_failures_total"); n != "2" {
		t.Errorf("failed handshakes: %s, want 2", n)
	}
}

// TestPlainHTTPAtATLSPort is told what to do instead, whatever else it sends.
func TestPlainHTTPAtATLSPort(t *testing.T) {
	t.Parallel()
	w, _ := newTLSWorld(t, jsonAnswer(200, chatAnswer), setting{})
	for range 3 {
		conn := dialed(t)(net.Dial("tcp", w.addr))
		const size = 4 << 20
		fmt.Fprintf(conn, "POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size)
		if _, err := conn.Write(make([]byte, size)); err != nil {
			t.Errorf("write: %v", err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 400 || !resp.Close || !strings.Contains(string(body), `"code":"tls_required"`) || resp.Header.Get("X-Request-Id") == "" || resp.Header.Get("X-Should-Retry") != "false" {
			t.Errorf("%d %v %s %v", resp.StatusCode, resp.Header, body, err)
		}
		conn.Close()
	}
	// Noise gets no answer.
	conn := dialed(t)(net.Dial("tcp", w.addr))
	io.WriteString(conn, "SSH-2.0-OpenSSH_9.9\r\n")
	if b, err := io.ReadAll(conn); strings.Contains(string(b), "HTTP") {
		t.Errorf("%q, %v", b, err)
	}
	conn.Close()
}

// TestASlowHandshakeIsBounded.
func TestASlowHandshakeIsBounded(t *testing.T) {
	t.Parallel()
	var secure listener.Config
	client := secured(t, &secure)
	for name, slow := range map[string]struct{ first, each string }{
		"nothing":                  {"", ""},
		"half a hello":             {"\x16\x03\x01\x00\xff\x01", ""},
		"a hello, a byte a second": {"\x16\x03\x01\x00\xff\x01\x00\x00\xfb", "\x03"},
	} {
		t.Run(name, func(t *testing.T) {
			inTimeAt(t, secure, jsonAnswer(200, chatAnswer), func(t *testing.T, _ *fakeLedger, dial func() net.Conn) {
				conn, began := dial(), time.Now()
				defer conn.Close()
				go func() {
					_, err := io.WriteString(conn, slow.first)
					for err == nil && slow.each != "" {
						time.Sleep(time.Second)
						_, err = io.WriteString(conn, slow.each)
					}
				}()
				io.Copy(io.Discard, conn)
				if took := time.Since(began); took > 11*time.Second {
					t.Errorf("closed after %s", took)
				}
			})
		})
	}
	t.Run("a head after it", func(t *testing.T) {
		inTimeAt(t, secure, jsonAnswer(200, chatAnswer), func(t *testing.T, _ *fakeLedger, dial func() net.Conn) {
			client := client.Clone()
			client.InsecureSkipVerify = true // it is the year 2000 here
			conn := tls.Client(dial(), client)
			defer conn.Close()
			if err := conn.Handshake(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Second) // the handshake's bound is not the request's
			began := time.Now()
			io.WriteString(conn, "POST /v1/chat")
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if took := time.Since(began); err != nil || resp.StatusCode != 408 || took > time.Minute+time.Second {
				t.Errorf("%v, %v after %s", resp, err, took)
			}
		})
	})
}

// TestWhoLeavesIsSeen on every way in, while the engine is silent: nothing but a look
// at the socket can tell.
func TestWhoLeavesIsSeen(t *testing.T) {
	t.Parallel()
	for name, way := range ways {
		for _, behind := range []string{"", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"} {
			left := make(chan struct{})
			w, dial := way(t, func(rw http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				close(left)
			}, setting{})
			conn := dial()
			io.WriteString(conn, post(chatBody))
			eventually(t, "the request runs", func() bool { return w.metric("spotinference_requests_running") == "1" })
			io.WriteString(conn, behind)
			conn.Close()
			<-left
			if r := w.row(); r.Status != ledger.Aborted {
				t.Errorf("%s: row = %+v", name, r)
			}
		}
	}
}

// TestWhoStaysIsServed on every way in, though the engine is silent for several looks.
func TestWhoStaysIsServed(t *testing.T) {
	t.Parallel()
	for name, way := range ways {
		w, _ := way(t, func(rw http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			time.Sleep(700 * time.Millisecond) // a slow engine: clients are looked for every 200 ms
			jsonAnswer(200, chatAnswer)(rw, r)
		}, setting{})
		if resp, body := w.do("POST", "/v1/chat/completions", chatBody); resp.StatusCode != 200 || body != chatAnswer {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
	}
}

// TestEveryWayInIsBounded by the same limits.
func TestEveryWayInIsBounded(t *testing.T) {
	t.Parallel()
	for name, way := range ways {
		w, dial := way(t, jsonAnswer(200, chatAnswer), setting{
			config: func(c *api.Config) { c.MaxBody, c.Key = 1<<20, "sk-right" },
			listen: listener.Config{MaxConns: 4},
		})
		ask := func(request string, body int) (int, string) {
			t.Helper()
			conn := dial()
			defer conn.Close()
			io.WriteString(conn, request)
			if _, err := conn.Write(make([]byte, body)); err != nil {
				t.Errorf("%s: write: %v", name, err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			b, _ := io.ReadAll(resp.Body)
			return resp.StatusCode, string(b)
		}
		head := "POST /v1/messages HTTP/1.1\r\nHost: x\r\n"
		for _, c := range []struct {
			request string
			body    int
			want    int
		}{
			{head + "X-Api-Key: sk-wrong\r\nContent-Length: 1572864\r\n\r\n", 3 << 19, 401},
			{head + "X-Api-Key: sk-right\r\nContent-Length: 1572864\r\n\r\n", 3 << 19, 413},
			{head + "X-Long: " + strings.Repeat("x", 33<<10) + "\r\n\r\n", 0, 431},
			{head + strings.Repeat("X-A: a\r\n", 200) + "\r\n", 0, 431},
			{"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 0, 200},
		} {
			if got, body := ask(c.request, c.body); got != c.want {
				t.Errorf("%s: %.80q: %d %s, want %d", name, c.request, got, body, c.want)
			}
		}
		var held []net.Conn
		for range 4 {
			// Those above may not have been seen to have ended yet.
			eventually(t, "a connection is served", func() bool {
				conn := dial()
				io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if resp.StatusCode != 200 {
					conn.Close()
					return false
				}
				held = append(held, conn)
				return true
			})
		}
		if got, body := ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 0); got != 503 || !strings.Contains(body, "too_many_connections") {
			t.Errorf("%s: one more than the limit: %d %s", name, got, body)
		}
		for _, c := range held {
			c.Close()
		}
		w.client.CloseIdleConnections()
	}
}

// TestAnAbruptEnd: who speaks TLS and is cut off without goodbye is gone like others.
func TestAnAbruptEnd(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	w, client := newTLSWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		close(left)
	}, setting{})
	raw := dialed(t)(net.Dial("tcp", w.addr))
	io.WriteString(tls.Client(raw, client), post(chatBody))
	eventually(t, "the request runs", func() bool { return w.metric("spotinference_requests_running") == "1" })
	raw.(*net.TCPConn).SetLinger(0) // a reset
	raw.Close()
	<-left
	if r := w.row(); r.Status != ledger.Aborted {
		t.Errorf("row = %+v", r)
	}
}
