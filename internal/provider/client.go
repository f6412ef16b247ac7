package provider

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"spotinference/internal/hint"
)

const (
	requestTimeout = 15 * time.Second
	maxBody        = 4 << 20
)

// MaxRetryAfter bounds the wait that a provider can ask for: more is a slip of its own.
const MaxRetryAfter = time.Hour

// MaxSkew is how far a reply's date may be from this machine's clock.
const MaxSkew = time.Minute

// Client sends requests to the API at one base. It is made for one key, and sends that
// key nowhere else.
type Client struct {
	Authorize func(http.Header) // adds the key to a request's header; may be nil
	Secrets   Secrets           // what Authorize sends, and what that was had for

	base *url.URL
	http *http.Client
}

// NewClient makes a client for the API at base, of BaseURL. A nil transport is the
// network.
func NewClient(base *url.URL, transport http.RoundTripper) *Client {
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
	return &Client{
		base: base,
		http: &http.Client{
			Transport: transport,
			// Go drops Authorization on the way to another host, but not the
			// headers that these APIs use.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Request is what to ask for.
type Request struct {
	Method string // "" is GET
	Path   string // under the base
	Query  url.Values
	Body   []byte // JSON; nil is none
}

// Send makes one request, in its time, and reads the reply: JSON, of status 200,
// bounded, and of now. Anything else is a failure. The secrets are in no failure.
func (c *Client) Send(ctx context.Context, clk Clock, r Request) ([]byte, *Failure) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, f := c.send(ctx, clk, r)
	if f != nil {
		f.Err = c.Secrets.Error(f.Err)
	}
	return body, f
}

func (c *Client) send(ctx context.Context, clk Clock, r Request) ([]byte, *Failure) {
	u := c.base.JoinPath(r.Path)
	u.RawQuery = r.Query.Encode()
	var content io.Reader
	if r.Body != nil {
		content = bytes.NewReader(r.Body)
	}
	req, err := http.NewRequestWithContext(ctx, cmp.Or(r.Method, http.MethodGet), u.String(), content)
	if err != nil {
		return nil, fail(Internal, "build request: %w", bare(err))
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Cache-Control", "no-cache")
	req.Header.Set("User-Agent", "spotinference")
	if r.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Authorize != nil {
		c.Authorize(req.Header)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		err = bare(err)
		return nil, fail(classify(err), "no reply: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if f := refusal(resp, body); f != nil {
		f.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), clk.Now())
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
	date := resp.Header.Get("Date")
	if f := skew(date, clk.Now()); f != nil {
		return nil, f
	}
	if date != "" {
		clk.setDated()
	}
	return body, nil
}

// retryAfter reads both forms of the header; what it cannot read asks for nothing.
func retryAfter(text string, now time.Time) time.Duration {
	if text == "" {
		return 0
	}
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		return min(max(time.Duration(n)*time.Second, 0), MaxRetryAfter)
	}
	if t, err := http.ParseTime(text); err == nil {
		return min(max(t.Sub(now), 0), MaxRetryAfter)
	}
	return 0
}

// skew compares the provider's clock with ours. It also catches a reply that some
// cache kept: such a reply is of another minute. No Date proves nothing, either way.
func skew(date string, now time.Time) *Failure {
	if date == "" {
		return nil
	}
	t, err := http.ParseTime(date)
	if err != nil {
		return fail(Malformed, "reply's Date header cannot be read")
	}
	if d := now.Sub(t); d > MaxSkew+time.Second || d < -MaxSkew { // Date has no fraction of a second
		f := fail(ClockSkew, "the reply is dated %s away from this machine's clock", d.Abs().Round(time.Second))
		f.Err = hint.Wrap(f.Err, "check that this machine's clock is synchronised")
		return f
	}
	return nil
}
