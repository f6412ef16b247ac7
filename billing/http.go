package billing

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	requestTimeout = 15 * time.Second // one try
	sampleTimeout  = 45 * time.Second // all calls of one sample, whatever the caller allows
	maxBody        = 4 << 20
	maxTries       = 3
	firstBackoff   = time.Second
	maxRetryAfter  = time.Hour // longer would be darkness by a typing error
	maxSkew        = time.Minute
)

// client reads an API: GET only, and each may be repeated. It is made for one key
// at one base, and sends that key nowhere else.
type client struct {
	base      *url.URL
	authorize func(http.Header)
	secrets   []string // what authorize sends, and what that was had for: cut out of everything that leaves
	keyHint   string   // what to do when the key is refused
	http      *http.Client
}

func newClient(base *url.URL, transport http.RoundTripper) *client {
	if transport == nil {
		transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  requestTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			// A few calls a minute, from a box that sleeps in between: a connection
			// from before is more likely dead than useful.
			DisableKeepAlives: true,
		}
	}
	return &client{
		base: base,
		http: &http.Client{
			Transport: transport,
			// Go drops Authorization on the way to another host, but not the
			// headers that these APIs use.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// clock is the local time as the caller has it, carried on by the monotonic clock
// while the calls of one sample run.
type clock struct {
	now   time.Time
	start time.Time
}

func startClock(now time.Time) clock { return clock{now: now, start: time.Now()} }

func (c clock) read() time.Time { return c.now.Add(time.Since(c.start)) }

// get returns the body of a 200 that is JSON. call is the template that names the
// request in errors and in the ledger; path has the ids filled in.
func (c *client) get(ctx context.Context, clk clock, call, path string, query url.Values) ([]byte, *Failure) {
	for try := 1; ; try++ {
		body, f := c.try(ctx, clk, path, query)
		if f == nil {
			return body, nil
		}
		f.Call, f.Err = call, scrub(f.Err, c.secrets)
		if try == maxTries || !retriable(f.Class) || !pause(ctx, try, f.RetryAfter) {
			return nil, f
		}
	}
}

func retriable(c Class) bool {
	return c == HTTP429 || c == HTTP5xx || c == Network || c == Timeout
}

// pause waits before the next try, or reports that there is no time for it. Then
// the failure in hand is returned at once, and the next poll is the next try.
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

func (c *client) try(ctx context.Context, clk clock, path string, query url.Values) ([]byte, *Failure) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fail(Internal, "build request: %w", bare(err))
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Cache-Control", "no-cache")
	req.Header.Set("User-Agent", "spotinference")
	c.authorize(req.Header)

	body, f := send(c.http, req, clk)
	if f != nil && (f.Class == HTTP401 || f.Class == HTTP403) {
		f.WithHint(c.keyHint)
	}
	return body, f
}

// send makes one request and reads its reply, which is JSON, of status 200 and
// bounded, or it is a failure.
func send(client *http.Client, req *http.Request, clk clock) ([]byte, *Failure) {
	resp, err := client.Do(req)
	if err != nil {
		err = bare(err)
		return nil, fail(classify(err), "no reply: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if f := refusal(resp, body); f != nil {
		f.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), clk.read())
		return nil, f
	}
	if err != nil {
		err = bare(err)
		return nil, fail(classify(err), "read reply: %w", err)
	}
	if len(body) > maxBody {
		return nil, fail(TooLarge, "reply is larger than %d bytes", maxBody)
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, fail(Malformed, "reply is not application/json")
	}
	return body, skew(resp.Header.Get("Date"), clk.read())
}

// refusal is the failure that a status code stands for, nil for 200. Other codes
// of success are none: no bill comes as a part, or with no content.
func refusal(resp *http.Response, body []byte) *Failure {
	code := resp.StatusCode
	var class Class
	switch {
	case code == http.StatusOK:
		return nil
	case code == http.StatusUnauthorized:
		class = HTTP401
	case code == http.StatusForbidden:
		class = HTTP403
	case code == http.StatusTooManyRequests:
		class = HTTP429
	case code >= 500:
		class = HTTP5xx
	case code >= 400:
		class = HTTP4xx
	case code >= 300:
		f := fail(Redirect, "status %d: redirects are not followed", code)
		f.code = code
		return f.retired()
	default:
		class = Malformed
	}
	f := fail(class, "status %d", code)
	if word := reason(body); word != "" {
		f = fail(class, "status %d (%s)", code, word)
	}
	f.code = code
	return f.retired()
}

// retired adds what to do where the code says that the API is not there any more. An
// adapter that asked for one thing by its id says more of a 404.
func (f *Failure) retired() *Failure {
	switch f.code {
	case http.StatusMovedPermanently, http.StatusPermanentRedirect, http.StatusNotFound, http.StatusGone:
		f.WithHint("nothing is at that address: check --instance and --provider-url; if both are right the provider retired this API, and a newer spotinference may speak the next one")
	}
	return f
}

// reason is the provider's own word for an error, where it has the form of one.
// Messages are left out: they repeat what was sent.
func reason(body []byte) string {
	var e struct {
		Reason string `json:"error_reason"` // Hyperstack
		Error  string `json:"error"`        // Vast.ai
		Code   string `json:"code"`         // Verda
	}
	if json.Unmarshal(body, &e) != nil {
		return ""
	}
	word := cmp.Or(e.Reason, e.Error, e.Code)
	if len(word) > 32 || strings.Trim(word, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return ""
	}
	return word
}

// retryAfter reads both forms of the header; what it cannot read asks for nothing.
func retryAfter(text string, now time.Time) time.Duration {
	if text == "" {
		return 0
	}
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		return min(max(time.Duration(n)*time.Second, 0), maxRetryAfter)
	}
	if t, err := http.ParseTime(text); err == nil {
		return min(max(t.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// skew compares the provider's clock with ours. It also catches a reply that some
// cache kept: such a bill is of another minute. No Date proves nothing, either way.
func skew(date string, now time.Time) *Failure {
	if date == "" {
		return nil
	}
	t, err := http.ParseTime(date)
	if err != nil {
		return fail(Malformed, "reply's Date header cannot be read")
	}
	if d := now.Sub(t); d > maxSkew+time.Second || d < -maxSkew { // Date has no fraction of a second
		f := fail(ClockSkew, "the reply is dated %s away from this machine's clock", d.Abs().Round(time.Second))
		f.WithHint("check that this machine's clock is synchronised")
		return f
	}
	return nil
}

// bare takes the URL off an error of net/http: it names the host and the query.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// decode reads a whole reply into v. What the JSON package says about a reply may
// quote it, so only the kind of trouble is passed on.
func decode(body []byte, v any) *Failure {
	if !utf8.Valid(body) {
		return fail(Malformed, "reply is not UTF-8")
	}
	err := json.Unmarshal(body, v)
	var (
		syntax *json.SyntaxError
		kind   *json.UnmarshalTypeError
	)
	switch {
	case err == nil:
		if name := twice(body, v); name != "" {
			return fail(Malformed, "reply has %q more than once, or in another spelling", name)
		}
		return nil
	case errors.As(err, &syntax):
		return fail(Malformed, "reply is not JSON at byte %d of %d", syntax.Offset, len(body))
	case errors.As(err, &kind):
		return fail(Malformed, "reply has a wrong type in %q", kind.Field)
	default:
		return fail(Malformed, "reply cannot be read: %w", err)
	}
}

// keep is the copy of a reply that may be stored: without a secret, should the
// provider have echoed one.
func (c *client) keep(body []byte) []byte {
	for _, secret := range c.secrets {
		body = bytes.ReplaceAll(body, []byte(secret), []byte(redacted))
	}
	return body
}

// word is a short text of the provider's, fit to be stored and printed.
func (c *client) word(s string) string {
	for _, secret := range c.secrets {
		s = strings.ReplaceAll(s, secret, redacted)
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if len(s) > 64 {
		s = s[:64]
	}
	return s
}

// pages reads a listing to its end: fetch returns one page, how many items it
// holds, the size of a full page and the total that the provider claims. A listing
// that does not add up is no listing.
func pages(fetch func(page int) (items, size, total int, f *Failure)) *Failure {
	const maxPages = 100
	got := 0
	for page := 1; page <= maxPages; page++ {
		items, size, total, f := fetch(page)
		if f != nil {
			return f
		}
		got += items
		if items >= size && size > 0 {
			continue
		}
		if got != total {
			return fail(Incomplete, "listing has %d of %d entries", got, total)
		}
		return nil
	}
	return fail(Incomplete, "listing does not end within %d pages", maxPages)
}

func pageQuery(page, size int) url.Values {
	return url.Values{"page": {fmt.Sprint(page)}, "pageSize": {fmt.Sprint(size)}}
}
