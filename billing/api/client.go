package api

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"spotinference/internal/provider"
)

// SampleTimeout bounds all calls of one sample, whatever the caller allows.
const SampleTimeout = 45 * time.Second

const (
	maxTries     = 3
	firstBackoff = time.Second
)

// Client reads a bill. It is billing's policy on provider.Client: nothing is changed by
// it. A GET may be sent again; a POST is sent once, and only asks for something: a token,
// the answer to a query.
type Client struct {
	provider *provider.Client
	keyHint  string // what to do when the key is refused
}

// NewClient makes a client on c, which has its key. keyHint says what to do when that is
// refused.
func NewClient(c *provider.Client, keyHint string) *Client {
	return &Client{provider: c, keyHint: keyHint}
}

// Get returns the body of a 200 that is JSON. It tries again where that may help and
// there is time. call is the template that names the request in errors and in the
// ledger; path has the ids filled in.
func (c *Client) Get(ctx context.Context, clk provider.Clock, call, path string, query url.Values) ([]byte, *Failure) {
	var body []byte
	f := Retry(ctx, func() (f *Failure) {
		body, f = c.send(ctx, clk, call, provider.Request{Path: path, Query: query})
		return f
	})
	return body, f
}

// Post returns the body of a 200 that is JSON. It is sent once, and must change nothing.
func (c *Client) Post(ctx context.Context, clk provider.Clock, call, path string, body []byte) ([]byte, *Failure) {
	return c.send(ctx, clk, call, provider.Request{Method: http.MethodPost, Path: path, Body: body})
}

func (c *Client) send(ctx context.Context, clk provider.Clock, call string, r provider.Request) ([]byte, *Failure) {
	body, none := c.provider.Send(ctx, clk, r)
	if none == nil {
		return body, nil
	}
	f := &Failure{Call: call, Class: Class(none.Class), Status: none.Status, RetryAfter: none.RetryAfter, Err: none.Err}
	switch f.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		f.WithHint(c.keyHint)
	case http.StatusMovedPermanently, http.StatusPermanentRedirect, http.StatusNotFound, http.StatusGone:
		// An adapter that asked for one thing by its id says more of a 404.
		f.WithHint("nothing is at that address: check --instance and --provider-url; if both are right the provider retired this API, and a newer spotinference may speak the next one")
	}
	return nil, f
}

// Retry calls try until it succeeds, three times at most. The pause before each further
// time grows, and is no shorter than the provider asked for. Where the failure will not
// pass, or there is no time for the pause, it gives up at once: the next sample is the
// next try.
func Retry(ctx context.Context, try func() *Failure) *Failure {
	for n := 1; ; n++ {
		f := try()
		if f == nil || n == maxTries || !f.Class.Retriable() || !pause(ctx, n, f.RetryAfter) {
			return f
		}
	}
}

// pause waits before the next try, or reports that there is no time for it.
func pause(ctx context.Context, try int, asked time.Duration) bool {
	d := firstBackoff << (try - 1)
	d = max(d+rand.N(d/2), asked)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Keep is the copy of a reply that may be stored: without a secret, should the provider
// have echoed one.
func (c *Client) Keep(body []byte) []byte { return c.provider.Secrets.Bytes(body) }

// Redact is f without a secret.
func (c *Client) Redact(f *Failure) *Failure {
	f.Err = c.provider.Secrets.Error(f.Err)
	return f
}

// Word is a short text of the provider's, fit to be stored and printed.
func (c *Client) Word(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, c.provider.Secrets.Text(s))
	if len(s) > 64 {
		s = s[:64]
	}
	return s
}
