package sim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/http/httputil"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// recordedOptions make the simulator what llama-server was when it was recorded.
func recordedOptions() options {
	o, err := parseOptions([]string{"-flavour", "llama", "--alias", "bigram", "--metrics", "--api-key", "k"})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return o
}

// TestRecorded compares answers with recorded ones of llama-server: status, headers,
// events, and every key of every object in its order. Values count where they are
// words of the protocol.
func TestRecorded(t *testing.T) {
	const (
		hi      = `"messages":[{"role":"user","content":"hi"}]`
		chatURL = "POST /v1/chat/completions"
		textURL = "POST /v1/completions"
	)
	embeddings := recordedOptions()
	embeddings.embeddings = true
	for _, c := range []struct {
		name, url, body string
		opts            options
		noKey           bool
	}{
		{name: "chat", url: chatURL, body: `{` + hi + `,"max_tokens":8}`},
		{name: "chat-stream", url: chatURL, body: `{` + hi + `,"max_tokens":8,"stream":true}`},
		{name: "chat-stream-usage", url: chatURL, body: `{` + hi + `,"max_tokens":8,"stream":true,"stream_options":{"include_usage":true}}`},
		{name: "chat-stream-usage-timings", url: chatURL, body: `{` + hi + `,"max_tokens":8,"stream":true,"stream_options":{"include_usage":true},"timings_per_token":true}`},
		{name: "chat-n2", url: chatURL, body: `{` + hi + `,"max_tokens":4,"n":2}`},
		{name: "chat-n2-stream", url: chatURL, body: `{` + hi + `,"max_tokens":4,"n":2,"stream":true,"stream_options":{"include_usage":true}}`},
		{name: "chat-logprobs", url: chatURL, body: `{` + hi + `,"max_tokens":2,"logprobs":true,"top_logprobs":2}`},
		{name: "completions", url: textURL, body: `{"prompt":"hi","max_tokens":6}`},
		{name: "completions-array", url: textURL, body: `{"prompt":["hi","there"],"max_tokens":3}`},
		{name: "completions-stream", url: textURL, body: `{"prompt":"hi","max_tokens":6,"stream":true}`},
		{name: "responses", url: "POST /v1/responses", body: `{"input":"hi","max_output_tokens":6}`},
		{name: "responses-stream", url: "POST /v1/responses", body: `{"input":"hi","max_output_tokens":6,"stream":true}`},
		{name: "messages", url: "POST /v1/messages", body: `{` + hi + `,"max_tokens":6}`},
		{name: "messages-stream", url: "POST /v1/messages", body: `{` + hi + `,"max_tokens":6,"stream":true}`},
		{name: "messages-count", url: "POST /v1/messages/count_tokens", body: `{` + hi + `}`},
		{name: "embeddings", url: "POST /v1/embeddings", body: `{"input":["a","b"]}`, opts: embeddings},
		{name: "embeddings-disabled", url: "POST /v1/embeddings", body: `{"input":["a","b"]}`},
		{name: "tokenize", url: "POST /tokenize", body: `{"content":"as many words as the recorded one has"}`},
		{name: "models", url: "GET /v1/models"},
		{name: "props", url: "GET /props"},
		{name: "metrics", url: "GET /metrics"},
		{name: "error-401", url: chatURL, body: `{` + hi + `}`, noKey: true},
		{name: "error-404", url: "GET /nowhere"},
		{name: "error-badjson", url: chatURL, body: `{b`},
		{name: "error-badtype", url: chatURL, body: `{"messages":"hi"}`},
		{name: "error-nomessages", url: chatURL, body: `{}`},
		{name: "error-toolong", url: chatURL, body: `{"messages":[{"role":"user","content":"` + strings.Repeat("a ", 5000) + `"}]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.opts.flavour == "" {
				c.opts = recordedOptions()
			}
			s := newServer(c.opts)
			close(s.ready)
			server := httptest.NewServer(s)
			defer server.Close()
			key := "k"
			if c.noKey {
				key = "wrong"
			}
			head, body := exchange(t, server.Listener.Addr().String(), c.url, key, c.body)
			headers := c.name
			if c.name == "embeddings" { // whose own were not kept
				headers = "chat"
			}
			wantHead := strings.Split(strings.ReplaceAll(strings.TrimSpace(recorded(t, headers+".headers")), "\r", ""), "\n")
			if got, want := headShape(head), headShape(wantHead); got != want {
				t.Errorf("headers = %s\nwant      %s", got, want)
			}
			got, want := shape(t, body), shape(t, []byte(recorded(t, c.name+".body")))
			if c.name == "props" { // the recorded answer itself, with sorted keys
				got, want = sortLetters(got), sortLetters(want)
			}
			if got != want {
				t.Errorf("body = %s\nwant   %s", got, want)
			}
		})
	}
}

// TestRecordedLoading: everything is refused alike while the model loads.
func TestRecordedLoading(t *testing.T) {
	s := newServer(recordedOptions())
	server := httptest.NewServer(s)
	defer server.Close()
	want, _, _ := strings.Cut(recorded(t, "health-loading.txt"), "}}")
	for _, url := range []string{"GET /health", "GET /v1/models", "POST /v1/chat/completions"} {
		head, body := exchange(t, server.Listener.Addr().String(), url, "wrong", "")
		if !strings.HasPrefix(head[0], "HTTP/1.1 503 ") || string(body) != want+"}}" {
			t.Errorf("%s while loading = %s, %s, want 503 %s}}", url, head[0], body, want)
		}
	}
	close(s.ready)
	head, body := exchange(t, server.Listener.Addr().String(), "GET /health", "wrong", "")
	want, _, _ = strings.Cut(recorded(t, "health-ready.txt"), "}")
	if !strings.HasPrefix(head[0], "HTTP/1.1 200 ") || string(body) != want+"}" {
		t.Errorf("health when ready = %s, %s, want 200 %s}", head[0], body, want)
	}
}

func recorded(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "llama-server", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// exchange sends one request and reads the answer off the wire: net/http's client
// hides the headers that belong to the connection.
func exchange(t *testing.T, addr, url, key, body string) (head []string, answer []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: engine\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", url, key, len(body), body)
	r := bufio.NewReader(conn)
	lines := textproto.NewReader(r)
	length, chunked := 0, false
	for {
		line, err := lines.ReadLine()
		if err != nil {
			t.Fatal(err)
		}
		if line == "" {
			break
		}
		head = append(head, line)
		fmt.Sscanf(line, "Content-Length: %d", &length)
		chunked = chunked || line == "Transfer-Encoding: chunked"
	}
	var from io.Reader = io.LimitReader(r, int64(length))
	if chunked {
		from = httputil.NewChunkedReader(r)
	}
	if answer, err = io.ReadAll(from); err != nil {
		t.Fatal(err)
	}
	return head, answer
}

func headShape(lines []string) string {
	var out []string
	for _, line := range lines {
		line = strings.TrimSpace(line)
		for _, name := range []string{"Content-Length:", "Process-Start-Time-Unix:"} {
			if strings.HasPrefix(line, name) {
				line = name
			}
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return strings.Join(out, " | ")
}

// shape reduces a body to what must agree: JSON, a stream of events, or metrics.
func shape(t *testing.T, body []byte) string {
	t.Helper()
	switch {
	case bytes.HasPrefix(body, []byte("{")):
		return jsonShape(t, body)
	case bytes.HasPrefix(body, []byte("#")):
		var names []string
		for _, line := range strings.Split(string(body), "\n") {
			if strings.HasPrefix(line, "# TYPE") || !strings.HasPrefix(line, "#") {
				name, _, _ := strings.Cut(strings.TrimPrefix(line, "# TYPE "), " ")
				names = append(names, name)
			}
		}
		return strings.Join(names, "\n")
	}
	var events []string
	for _, line := range strings.Split(string(body), "\n") {
		if data, ok := strings.CutPrefix(line, "data: {"); ok {
			line = "data: " + jsonShape(t, []byte("{"+data))
		}
		events = append(events, line)
	}
	return strings.Join(events, "\n")
}

// protocolWords are the keys whose strings are not free text.
var protocolWords = []string{"object", "type", "role", "finish_reason", "stop_reason", "status", "owned_by"}

// numberLists are the keys of lists whose length is the model's affair.
var numberLists = []string{"embedding", "bytes", "tokens"}

func jsonShape(t *testing.T, raw []byte) string {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	var read func(key string) string
	read = func(key string) string {
		token, err := d.Token()
		if err != nil {
			t.Fatalf("read %.200s: %v", raw, err)
		}
		switch v := token.(type) {
		case json.Delim:
			var parts []string
			for d.More() {
				if v == '{' {
					name, _ := d.Token()
					parts = append(parts, name.(string)+":"+read(name.(string)))
				} else if part := read(key); !slices.Contains(numberLists, key) {
					parts = append(parts, part)
				}
			}
			end, _ := d.Token()
			return fmt.Sprintf("%s%s%s", v, strings.Join(parts, ","), end)
		case string:
			if slices.Contains(protocolWords, key) {
				return v
			}
			return "string"
		case float64:
			return "number"
		case bool:
			return "bool"
		}
		return "null"
	}
	return read("")
}

func sortLetters(s string) string {
	letters := []byte(s)
	slices.Sort(letters)
	return string(letters)
}
