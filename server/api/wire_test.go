package api_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"spotinference/server/api"
	"spotinference/server/queue"
)

// arrivals is an engine that remembers what reached it.
type arrivals struct {
	mu  sync.Mutex
	got []string
}

func (a *arrivals) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		body = []byte(err.Error())
	}
	a.mu.Lock()
	a.got = append(a.got, r.Method+" "+r.RequestURI+" "+string(body))
	a.mu.Unlock()
	rw.Header().Set("Content-Type", "application/json")
	io.WriteString(rw, chatAnswer)
}

// take returns what arrived, and forgets it.
func (a *arrivals) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	got := a.got
	a.got = nil
	return got
}

// last is the end of what is sent on each connection: answered where the
// connection is still in step, and the reason for which it then closes.
const last = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// send writes text on a connection of its own, and returns the statuses of all
// answers but the last one's, 100s among them. Where text is cut, the client
// says that no more follows.
func send(t *testing.T, addr, text string, cut bool) (statuses []int) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { // the server may stop reading before the end
		if cut {
			io.WriteString(c, text)
			c.(*net.TCPConn).CloseWrite()
		} else {
			io.WriteString(c, text+last)
		}
	}()
	r := bufio.NewReader(c)
	for {
		var asked *http.Request
		if len(statuses) == 0 && strings.HasPrefix(text, "HEAD") {
			asked = &http.Request{Method: http.MethodHead}
		}
		resp, err := http.ReadResponse(r, asked)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return statuses
		}
		if err != nil {
			t.Fatalf("%.200q: %v", text, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("%.200q: %v", text, err)
		}
		if !strings.Contains(string(body), `"status":"ok"`) {
			statuses = append(statuses, resp.StatusCode)
		}
	}
}

const key = "Authorization: Bearer sk-right\r\n"

// post is a request whose body is framed by a length.
func post(body string, fields ...string) string {
	return "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + key + strings.Join(fields, "") +
		fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)) + body
}

// chunks is a request whose body is framed by chunks.
func chunks(body string, fields ...string) string {
	return "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + key + strings.Join(fields, "") + "Transfer-Encoding: chunked\r\n\r\n" + body
}

const (
	evil     = "POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + key + "Content-Length: 2\r\n\r\n{}"
	arrived  = "POST /v1/chat/completions {}"
	arrived2 = "POST /v1/completions {}"
)

// TestHTTPIsReadStrictly: each row is what a client sends, what it is answered,
// and what reaches the engine. Most end in a second request that must be taken
// for one only where there can be no doubt about where the first one ended.
func TestHTTPIsReadStrictly(t *testing.T) {
	t.Parallel()
	engineSaw := &arrivals{}
	w := newWorld(t, queue.Llama, engineSaw.ServeHTTP, func(c *api.Config) { c.Key = "sk-right"; c.MaxBody = 1 << 20 })
	check := func(cut bool, name, text string, statuses []int, want ...string) {
		t.Helper()
		got := send(t, w.addr, text, cut)
		if !slices.Equal(got, statuses) {
			t.Errorf("%s: answered %d, want %d", name, got, statuses)
		}
		if got := engineSaw.take(); !slices.Equal(got, want) {
			t.Errorf("%s: the engine saw %q, want %q", name, got, want)
		}
	}
	f := func(name, text string, statuses []int, want ...string) {
		t.Helper()
		check(false, name, text, statuses, want...)
	}
	line := func(s string) string { return strings.Replace(post("{}"), "Host: x\r\n", "Host: x\r\n"+s, 1) }
	start := func(s string) string { return strings.Replace(post("{}"), "POST /v1/chat/completions HTTP/1.1", s, 1) }
	is := func(s ...int) []int { return s }

	// What must work.
	f("one request", post("{}"), is(200), arrived)
	f("two, pipelined", post("{}")+evil, is(200, 200), arrived, arrived2)
	f("an error between two", post("{}")+post("{")+evil, is(200, 400, 200), arrived, arrived2)
	f("an unknown path between two", post("{}")+"GET /nope HTTP/1.1\r\nHost: x\r\n"+key+"\r\n"+evil, is(200, 404, 200), arrived, arrived2)
	f("chunks", chunks("1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"), is(200), arrived)
	f("a coding in capitals", strings.Replace(chunks("2\r\n{}\r\n0\r\n\r\n"), "chunked", "CHUNKED", 1), is(200), arrived)
	f("a short chunk extension", chunks("2;a=b\r\n{}\r\n0\r\n\r\n"), is(200), arrived)
	f("a trailer", chunks("2\r\n{}\r\n0\r\nX-Checksum: 1\r\n\r\n"), is(200), arrived)
	f("blank lines before it (RFC 9112, 2.2)", "\r\n\r\n"+post("{}"), is(200), arrived)
	f("bytes of other alphabets in a value", line("X-Name: Zo\xc3\xab\r\n"), is(200), arrived)
	f("HTTP/1.0", strings.Replace(start("POST /v1/chat/completions HTTP/1.0"), "Host: x\r\n", "", 1), is(200), arrived)
	f("HTTP/1.0 closes", start("POST /v1/chat/completions HTTP/1.0")+evil, is(200), arrived)
	f("a client that closes", post("{}", "Connection: close\r\n")+evil, is(200), arrived)
	f("an expectation", post("{}", "Expect: 100-continue\r\n"), is(100, 200), arrived)

	// Two lengths.
	f("a length and chunks", chunks("0\r\n\r\n"+evil, "Content-Length: 6\r\n"), is(400))
	f("chunks and a length", strings.Replace(chunks("0\r\n\r\n"+evil), "chunked\r\n", "chunked\r\nContent-Length: 6\r\n", 1), is(400))
	f("two lengths", line("Content-Length: 0\r\n")+evil, is(400))
	f("two equal lengths", line("Content-Length: 2\r\n")+evil, is(400))
	f("a list of lengths", strings.Replace(post("{}"), "Length: 2", "Length: 2, 2", 1)+evil, is(400))
	for _, n := range []string{"+2", "-2", "0x2", "2 ", " 2", "02", "2\t", "", "2_", "2.0", "2;", "\v2", "99999999999999999999", "18446744073709551618"} {
		want, seen := is(400), []string(nil)
		switch strings.TrimSpace(n) {
		case "2", "02": // white space around a value is not part of it, and 02 is 2
			if n != "\v2" {
				want, seen = is(200, 200), []string{arrived, arrived2}
			}
		}
		f("a length of "+n, strings.Replace(post("{}"), "Length: 2", "Length: "+n, 1)+evil, want, seen...)
	}

	// Codings.
	for _, coding := range []string{"identity", "xchunked", "chunked, identity", "identity, chunked", "gzip, chunked", "chunked, chunked", "\"chunked\"", "chunked;a", "\vchunked", "chunked\v", "\x00chunked", "", "chu\tnked"} {
		f("a coding of "+coding, strings.Replace(chunks("2\r\n{}\r\n0\r\n\r\n"+evil), "chunked", coding, 1), is(400))
		f("a length and a coding of "+coding, line("Transfer-Encoding: "+coding+"\r\n")+evil, is(400))
	}
	f("two codings", strings.Replace(chunks("2\r\n{}\r\n0\r\n\r\n"+evil), "chunked", "chunked\r\nTransfer-Encoding: chunked", 1), is(400))
	f("an identity, then chunks", strings.Replace(chunks("2\r\n{}\r\n0\r\n\r\n"+evil), "chunked", "identity\r\nTransfer-Encoding: chunked", 1), is(400))
	f("chunks in HTTP/1.0", strings.Replace(chunks("2\r\n{}\r\n0\r\n\r\n"+evil), "HTTP/1.1", "HTTP/1.0", 1), is(400))
	f("a coding by another name", line("Transfer_Encoding: chunked\r\n")+evil, is(200, 200), arrived, arrived2)

	// Lines.
	for name, fields := range map[string]string{
		"a space before the colon":     "Transfer-Encoding : chunked\r\n",
		"a tab before the colon":       "Transfer-Encoding\t: chunked\r\n",
		"a space within a name":        "Transfer Encoding: chunked\r\n",
		"a folded line":                "X-A: b\r\n Transfer-Encoding: chunked\r\n",
		"a line folded with a tab":     "X-A: b\r\n\tc\r\n",
		"a fold of nothing":            "X-A: b\r\n \r\n",
		"a bare LF":                    "X-A: b\nTransfer-Encoding: chunked\r\n",
		"a bare CR":                    "X-A: b\rTransfer-Encoding: chunked\r\n",
		"a bare CR at the end":         "X-A: b\r\r\n",
		"a NUL in a value":             "X-A: b\x00\r\n",
		"a NUL in a name":              "X-\x00A: b\r\n",
		"a control byte":               "X-A: b\x01\r\n",
		"a DEL":                        "X-A: b\x7f\r\n",
		"no colon":                     "Transfer-Encoding chunked\r\n",
		"no name":                      ": chunked\r\n",
		"a name that is no token":      "X(A): b\r\n",
		"a name of another alphabet":   "X-\xc3\xab: b\r\n",
		"a second host":                "Host: y\r\n",
		"a blank line of one LF":       "X-A: b\r\n\n" + strings.TrimSuffix(evil, "{}"),
		"a blank line after a bare LF": "X-A: b\n\n" + strings.TrimSuffix(evil, "{}"),
	} {
		f(name, line(fields)+evil, is(400))
	}
	f("no host", strings.Replace(post("{}"), "Host: x\r\n", "", 1)+evil, is(400))
	f("a first line that is folded", strings.Replace(post("{}"), "Host: x", " Host: x", 1)+evil, is(400))

	// First lines.
	f("HTTP/2.0", start("POST /v1/chat/completions HTTP/2.0")+evil, is(505))
	f("HTTP/1.2", start("POST /v1/chat/completions HTTP/1.2")+evil, is(505))
	f("HTTP/0.9", start("POST /v1/chat/completions HTTP/0.9")+evil, is(505))
	f("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", is(400))
	for _, first := range []string{
		"POST /v1/chat/completions", "POST /v1/chat/completions HTTP/1.1 ", "POST /v1/chat/completions HTTP/1.10", "POST /v1/chat/completions http/1.1",
		"POST  /v1/chat/completions HTTP/1.1", "POST /v1/chat/completions  HTTP/1.1", "POST\t/v1/chat/completions\tHTTP/1.1", "POST /v1/chat/completions\tHTTP/1.1",
		" POST /v1/chat/completions HTTP/1.1", "PO(ST /v1/chat/completions HTTP/1.1", "POST v1/chat/completions HTTP/1.1",
		"POST /v1/chat/comp\x00letions HTTP/1.1", "POST /v1/chat/completions\r HTTP/1.1",
		"POST http://x/v1/chat/completions HTTP/1.1", "POST x:80 HTTP/1.1", "POST * HTTP/1.1", "OPTIONS * HTTP/1.1", "CONNECT x:80 HTTP/1.1",
	} {
		f(first, start(first)+evil, is(400))
	}
	// A path is taken as it is written, or not at all.
	for _, path := range []string{"/v1/chat%2fcompletions", "/v1/chat/%63ompletions", "//v1/chat/completions", "/v1/./chat/completions", "/x/../v1/chat/completions", "/v1/chat/completions/", "/V1/chat/completions", "/v1/chat/completions;a=b"} {
		f(path, start("POST "+path+" HTTP/1.1")+evil, is(404, 200), arrived2)
	}
	f("a query", start("POST /v1/chat/completions?api-version=1 HTTP/1.1"), is(200), arrived)
	// RFC 9112 lets a lone LF end a line. Of the first line fasthttp does not
	// tell; nothing can be hidden by it, since every other line needs its CRLF.
	f("a first line that ends in LF", strings.Replace(post("{}"), "HTTP/1.1\r\n", "HTTP/1.1\n", 1)+evil, is(200, 200), arrived, arrived2)

	// Chunks: whatever follows them is not looked at.
	f("chunks, then a request", chunks("2\r\n{}\r\n0\r\n\r\n"+evil), is(200), arrived)
	f("a trailer that ends with two LF", chunks("2\r\n{}\r\n0\r\nA: b\n\n"+evil), is(200), arrived)
	f("a trailer that is a length", chunks("2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n"+evil), is(400))
	f("a trailer that is too long", chunks("2\r\n{}\r\n0\r\nA: "+strings.Repeat("b", 40<<10)+"\r\n\r\n"+evil), is(431))
	for _, body := range []string{
		"2\n{}\n0\n\n", "2\r\n{}0\r\n\r\n", "2\r\n{}\n0\r\n\r\n", "0x2\r\n{}\r\n0\r\n\r\n", "+2\r\n{}\r\n0\r\n\r\n", "-2\r\n{}\r\n0\r\n\r\n", " 2\r\n{}\r\n0\r\n\r\n",
		"g\r\n{}\r\n0\r\n\r\n", "\r\n{}\r\n0\r\n\r\n", ";a\r\n{}\r\n0\r\n\r\n", "2;a\n{}\r\n0\r\n\r\n", "2 x\r\n{}\r\n0\r\n\r\n",
		"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
	} {
		f("chunks "+body, chunks(body+evil), is(400))
	}
	f("chunks that a request follows", chunks("2\r\n{}\r\n"+evil), is(400))
	check(true, "chunks that end early", chunks("2\r\n{}\r\n"), is()) // it has said that it is gone
	check(true, "a chunk that ends early", chunks("2\r\n{"), is(400))
	f("a chunk over the limit", chunks("fffffffffffffff\r\n{}\r\n0\r\n\r\n"+evil), is(413))
	f("many chunks over the limit", chunks(strings.Repeat("1000\r\n"+strings.Repeat(" ", 4096)+"\r\n", 300)+evil), is(413))
	f("an extension without an end", chunks("2;"+strings.Repeat("a", 3<<20)), is(413))
	f("extensions longer than any body", chunks(strings.Repeat("1;"+strings.Repeat("a", 1000)+"\r\n \r\n", 3<<10)), is(413))

	// Too much.
	f("a long header", line("X-A: "+strings.Repeat("a", 40<<10)+"\r\n")+evil, is(431))
	f("many headers", line(strings.Repeat("A:\r\n", 200))+evil, is(431))
	f("a long target", start("POST /"+strings.Repeat("a", 40<<10)+" HTTP/1.1")+evil, is(431))
	f("a body over the limit", post(strings.Repeat(" ", 1<<20+1))+evil, is(413))
	check(true, "a body that is cut", strings.TrimSuffix(post("{}"), "}"), is(400))
	check(true, "a head that is cut", strings.TrimSuffix(post(""), "\r\n"), is(400))

	// Expectations are met only where the request may come in.
	f("an expectation that is not known", post("{}", "Expect: 200-ok\r\n")+evil, is(417))
	f("an expectation, too large", post(strings.Repeat(" ", 1<<20+1), "Expect: 100-continue\r\n")+evil, is(413))
	noKey := func(s string) string { return strings.Replace(s, key, "", 1) }
	f("an expectation, no key", noKey(post("{}", "Expect: 100-continue\r\n"))+evil, is(401))
	f("an expectation and chunks, no key", noKey(chunks("2\r\n{}\r\n0\r\n\r\n", "Expect: 100-continue\r\n"))+evil, is(401))
	f("no key", noKey(post("{}"))+evil, is(401))
	f("no key, no body", noKey(post(""))+evil, is(401, 200), arrived2)
	f("no key but in the trailer", noKey(chunks("2\r\n{}\r\n0\r\nX-Api-Key: sk-right\r\n\r\n"))+evil, is(401))

	// A GET may have a body, which is read and means nothing.
	get := "GET /v1/models HTTP/1.1\r\nHost: x\r\n" + key
	f("a GET with a body", get+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(evil))+evil, is(200), "GET /v1/models ")
	f("a HEAD of what is posted", strings.Replace(post(""), "POST", "HEAD", 1)+evil, is(405, 200), arrived2)
}

// rawAnswer is all that is answered to text, as it comes.
func rawAnswer(t *testing.T, addr, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite()
	all, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}
