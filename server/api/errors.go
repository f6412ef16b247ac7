package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/budget"
	"spotinference/server/meter"
)

// apiError is an error as a client gets it, before it has a dialect. message
// holds no path, no SQL and nothing of a provider's.
type apiError struct {
	status     int
	typ        string // OpenAI's type
	code       string // "" is null
	param      string // "" is null
	message    string
	retryAfter time.Duration // 0: not said
	// hopeless tells an SDK not to try again although the status invites it.
	hopeless bool
}

var (
	errKey        = &apiError{status: 401, typ: "invalid_request_error", code: "invalid_api_key", message: "Incorrect API key provided. Send it as Authorization: Bearer, or as x-api-key.", hopeless: true}
	errKeyRevoked = &apiError{status: 401, typ: "invalid_request_error", code: "invalid_api_key", message: "This API key has been revoked. Ask the operator of this gateway for another one.", hopeless: true}
	errKeyExpired = &apiError{status: 401, typ: "invalid_request_error", code: "invalid_api_key", message: "This API key has expired. Ask the operator of this gateway for another one.", hopeless: true}
	errPath       = &apiError{status: 404, typ: "invalid_request_error", message: "Unknown path. This gateway serves /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages, /v1/messages/count_tokens, /v1/embeddings, /v1/rerank, /v1/audio/transcriptions, /v1/audio/translations, /v1/audio/speech and /v1/models.", hopeless: true}
	errNotReady   = &apiError{status: 503, typ: "server_error", code: "engine_not_ready", message: "The engine is not ready yet. Try again in a moment.", retryAfter: 5 * time.Second}
	errEngine     = &apiError{status: 502, typ: "server_error", code: "engine_failed", message: "The engine failed before its answer was complete.", retryAfter: 5 * time.Second}
	errLedger     = &apiError{status: 500, typ: "server_error", code: "ledger_unwritable", message: "The answer could not be recorded, so it is not sent.", hopeless: true}
	errShutdown   = &apiError{status: 503, typ: "server_error", code: "shutting_down", message: "The gateway is shutting down.", retryAfter: 10 * time.Second}
	errVersion    = &apiError{status: 505, typ: "invalid_request_error", message: "A stream, and an answer whose length is not known, need HTTP/1.1.", hopeless: true}
	errInternal   = &apiError{status: 500, typ: "server_error", message: "Internal error.", hopeless: true}
	errOrigin     = &apiError{status: 403, typ: "invalid_request_error", code: "origin_not_allowed", message: "Web pages of this origin may not use this gateway. Its operator can allow them with --cors-origin.", hopeless: true}
	errBusy       = &apiError{status: 503, typ: "server_error", code: "too_many_connections", message: "Too many connections are open.", retryAfter: time.Second}

	// Refused before or while the request is read.
	errProtocol = &apiError{status: 505, typ: "invalid_request_error", message: "Only HTTP/1.1 and HTTP/1.0 are spoken here.", hopeless: true}
	errTarget   = errHead("its target is not a path")
	errExpect   = &apiError{status: 417, typ: "invalid_request_error", message: "Only 100-continue can be expected."}
	errSlow     = &apiError{status: 408, typ: "invalid_request_error", message: "The request was not sent in time."}
)

func errMethod(want string) *apiError {
	return &apiError{status: 405, typ: "invalid_request_error", message: "Wrong method for this path: use " + want + "."}
}

func errBody(message string) *apiError {
	return &apiError{status: 400, typ: "invalid_request_error", message: message}
}

// errHead is for what is not HTTP as it must be.
func errHead(what string) *apiError {
	return errBody("The request could not be read as HTTP: " + what + ".")
}

func errHeadLarge(message string) *apiError {
	return &apiError{status: 431, typ: "invalid_request_error", message: message}
}

func errTooLarge(limit int) *apiError {
	return &apiError{status: 413, typ: "invalid_request_error", message: "The request body is over " + strconv.Itoa(limit>>20) + " MiB."}
}

var errModelUnnamed = &apiError{status: 400, typ: "invalid_request_error", param: "model", message: "This API key may use some models only: name one of them as model. GET /v1/models lists them."}

// errModel is for a model that a key may not use: to it there is none.
func errModel(model string) *apiError {
	return &apiError{status: 404, typ: "invalid_request_error", code: "model_not_found", param: "model", hopeless: true,
		message: "The model " + strconv.Quote(model) + " does not exist, or this API key may not use it. GET /v1/models lists those that it may."}
}

// errRate is for a key that has had its minute's worth.
func errRate(of string, limit int64, wait time.Duration) *apiError {
	return &apiError{status: 429, typ: of, code: "rate_limit_exceeded", retryAfter: wait,
		message: "Rate limit reached for this API key: " + strconv.FormatInt(limit, 10) + " " + of + " a minute."}
}

// What a key's own budget refuses with.
var (
	errKeySpendStale   = &apiError{status: 503, typ: "server_error", code: "billing_unobservable", message: "What this API key has used of its budget is being computed.", retryAfter: time.Second}
	errKeySpendUnknown = &apiError{status: 503, typ: "server_error", code: "billing_unobservable", message: "What this API key has used of its budget cannot be told from the provider's bill, so it is not served.", retryAfter: time.Minute, hopeless: true}
)

func errKeyBudget(wait time.Duration) *apiError {
	return &apiError{status: 429, typ: "insufficient_quota", code: "insufficient_quota", retryAfter: wait, hopeless: true,
		message: "Today's budget of this API key is spent. It is served again at the next midnight of the budget's time zone."}
}

// fromGate says in a client's words why the gate is closed.
func fromGate(err error) *apiError {
	e := &apiError{status: 503, typ: "server_error", code: "billing_unobservable", hopeless: true, retryAfter: time.Minute,
		message: "The provider's bill cannot be seen, so nothing is served that could spend unseen."}
	var r *budget.Refusal
	known := errors.As(err, &r)
	if known {
		e.retryAfter = r.RetryAfter
	}
	if errors.Is(err, budget.ErrExhausted) {
		e.status, e.typ, e.code = 429, "insufficient_quota", "insufficient_quota"
		e.message = "The budget for this machine is spent. Serving starts again when its next period begins."
		if known && r.Per != "" {
			e.message = fmt.Sprintf("This %[1]s's budget for this machine is spent. Serving starts again when the next %[1]s begins.", r.Per)
		}
	}
	e.message += " The machine itself still costs money until it is stopped."
	if known {
		e.message += " (" + r.Reason + ")"
	}
	return e
}

// fromEngine turns an engine's error into ours.
func fromEngine(status int, f meter.Fault) *apiError {
	e := &apiError{status: status, typ: f.Type, code: f.Code, param: f.Param, message: f.Message}
	switch {
	case status == 401 || status == 403:
		// The engine refused our own key: not the client's doing.
		*e = *errEngine
	case status == 503 || status == 429:
		e.retryAfter = 5 * time.Second
	case status == 500 || status == 501:
		// It lives and has decided: llama-server answers 500 to a message
		// without a role. The same request would cost the same, three times.
		e.hopeless = true
	case status < 400:
		e.status = 502
	}
	return e
}

// anyDialect is where the path is not known, since the request could not be
// read: its error can be read by the SDKs of all dialects.
const anyDialect = meter.Dialect(255)

// body writes e in the route's dialect.
func (e *apiError) body(d meter.Dialect, id string) []byte {
	type null = *string
	orNull := func(s string) null {
		if s == "" {
			return nil
		}
		return &s
	}
	type openAI struct {
		Message string `json:"message"`
		Type    string `json:"type"`
		Param   null   `json:"param"`
		Code    null   `json:"code"`
	}
	type anthropic struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	type enveloped struct {
		Type      string `json:"type"`
		Error     any    `json:"error"`
		RequestID string `json:"request_id"`
	}
	ours := openAI{e.message, e.typ, orNull(e.param), orNull(e.code)}
	var v any
	switch d {
	case meter.Messages:
		v = enveloped{"error", anthropic{e.anthropicType(), e.message}, id}
	case anyDialect:
		v = enveloped{"error", ours, id}
	default:
		v = struct {
			Error openAI `json:"error"`
		}{ours}
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: an error that is not JSON: " + err.Error())
	}
	return b
}

func (e *apiError) anthropicType() string {
	switch e.status {
	case 401:
		return "authentication_error"
	case 403:
		return "permission_error"
	case 404:
		return "not_found_error"
	case 413:
		return "request_too_large"
	case 429:
		return "rate_limit_error"
	case 503:
		return "overloaded_error"
	}
	if e.status >= 400 && e.status < 500 {
		return "invalid_request_error"
	}
	return "api_error"
}

// event writes e as the end of a stream whose status has left already: an
// error event in the dialect, and [DONE] where naive clients wait for one.
func (e *apiError) event(d meter.Dialect, id string) []byte {
	switch d {
	case meter.Messages:
		return append(append([]byte("event: error\ndata: "), e.body(d, id)...), "\n\n"...)
	case meter.Responses:
		b, err := json.Marshal(struct {
			Type     string  `json:"type"`
			Code     string  `json:"code"`
			Message  string  `json:"message"`
			Param    *string `json:"param"`
			Sequence int     `json:"sequence_number"`
		}{"error", cmp.Or(e.code, e.typ), e.message, nil, 0})
		if err != nil {
			panic("BUG: an error that is not JSON: " + err.Error())
		}
		return append(append([]byte("event: error\ndata: "), b...), "\n\n"...)
	}
	return append(append([]byte("data: "), e.body(d, id)...), "\n\ndata: [DONE]\n\n"...)
}

// write makes e the response. sign adds what every answer has.
func (e *apiError) write(ctx *fasthttp.RequestCtx, d meter.Dialect, id string) {
	r := &ctx.Response
	r.Reset()
	r.SetStatusCode(e.status)
	r.Header.SetContentType("application/json")
	if e.retryAfter > 0 {
		r.Header.Set(fasthttp.HeaderRetryAfter, strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	if e.hopeless {
		r.Header.Set("X-Should-Retry", "false")
	}
	r.SetBodyRaw(e.body(d, id))
}

// gateWord is the gate's state in one word.
func gateWord(err error) string {
	if err == nil {
		return "open"
	}
	var r *budget.Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return "closed"
}
