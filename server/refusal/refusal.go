// Package refusal is what the gateway tells a client instead of an answer: one table of
// all refusals, and how a refusal is written in each dialect.
//
// It knows why the gate may be closed and what an engine's errors look like. It refuses
// to know connections and requests: the caller picks the refusal and gives its values.
//
//	r := refusal.BodyTooLarge(64 << 20)
//	body := r.Body(meter.Chat, requestID) // to be sent with r.Status
package refusal

import (
	"cmp"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"spotinference/budget"
	"spotinference/server/meter"
)

// Refusal is one refusal, before it has a dialect. Message holds no path of a file, no
// SQL and nothing of a provider's.
type Refusal struct {
	Kind       Kind
	Status     int
	Type       string // OpenAI's
	Code       string // "" is null
	Param      string // "" is null
	Message    string
	RetryAfter time.Duration // 0: not said
	Hopeless   bool          // see Row
	Quota      bool          // see Row
}

// New makes a refusal that has no parameters.
func New(k Kind) *Refusal {
	row := &table[k]
	return &Refusal{
		Kind: k, Status: row.Status, Type: row.Type, Code: row.Code, Param: row.Param, Message: row.Message,
		RetryAfter: row.RetryAfter, Hopeless: row.Hopeless, Quota: row.Quota,
	}
}

// with fills in the message: values are pairs of a placeholder and its value.
func (k Kind) with(values ...string) *Refusal {
	r := New(k)
	r.Message = strings.NewReplacer(values...).Replace(r.Message)
	return r
}

// after sets when the client may ask again.
func (r *Refusal) after(wait time.Duration) *Refusal {
	r.RetryAfter = wait
	return r
}

// MalformedHTTP is for what is not HTTP as it must be.
func MalformedHTTP(why string) *Refusal { return malformedHTTP.with("{why}", why) }

// TooManyHeaders is for a request of more than limit header fields.
func TooManyHeaders(limit int) *Refusal { return tooManyHeaders.with("{limit}", strconv.Itoa(limit)) }

// HeadersTooLarge is for a head of more than limit bytes.
func HeadersTooLarge(limit int) *Refusal {
	return headersTooLarge.with("{limit}", strconv.Itoa(limit>>10))
}

// BodyTooLarge is for a body of more than limit bytes.
func BodyTooLarge(limit int) *Refusal { return bodyTooLarge.with("{limit}", strconv.Itoa(limit>>20)) }

// UnknownPath names the paths that are served.
func UnknownPath(paths string) *Refusal { return unknownPath.with("{paths}", paths) }

// WrongMethod names the method by which the path is served.
func WrongMethod(method string) *Refusal { return wrongMethod.with("{method}", method) }

// InvalidBody is for a body that is not what the path takes; why is for the client.
func InvalidBody(why string) *Refusal { return invalidBody.with("{why}", why) }

// ModelNotFound is for a model that a key may not use: to the key there is none.
func ModelNotFound(model string) *Refusal { return modelNotFound.with("{model}", strconv.Quote(model)) }

// RequestRate is for a key that has had limit requests in a minute.
func RequestRate(limit int64, wait time.Duration) *Refusal {
	return requestRate.with("{limit}", strconv.FormatInt(limit, 10)).after(wait)
}

// TokenRate is for a key that has had limit tokens in a minute.
func TokenRate(limit int64, wait time.Duration) *Refusal {
	return tokenRate.with("{limit}", strconv.FormatInt(limit, 10)).after(wait)
}

// EngineNotReady is for an engine that serves nothing now. wait is how long it is until
// a crashed one is started again, 0 where that is not known.
func EngineNotReady(wait time.Duration) *Refusal {
	r := New(engineNotReady)
	return r.after(max(r.RetryAfter, wait))
}

// Gate says why the gate is closed. err is what the gate returned.
func Gate(err error) *Refusal {
	var closed *budget.Refusal
	if !errors.As(err, &closed) {
		kind := billUnobservable
		if errors.Is(err, budget.ErrExhausted) {
			kind = budgetSpent
		}
		return kind.with(" ({reason})", "", "{why}", "The provider's bill cannot be seen")
	}
	why := cmp.Or(budget.Sentence(closed.Reason), closed.Err.Error())
	return gateKind(closed).with("{period}", string(closed.Per), "{reason}", closed.Reason, "{why}", strings.ToUpper(why[:1])+why[1:])
}

func gateKind(closed *budget.Refusal) Kind {
	switch closed.Reason {
	case budget.ReasonStart:
		return gateNotEvaluated
	case budget.ReasonUnreadable, budget.ReasonUnwritable, budget.ReasonDiskFull:
		return ledgerUnavailable
	}
	switch {
	case closed.Per != "":
		return periodBudgetSpent
	case errors.Is(closed, budget.ErrExhausted):
		return budgetSpent
	case closed.RetryAfter == 0:
		return billNeedsOperator
	}
	return billUnobservable
}

// WithQuotaStatus gives the refusal another status where it is of a spent budget.
func (r *Refusal) WithQuotaStatus(status int) *Refusal {
	if r != nil && r.Quota {
		r.Status = status
	}
	return r
}

// Engine is an error of the engine's: the status that it answered with, and what it said.
func Engine(status int, said meter.Fault) *Refusal {
	kind := engineError
	switch {
	case status == 401 || status == 403:
		return New(EngineFailed) // it refused our own key: not the client's doing
	case status == 429:
		return engineRateLimit.with("{why}", said.Message)
	case status == 503:
		kind = engineBusy
	case status == 500 || status == 501:
		kind = engineDecided
	case status < 400:
		kind = engineNoAnswer
	}
	r := kind.with("{why}", said.Message)
	r.Status = cmp.Or(r.Status, status)
	r.Type, r.Code, r.Param = said.Type, said.Code, said.Param
	return r
}

// RetryAfterSeconds is Retry-After's value, "" where nothing is said. It is never above
// MaxRetryAfter.
func (r *Refusal) RetryAfterSeconds() string {
	if r.RetryAfter <= 0 {
		return ""
	}
	return strconv.Itoa(int(math.Ceil(min(r.RetryAfter, MaxRetryAfter).Seconds())))
}
