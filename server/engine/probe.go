package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	probeEvery    = 10 * time.Millisecond // at first
	probeEveryMax = 100 * time.Millisecond
	probeWait     = time.Second // for one answer, at first
	probeWaitMax  = 5 * time.Second
)

// errKeyRefused is an engine that is up and asks for another key than ours.
var errKeyRefused = errors.New("the engine refuses our key")

// prober asks one engine process for its health.
type prober struct {
	transport *http.Transport
	key       string
}

func newProber(dial func(context.Context) (net.Conn, error), key string) *prober {
	return &prober{key: key, transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true,
	}}
}

// run asks GET /health until it says 200, and returns nil, or until ctx ends. An
// engine that then wants another key, from a script or a file that we cannot see, is
// errKeyRefused.
//
// llama-server answers 503 while it loads. vLLM binds its socket long before it
// reads from it, so a request hangs until then: each has its own deadline, and the
// one that hangs when the engine gets ready is answered at once. A refused
// connection says nothing: whether the process lives is for others to know.
func (p *prober) run(ctx context.Context) error {
	pause, wait := probeEvery, probeWait
	for {
		asked := time.Now()
		if p.get(ctx, "/health", wait) == http.StatusOK {
			break
		}
		if time.Since(asked) >= wait {
			wait = min(2*wait, probeWaitMax) // it hangs: leave fewer dead connections in its queue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
			pause = min(pause*5/4, probeEveryMax)
		}
	}
	if status := p.get(ctx, "/v1/models", wait); status == http.StatusUnauthorized || status == http.StatusForbidden {
		return errKeyRefused
	}
	return ctx.Err()
}

// get returns the status of the answer, or 0.
func (p *prober) get(ctx context.Context, path string, wait time.Duration) int {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, nil)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	req.Header.Set("Authorization", "Bearer "+p.key)
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode
}
