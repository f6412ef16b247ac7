package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"spotinference/server/queue"
)

const (
	probeEvery   = 5 * time.Millisecond // with the time of an answer, an engine is ready for less than 10 ms without our knowing
	probeWait    = time.Second          // for one answer, at first
	probeWaitMax = 5 * time.Second
)

// errKeyRefused is an engine that is up and asks for another key than ours.
var errKeyRefused = errors.New("the engine refuses our key")

// prober asks one engine for its health.
type prober struct {
	transport *http.Transport
	key       string
	last      atomic.Pointer[string] // what awaitHealth saw last
}

// What awaitHealth may have seen last: why the engine is not ready, for people.
const (
	seenNothing  = "nothing listens where it was told to"
	seenMute     = "it listens and does not answer"
	seenNoHTTP   = "what it answers is not HTTP"
	seenStatus   = "its health check is answered with status %d"
	seenNoAnswer = "its health check passes, and it answers no request"
)

// seen is one of these, "" before the first probe.
func (p *prober) seen() string {
	if s := p.last.Load(); s != nil {
		return *s
	}
	return ""
}

func (p *prober) setSeen(seen string) { p.last.Store(&seen) }

// seenIn is what a probe's outcome says.
func seenIn(status int, err error) string {
	var op *net.OpError
	switch {
	case err == nil && status == http.StatusOK:
		return seenNoAnswer
	case err == nil:
		return fmt.Sprintf(seenStatus, status)
	case errors.Is(err, context.DeadlineExceeded):
		return seenMute
	case errors.Is(err, ErrNotRunning), errors.As(err, &op) && op.Op == "dial":
		return seenNothing
	}
	return seenNoHTTP
}

func newProber(dial func(context.Context) (net.Conn, error), key string) *prober {
	return &prober{key: key, transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true,
	}}
}

// awaitHealth asks GET /health until it is answered with 200, and returns nil, or until
// ctx ends. It returns errKeyRefused where the engine then wants another key, from a
// script or a file that we cannot see.
//
// llama-server answers 503 while it loads. vLLM binds its socket long before it
// reads from it, so a request hangs until then: each has its own deadline, and the
// one that hangs when the engine gets ready is answered at once. A refused
// connection is no failure: the guard reports whether the process lives.
func (p *prober) awaitHealth(ctx context.Context) error {
	wait := probeWait
	// An engine that accepts a connection and has never answered is mute already.
	asking := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		if s := p.seen(); s == "" || s == seenNothing {
			p.setSeen(seenMute)
		}
	}})
	for {
		asked := time.Now()
		status, err := p.get(asking, "/health", wait)
		if ctx.Err() == nil {
			p.setSeen(seenIn(status, err))
		}
		if status == http.StatusOK {
			break
		}
		if time.Since(asked) >= wait {
			wait = min(2*wait, probeWaitMax) // it hangs: leave fewer dead connections in its queue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(probeEvery):
		}
	}
	if status, _ := p.get(ctx, "/v1/models", wait); status == http.StatusUnauthorized || status == http.StatusForbidden {
		return errKeyRefused
	}
	return ctx.Err()
}

// get returns the status of the answer, 0 with an error.
func (p *prober) get(ctx context.Context, path string, wait time.Duration) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	status, _, err = p.do(ctx, http.MethodGet, path, "")
	if err != nil {
		return 0, err
	}
	return status, nil
}

// post must be answered with 200.
func (p *prober) post(ctx context.Context, path, body string) error {
	status, _, err := p.do(ctx, http.MethodPost, path, body)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	if err != nil {
		return fmt.Errorf("POST %s: %w", path, err)
	}
	return nil
}

// canary asks for one token. Nothing comes from llama-server's cache, so the tokens
// counted are those read. An engine that serves embeddings alone answers with a client
// error, which is an answer too.
func (p *prober) canary(ctx context.Context, kind queue.Kind) (usage Usage, err error) {
	model := ""
	if status, body, err := p.do(ctx, http.MethodGet, "/v1/models", ""); err == nil && status == http.StatusOK {
		var list struct{ Data []struct{ ID string } }
		if json.Unmarshal(body, &list) == nil && len(list.Data) > 0 {
			model = list.Data[0].ID
		}
	}
	var cache *bool
	if kind == queue.Llama {
		cache = new(bool)
	}
	ask, err := json.Marshal(struct {
		Model  string `json:"model,omitempty"`
		Prompt string `json:"prompt"`
		Tokens int    `json:"max_tokens"`
		Cache  *bool  `json:"cache_prompt,omitempty"`
	}{model, "1", 1, cache})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	const path = "/v1/completions"
	status, body, err := p.do(ctx, http.MethodPost, path, string(ask))
	if err != nil {
		return usage, fmt.Errorf("POST %s: %w", path, err)
	}
	if status >= 400 && status < 500 || status == http.StatusNotImplemented {
		return usage, nil
	}
	if status != http.StatusOK {
		return usage, fmt.Errorf("POST %s: status %d", path, status)
	}
	var answer struct {
		Choices []struct{ Text *string }
		Usage   struct {
			Prompt     int64 `json:"prompt_tokens"`
			Completion int64 `json:"completion_tokens"`
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return usage, fmt.Errorf("POST %s: the answer is not JSON", path)
	}
	if len(answer.Choices) == 0 || answer.Choices[0].Text == nil {
		return usage, fmt.Errorf("POST %s: an answer without a choice", path)
	}
	return Usage{answer.Usage.Prompt, answer.Usage.Completion}, nil
}

const maxAnswer = 1 << 20 // of what a prober reads

// do sends one request and reads the answer. What the engine answers goes into no
// error: it may quote a prompt.
func (p *prober) do(ctx context.Context, method, path, body string) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, strings.NewReader(body))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	req.Header.Set("Authorization", "Bearer "+p.key)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, answer, err
}
