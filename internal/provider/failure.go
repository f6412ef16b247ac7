package provider

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Class is the kind of thing that went wrong with a request.
type Class string

const (
	Network   Class = "network"    // no connection, or it broke
	Timeout   Class = "timeout"    // no whole answer in time
	TLS       Class = "tls"        // the other side could not prove who it is
	Redirect  Class = "redirect"   // sent elsewhere; not followed, or the key would go along
	HTTP401   Class = "http_401"   // the key is not accepted
	HTTP403   Class = "http_403"   // the key may not do this
	HTTP429   Class = "http_429"   // too many requests
	HTTP4xx   Class = "http_4xx"   // any other refusal
	HTTP5xx   Class = "http_5xx"   // the provider is in trouble
	TooLarge  Class = "too_large"  // more bytes than a reply can have
	Malformed Class = "malformed"  // not what an API answers
	ClockSkew Class = "clock_skew" // the two clocks disagree, so no time means anything
	Internal  Class = "internal"   // ours
)

// Failure is why a request has no good reply. Its text holds no address, no credential
// and nothing of the reply's body but a reason word of the provider's own.
type Failure struct {
	Class      Class
	Status     int           // HTTP status of a refusal; 0 where there was none
	RetryAfter time.Duration // no request before that, says the provider; 0 where it does not
	Err        error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

func fail(class Class, format string, args ...any) *Failure {
	return &Failure{Class: class, Err: fmt.Errorf(format, args...)}
}

// classify turns what net/http returned instead of a reply into a class.
func classify(err error) Class {
	var timeout net.Error
	var (
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		hostname    x509.HostnameError
		invalid     x509.CertificateInvalidError
		record      tls.RecordHeaderError
		alert       tls.AlertError
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return Timeout
	case errors.As(err, &certificate), errors.As(err, &authority), errors.As(err, &hostname),
		errors.As(err, &invalid), errors.As(err, &record), errors.As(err, &alert):
		return TLS
	default:
		return Network
	}
}

// refusal is the failure that a status code stands for, nil for 200. Other codes of
// success are none: they come with a part, or with no content.
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
		f.Status = code
		return f
	default:
		class = Malformed
	}
	f := fail(class, "status %d", code)
	if word := Reason(body); word != "" {
		f = fail(class, "status %d (%s)", code, word)
	}
	f.Status = code
	return f
}

// Reason is the provider's own word for an error, "" where the reply has none that has
// the form of one. Messages are left out: they repeat what was sent.
func Reason(body []byte) string {
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

// bare takes the URL off an error of net/http: it names the host and the query.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
