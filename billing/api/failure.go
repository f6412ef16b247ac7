package api

import (
	"fmt"
	"net/http"
	"time"

	"spotinference/internal/hint"
	"spotinference/internal/provider"
)

// Class is the kind of thing that went wrong with a sample, as the ledger keeps it.
type Class string

// Of one request, see package provider.
const (
	Network   = Class(provider.Network)
	Timeout   = Class(provider.Timeout)
	TLS       = Class(provider.TLS)
	Redirect  = Class(provider.Redirect)
	HTTP401   = Class(provider.HTTP401)
	HTTP403   = Class(provider.HTTP403)
	HTTP429   = Class(provider.HTTP429)
	HTTP4xx   = Class(provider.HTTP4xx)
	HTTP5xx   = Class(provider.HTTP5xx)
	TooLarge  = Class(provider.TooLarge)
	Malformed = Class(provider.Malformed)
	ClockSkew = Class(provider.ClockSkew)
	Internal  = Class(provider.Internal)
)

// Of the bill that the replies make up.
const (
	Incomplete   Class = "incomplete"   // a part that makes up the bill is missing
	Currency     Class = "currency"     // not the currency of this ledger
	Unidentified Class = "unidentified" // which of the machines is this one?
	Refused      Class = "refused"      // read, but the ledger does not take it: another currency, a clock that stepped
)

// Retriable reports whether the next try may succeed.
func (c Class) Retriable() bool {
	return c == HTTP429 || c == HTTP5xx || c == Network || c == Timeout
}

// Lasting reports whether time does not heal it: a person must do something, or the
// bill stays lost.
func (c Class) Lasting() bool {
	switch c {
	case HTTP401, HTTP403, HTTP4xx, Redirect, TLS, Currency, Unidentified:
		return true
	}
	return false
}

// hint is what can be done about a failure of this class, where nothing better is known.
func (c Class) hint() string {
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

// Failure is why there is no sample. Its text holds no credential, no query, and
// nothing of the reply's body except a reason word of the provider's own.
//
// hint.Of finds what can be done about it: its own hint, or else that of its class.
type Failure struct {
	Call       string // template of the call, without host, query or ids: "GET /core/virtual-machines/{id}"
	Class      Class
	Status     int           // HTTP status of a refusal; 0 where there was none
	RetryAfter time.Duration // no call before that, says the provider; 0 where it does not
	Absent     bool          // the box itself is not there any more; set by its adapter
	Err        error         // with a hint where it has one of its own: see WithHint
}

// Fail makes a failure whose call is not known yet: see At.
func Fail(class Class, format string, args ...any) *Failure {
	return &Failure{Class: class, Err: fmt.Errorf(format, args...)}
}

// ClockStands is why there is no sample where now is not after the newest one's.
func ClockStands(newest time.Time) *Failure {
	return Fail(ClockSkew, "this machine's clock has not moved on since the last sample at %s", newest.Format(time.RFC3339))
}

// At says in which call f happened.
func (f *Failure) At(call string) *Failure {
	f.Call = call
	return f
}

// WithHint says what can be done about f, instead of what was said before.
func (f *Failure) WithHint(text string) *Failure {
	f.Err = hint.Wrap(f.Err, text)
	return f
}

// NotFound reports whether the provider has no such thing. A nil Failure is none.
func (f *Failure) NotFound() bool {
	return f != nil && (f.Status == http.StatusNotFound || f.Status == http.StatusGone)
}

func (f *Failure) Error() string {
	if f.Call == "" {
		return f.Err.Error()
	}
	return f.Call + ": " + f.Err.Error()
}

// Unwrap is f's error with a hint.
func (f *Failure) Unwrap() error {
	if hint.Of(f.Err) != "" {
		return f.Err
	}
	return hint.Wrap(f.Err, f.Class.hint())
}
