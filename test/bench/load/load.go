// Package load asks a gateway or an engine for answers of [mock], many at a
// time, and checks each: every event in its order, the usage, the end. An
// answer that is quick and wrong is an error, not a figure.
package load

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/test/bench/mock"
)

// Config is one run. It ends after Requests, or after For where that is 0.
type Config struct {
	Addr  string // host:port
	Key   string
	Conns int

	Stream bool
	Plan   mock.Plan // of each stream

	Requests int
	For      time.Duration
	// Rate makes the loop an open one: so many requests a second arrive by
	// chance, whether or not the ones before were answered.
	Rate float64
}

// Result is what came of a run.
type Result struct {
	Answers int // whole and right
	Events  int // with content
	Failed  int
	Err     error         // the first failure
	Took    time.Duration // all of it
	First   []time.Duration
	Whole   []time.Duration // of each answer, sorted, as is First
}

// At returns the value below which the share of a sorted list lies.
func At(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(share*float64(len(sorted)-1)+0.5)]
}

const filler = "The engine serves one more answer while the ledger keeps every sample and the gate asks whether the bill can be seen. "

// body is a request of a few hundred bytes, as most are.
func (cfg *Config) body() string {
	stream := ""
	if cfg.Stream {
		stream = `,"stream":true,"stream_options":{"include_usage":true}`
	}
	return fmt.Sprintf(`{"model":"mock","messages":[{"role":"system","content":"You count."},{"role":"user","content":"%s %s"}],"temperature":0.7,"max_tokens":512%s}`,
		cfg.Plan, strings.Repeat(filler, 4), stream)
}

// Run runs it.
func Run(cfg Config) Result {
	var req fasthttp.Request
	req.Header.SetMethod(fasthttp.MethodPost)
	req.SetRequestURI("http://" + cfg.Addr + "/v1/chat/completions")
	req.Header.SetContentType("application/json")
	req.Header.Set(fasthttp.HeaderAuthorization, "Bearer "+cfg.Key)
	req.SetBodyString(cfg.body())
	var raw bytes.Buffer
	w := bufio.NewWriter(&raw)
	_ = req.Write(w) // into memory
	_ = w.Flush()

	next, stop := cfg.arrivals()
	defer stop()
	clients := make([]client, cfg.Conns)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range clients {
		c := &clients[i]
		c.cfg, c.request = &cfg, raw.Bytes()
		wg.Go(func() {
			defer c.hangUp()
			for next() {
				c.ask()
			}
		})
	}
	wg.Wait()
	res := Result{Took: time.Since(began)}
	for i := range clients {
		c := &clients[i].got
		res.Answers += c.Answers
		res.Events += c.Events
		res.Failed += c.Failed
		if res.Err == nil {
			res.Err = c.Err
		}
		res.First = append(res.First, c.First...)
		res.Whole = append(res.Whole, c.Whole...)
	}
	slices.Sort(res.First)
	slices.Sort(res.Whole)
	return res
}

// arrivals returns what a client calls before each request: it waits for the
// request's time, and is false when there is none any more.
func (cfg *Config) arrivals() (next func() bool, stop func()) {
	end := time.Now().Add(cfg.For)
	var n atomic.Int64
	more := func() bool {
		if cfg.Requests > 0 {
			return n.Add(1) <= int64(cfg.Requests)
		}
		return time.Now().Before(end)
	}
	if cfg.Rate == 0 {
		return more, func() {}
	}
	due := make(chan struct{}, 1<<16)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(due)
		rnd := rand.New(rand.NewPCG(1, 2)) // the same arrivals for all
		for at := time.Now(); more(); {
			at = at.Add(time.Duration(rnd.ExpFloat64() / cfg.Rate * float64(time.Second)))
			time.Sleep(time.Until(at))
			due <- struct{}{}
		}
	})
	return func() bool { _, ok := <-due; return ok }, wg.Wait
}

// client has one connection.
type client struct {
	cfg     *Config
	request []byte
	conn    net.Conn // nil where there is none
	br      *bufio.Reader
	resp    fasthttp.Response
	got     Result
}

func (c *client) hangUp() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// ask asks once and books what came.
func (c *client) ask() {
	began := time.Now()
	first, events, err := c.exchange()
	if err != nil {
		c.hangUp()
		c.got.Failed++
		if c.got.Err == nil {
			c.got.Err = err
		}
		return
	}
	c.got.Answers++
	c.got.Events += events
	c.got.First = append(c.got.First, first.Sub(began))
	c.got.Whole = append(c.got.Whole, time.Since(began))
}

func (c *client) exchange() (first time.Time, events int, err error) {
	if c.conn == nil {
		if c.conn, err = net.Dial("tcp", c.cfg.Addr); err != nil {
			return first, 0, err
		}
		c.br = bufio.NewReaderSize(c.conn, 16<<10)
	}
	if err := c.conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return first, 0, err
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return first, 0, err
	}
	c.resp.StreamBody = c.cfg.Stream
	if err := c.resp.Read(c.br); err != nil {
		return first, 0, fmt.Errorf("read the head of an answer: %w", err)
	}
	defer c.resp.CloseBodyStream()
	switch body := c.resp.Body; {
	case c.resp.StatusCode() != fasthttp.StatusOK:
		return first, 0, fmt.Errorf("status %d: %.200s", c.resp.StatusCode(), body())
	case c.cfg.Stream:
		return c.events()
	case !bytes.Contains(body(), []byte(`"completion_tokens":`+fmt.Sprint(mock.Completion))):
		return first, 0, fmt.Errorf("an answer without its usage: %.200s", body())
	}
	return time.Now(), 0, nil
}

// events reads a stream and checks it.
func (c *client) events() (first time.Time, n int, err error) {
	var usage, done bool
	r := bufio.NewReaderSize(c.resp.BodyStream(), 16<<10)
	for {
		line, err := r.ReadSlice('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			return first, n, fmt.Errorf("read a stream: %w", err)
		}
		switch {
		case bytes.Contains(line, []byte(`"timings"`)):
			return first, n, errors.New("a stream with timings that nobody asked for")
		case bytes.Contains(line, []byte(`"content":"`)):
			if want := []byte(`"` + mock.Word(n) + `"`); !bytes.Contains(line, want) {
				return first, n, fmt.Errorf("event %d is %.100q", n, line)
			}
			if n++; n == 1 {
				first = time.Now()
			}
		case bytes.Contains(line, []byte(`"usage":`)):
			usage = true
		case bytes.HasPrefix(line, []byte("data: [DONE]")):
			done = true
		}
	}
	if n != c.cfg.Plan.Tokens || !usage || !done {
		return first, n, fmt.Errorf("a stream of %d events, not %d; usage %v, end %v", n, c.cfg.Plan.Tokens, usage, done)
	}
	return first, n, nil
}
