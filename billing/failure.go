package billing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"spotinference/internal/hint"
)

// Class is the kind of thing that went wrong with a poll, as the ledger keeps it.
type Class string

const (
	Network      Class = "network"      // no connection, or it broke
	Timeout      Class = "timeout"      // no whole answer in time
	TLS          Class = "tls"          // the other side could not prove who it is
	Redirect     Class = "redirect"     // sent elsewhere; not followed, or the key would go along
	HTTP401      Class = "http_401"     // the key is not accepted
	HTTP403      Class = "http_403"     // the key may not read the bill
	HTTP429      Class = "http_429"     // too many requests
	HTTP4xx      Class = "http_4xx"     // any other refusal
	HTTP5xx      Class = "http_5xx"     // the provider is in trouble
	TooLarge     Class = "too_large"    // more bytes than a bill can have
	Malformed    Class = "malformed"    // not what the API says it answers
	Incomplete   Class = "incomplete"   // a part that makes up the bill is missing
	Currency     Class = "currency"     // not the currency of this ledger
	ClockSkew    Class = "clock_skew"   // the two clocks disagree, so no window means anything
	Unidentified Class = "unidentified" // which of the machines is this one?
	Refused      Class = "refused"      // read, but the ledger does not take it: another currency, a clock that stepped
	Internal     Class = "internal"     // ours
)

// lasting tells the classes that time does not heal: a person must do something, or
// the bill stays lost.
func lasting(c Class) bool {
	switch c {
	case HTTP401, HTTP403, HTTP4xx, Redirect, TLS, Currency, Unidentified:
		return true
	}
	return false
}

// Failure is why there is no sample. Its text holds no credential, no query, and
// nothing of the reply's body except a reason word of the provider's own.
type Failure struct {
	Call       string // template of the call, without host, query or ids: "GET /core/virtual-machines/{id}"
	Class      Class
	RetryAfter time.Duration // the provider asked for this much peace; 0 where it did not
	Err        error         // with its hint, where it has one of its own; see WithHint
	code       int           // HTTP status of a refusal
	absent     bool          // the box itself is not there
}

func (f *Failure) Error() string {
	if f.Call == "" {
		return f.Err.Error()
	}
	return f.Call + ": " + f.Err.Error()
}

// Unwrap is f's error with a hint: its own, or else that of its class. So hint.Of
// finds one on each Failure of a class in which something can be done.
func (f *Failure) Unwrap() error {
	if hint.Of(f.Err) != "" {
		return f.Err
	}
	return hint.Wrap(f.Err, classHint(f.Class))
}

// WithHint says what can be done about f, instead of what was said before.
func (f *Failure) WithHint(text string) *Failure {
	f.Err = hint.Wrap(f.Err, text)
	return f
}

// classHint is what can be done about a failure of class c, where nothing better is
// known.
func classHint(c Class) string {
	switch c {
	case Network, Timeout, HTTP5xx:
		return "try again; the provider, or the way to it, is in trouble"
	case TLS, Redirect, HTTP4xx:
		return "check --provider-url"
	case HTTP429:
		return "wait a minute: something else uses up the account's calls"
	case Malformed, Incomplete, TooLarge:
		return "is that the provider's API? check --provider-url and --instance"
	}
	return ""
}

func fail(class Class, format string, args ...any) *Failure {
	return &Failure{Class: class, Err: fmt.Errorf(format, args...)}
}

// notFound tells whether the provider has no such thing.
func (f *Failure) notFound() bool {
	return f != nil && (f.code == http.StatusNotFound || f.code == http.StatusGone)
}

// at says which call f happened in.
func (f *Failure) at(call string) *Failure {
	f.Call = call
	return f
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

// scrubbed is an error whose text a secret has been cut out of. It ends the chain
// on purpose: what lies below still holds the secret.
type scrubbed string

func (s scrubbed) Error() string { return string(s) }

// scrub makes sure that no credential leaves with err. Its hint stays.
func scrub(err error, secrets []string) error {
	for _, secret := range secrets {
		if err != nil && strings.Contains(err.Error(), secret) {
			err = hint.Wrap(scrubbed(strings.ReplaceAll(err.Error(), secret, redacted)), hint.Of(err))
		}
	}
	return err
}

const redacted = "[redacted]"
