package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"
)

// attempt is one request of a client, and what it saw of the answer.
type attempt struct {
	Dialect string
	Stream  bool
	Keyed   bool // with the right key
	Prompt  int  // tokens, by the engine's own rule
	Want    int  // completion tokens of the whole answer
	Cut     int  // bytes after which the client leaves; 0: it stays

	Sent     time.Time
	First    time.Time // of the first token, or of the end where it does not stream
	End      time.Time
	ID       string // ours, by x-request-id; "" where no head was seen
	Status   int    // 0 where no head was seen
	Whole    bool   // the answer came to its end, and was none of an error
	Received int    // completion tokens that the client has
	Marks    []mark // when it had how many
	Waited   bool   // a heartbeat was heard: the engine was being woken
	Code     string // of a refusal
	Err      string
}

type mark struct {
	At     time.Time
	Tokens int
}

// had is how many tokens the client had at a moment.
func (a *attempt) had(at time.Time) (n int) {
	for _, m := range a.Marks {
		if m.At.After(at) {
			break
		}
		n = m.Tokens
	}
	return n
}

// served reports whether the gateway let the request in.
func (a *attempt) served() bool { return a.Status == http.StatusOK && !a.First.IsZero() }

func (a *attempt) String() string { b, _ := json.Marshal(a); return string(b) }

// clients send requests as clients do: in all dialects, some slow, some of whom leave.
type clients struct {
	url string
	key string

	mu  sync.Mutex
	bad []string // keys that are none, or none any more; guarded by mu
}

// guess returns a key that opens nothing.
func (c *clients) guess(random *rand.Rand) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad[random.IntN(len(c.bad))]
}

// revoked adds a key to those.
func (c *clients) revoked(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bad = append(c.bad, key)
}

const attemptTime = 40 * time.Second

// send makes a request by chance and waits for what comes of it.
func (c *clients) send(ctx context.Context, random *rand.Rand) *attempt {
	d := dialects[[...]int{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4}[random.IntN(11)]]
	a := &attempt{Dialect: d.name, Keyed: random.IntN(12) > 0, Stream: d.limit != "" && random.IntN(5) < 3}
	n := 1 + random.IntN(60)
	if random.IntN(8) == 0 {
		n = 300
	}
	fault := map[string]any{"delay_ms": random.IntN(20)}
	choices := 1
	switch {
	case random.IntN(12) == 0:
		fault[[...]string{"drop_after", "error_after"}[random.IntN(2)]] = 1 + random.IntN(80)
	case d.name == "chat" && random.IntN(6) == 0:
		choices = 2
	}
	if random.IntN(4) == 0 {
		a.Cut = 1 + random.IntN([...]int{300, 3000, 30000}[random.IntN(3)])
	}
	words := 1 + random.IntN(20)
	body := d.prompt(fmt.Sprintf("%x", random.Uint64()) + strings.Repeat(" word", words-1))
	body["sim"] = fault
	if d.limit != "" {
		body[d.limit] = n
		a.Want = n * choices
	}
	if a.Stream {
		body["stream"] = true
	}
	if choices > 1 {
		body["n"] = choices
	}
	a.Prompt = d.base + words
	key := c.key
	if !a.Keyed {
		key = c.guess(random)
	}
	c.do(ctx, a, d, body, key, random.IntN(2) == 0)
	return a
}

// probe is a request that nothing is wrong with.
func (c *clients) probe(ctx context.Context) *attempt {
	d := dialects[0]
	a := &attempt{Dialect: d.name, Keyed: true, Prompt: d.base + 2, Want: 3}
	body := d.prompt("all well?")
	body[d.limit] = a.Want
	c.do(ctx, a, d, body, c.key, false)
	return a
}

func (c *clients) do(ctx context.Context, a *attempt, d dialect, body map[string]any, key string, anthropic bool) {
	ctx, leave := context.WithTimeout(ctx, attemptTime)
	defer leave()
	text, err := json.Marshal(body)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+d.path, bytes.NewReader(text))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	if anthropic {
		req.Header.Set("X-Api-Key", key)
	} else {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	a.Sent = time.Now()
	defer func() { a.End = time.Now() }()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		a.Err = err.Error()
		return
	}
	defer resp.Body.Close()
	a.Status, a.ID = resp.StatusCode, resp.Header.Get("X-Request-Id")
	src := io.Reader(resp.Body)
	if a.Cut > 0 {
		src = &leaver{src, a.Cut}
	}
	switch {
	case a.Status != http.StatusOK:
		a.refused(src)
	case strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream"):
		err = a.events(src, d.end)
	default:
		err = a.json(src)
	}
	if err != nil {
		a.Err = err.Error()
	}
}

var errLeft = errors.New("the client left")

// leaver is a client that leaves after so many bytes.
type leaver struct {
	r    io.Reader
	left int
}

func (l *leaver) Read(b []byte) (int, error) {
	if l.left == 0 {
		return 0, errLeft
	}
	n, err := l.r.Read(b[:min(len(b), l.left)])
	l.left -= n
	return n, err
}

func (a *attempt) refused(src io.Reader) {
	text, err := io.ReadAll(io.LimitReader(src, 1<<20))
	var said struct{ Error struct{ Code, Type string } }
	if json.Unmarshal(text, &said) == nil {
		a.Code = said.Error.Code
		if a.Code == "" {
			a.Code = said.Error.Type
		}
	}
	if err != nil {
		a.Err = err.Error()
	}
}

func (a *attempt) json(src io.Reader) error {
	text, err := io.ReadAll(src)
	if err != nil {
		return err
	}
	a.First = time.Now()
	var answer struct{ Usage *usage }
	if err := json.Unmarshal(text, &answer); err != nil || answer.Usage == nil {
		return fmt.Errorf("an answer without usage: %.200q", text)
	}
	a.Whole, a.Received = true, answer.Usage.completion()
	if u := answer.Usage; u.prompt() != a.Prompt || u.completion() != a.Want {
		return fmt.Errorf("usage %+v", *u)
	}
	return nil
}

func (a *attempt) events(src io.Reader, end string) error {
	r := bufio.NewReader(src)
	failed := false
	for {
		line, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" {
			return nil
		}
		if err != nil {
			return err
		}
		a.Waited = a.Waited || strings.HasPrefix(line, ":")
		data, ok := strings.CutPrefix(strings.TrimSpace(line), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			a.Whole = a.Whole || end == data && !failed
			continue
		}
		var e event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("event %.200q: %w", data, err)
		}
		failed = failed || e.failed()
		a.Whole = a.Whole || e.Type == end && !failed
		if n := e.tokens(); n > 0 {
			a.Received += n
			a.Marks = append(a.Marks, mark{time.Now(), a.Received})
			if a.First.IsZero() {
				a.First = a.Marks[0].At
			}
		}
	}
}
