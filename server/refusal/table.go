package refusal

import (
	"slices"
	"time"
)

// Kind names a row of the table. A kind without a constructor of its own has no
// parameters: New makes it.
type Kind int

// In the order in which a request meets them.
const (
	// The connection.
	TooManyConnections Kind = iota
	TLSRequired

	// HTTP.
	malformedHTTP
	HTTPVersion
	tooManyHeaders
	headersTooLarge
	ExpectationFailed
	bodyTooLarge
	BodyMemoryFull
	RequestTimeout

	// The path, the page that asks, the key.
	unknownPath
	OriginNotAllowed
	WebSocket
	wrongMethod
	InvalidKey
	RevokedKey
	ExpiredKey

	// The request.
	BodyNotJSON
	invalidBody
	NeedsHTTP11
	ModelRequired
	modelNotFound

	// What the key may have.
	requestRate
	tokenRate
	KeySpendStale
	KeySpendUnknown
	KeyBudgetSpent

	// The gate and the engine.
	ShuttingDown
	gateNotEvaluated
	billUnobservable
	billNeedsOperator
	ledgerUnavailable
	budgetSpent
	periodBudgetSpent
	engineNotReady
	QueueFull
	EngineWaking
	WakeTimeout

	// The answer.
	EngineFailed
	EngineStalled
	engineRateLimit
	engineBusy
	engineDecided
	engineNoAnswer
	engineError
	LedgerUnwritable
	Internal
	ClientClosed

	kinds // how many there are
)

// Row is what all refusals of one kind have in common.
type Row struct {
	Kind Kind
	Name string
	When string // what it is told for

	Status int    // 0: the engine's own
	Type   string // OpenAI's; "" : the engine's own
	Code   string // "" is null
	Param  string // "" is null

	// Message is a template: {limit}, say, stands for a value.
	Message string

	RetryAfter time.Duration // 0: no Retry-After, unless Retry says what it depends on
	Retry      string        // what Retry-After says, where that is not fixed

	// Hopeless tells an SDK by x-should-retry: false not to try again within the call,
	// although the status may invite it: it would wait for minutes, and its caller with it.
	Hopeless bool

	// Quota is told where a budget is spent: see Refusal.WithQuotaStatus.
	Quota bool
}

// DefaultQuotaStatus is the status of a refusal whose Row has Quota. A 429 with the same
// code is tried again for minutes by half of the agents that people use, whatever else it
// says; a 402 by next to none. See docs/clients.md.
const DefaultQuotaStatus = 402

// MaxRetryAfter is the longest wait that a client is ever asked for: some obey any length,
// and a gate may open before it was due.
const MaxRetryAfter = time.Minute

// All is the table: every refusal that a client may be told.
func All() []Row {
	all := slices.Clone(table[:])
	for i := range all {
		all[i].Kind = Kind(i)
	}
	return all
}

// String is the row's name.
func (k Kind) String() string { return table[k].Name }

const (
	invalidRequest = "invalid_request_error"
	serverError    = "server_error"
	noQuota        = "insufficient_quota"
	unobservable   = "billing_unobservable"
	noLedger       = "ledger_unavailable"
	stillCosts     = " The machine itself still costs money until it is stopped. ({reason})"
)

var table = [kinds]Row{
	TooManyConnections: {
		Name: "too_many_connections", When: "more connections are open than the gateway serves at once",
		Status: 503, Type: serverError, Code: "too_many_connections", RetryAfter: time.Second,
		Message: "Too many connections are open.",
	},
	TLSRequired: {
		Name: "tls_required", When: "plain HTTP is spoken at a port that speaks TLS",
		Status: 400, Type: invalidRequest, Code: "tls_required", Hopeless: true,
		Message: "This port speaks TLS: use https://.",
	},

	malformedHTTP: {
		Name: "malformed_http", When: "the request is not HTTP as RFC 9112 has it",
		Status: 400, Type: invalidRequest,
		Message: "The request could not be read as HTTP: {why}.",
	},
	HTTPVersion: {
		Name: "http_version", When: "the request is of a version other than HTTP/1.1 and HTTP/1.0",
		Status: 505, Type: invalidRequest, Hopeless: true,
		Message: "Only HTTP/1.1 and HTTP/1.0 are spoken here.",
	},
	tooManyHeaders: {
		Name: "too_many_headers", When: "the request has too many header fields",
		Status: 431, Type: invalidRequest,
		Message: "The request has more than {limit} header fields.",
	},
	headersTooLarge: {
		Name: "headers_too_large", When: "the request line and the headers are too long",
		Status: 431, Type: invalidRequest,
		Message: "The request's headers are over {limit} KiB.",
	},
	ExpectationFailed: {
		Name: "expectation_failed", When: "the request's Expect is not 100-continue",
		Status: 417, Type: invalidRequest,
		Message: "Only 100-continue can be expected.",
	},
	bodyTooLarge: {
		Name: "body_too_large", When: "the request's body is too long",
		Status: 413, Type: invalidRequest,
		Message: "The request body is over {limit} MiB.",
	},
	BodyMemoryFull: {
		Name: "body_memory_full", When: "the request bodies of others fill the memory that there is for all of them: see --max-body-memory",
		Status: 503, Type: serverError, Code: "body_memory_full", RetryAfter: 5 * time.Second,
		Message: "The gateway holds so many request bodies now that it has no room for this one. Try again in a moment.",
	},
	RequestTimeout: {
		Name: "request_timeout", When: "the client takes too long to send its request",
		Status: 408, Type: invalidRequest,
		Message: "The request was not sent in time.",
	},

	unknownPath: {
		Name: "unknown_path", When: "the path is not one that is served",
		Status: 404, Type: invalidRequest, Hopeless: true,
		Message: "Unknown path. This gateway serves {paths}.",
	},
	OriginNotAllowed: {
		Name: "origin_not_allowed", When: "a web page of an origin that is not allowed sends the request",
		Status: 403, Type: invalidRequest, Code: "origin_not_allowed", Hopeless: true,
		Message: "Web pages of this origin may not use this gateway. Its operator can allow them with --cors-origin.",
	},
	WebSocket: {
		Name: "web_socket", When: "a WebSocket is asked for: clients of the Responses API try one first",
		Status: 426, Type: invalidRequest, Hopeless: true,
		Message: "WebSockets are not served: send the request by POST, which can stream.",
	},
	wrongMethod: {
		Name: "wrong_method", When: "the path is served by another method, which Allow names",
		Status: 405, Type: invalidRequest,
		Message: "Wrong method for this path: use {method}.",
	},
	InvalidKey: {
		Name: "invalid_key", When: "the request has no API key, or one that is not known",
		Status: 401, Type: invalidRequest, Code: "invalid_api_key", Hopeless: true,
		Message: "Incorrect API key provided. Send it as Authorization: Bearer, or as x-api-key.",
	},
	RevokedKey: {
		Name: "revoked_key", When: "the request's API key has been revoked",
		Status: 401, Type: invalidRequest, Code: "invalid_api_key", Hopeless: true,
		Message: "This API key has been revoked. Ask the operator of this gateway for another one.",
	},
	ExpiredKey: {
		Name: "expired_key", When: "the request's API key has expired",
		Status: 401, Type: invalidRequest, Code: "invalid_api_key", Hopeless: true,
		Message: "This API key has expired. Ask the operator of this gateway for another one.",
	},

	BodyNotJSON: {
		Name: "body_not_json", When: "the body of a request that makes no tokens is not JSON",
		Status: 400, Type: invalidRequest,
		Message: "The request body is not valid JSON.",
	},
	invalidBody: {
		Name: "invalid_body", When: "the request's body is not what the path takes",
		Status: 400, Type: invalidRequest,
		Message: "{why}",
	},
	NeedsHTTP11: {
		Name: "needs_http_11", When: "an HTTP/1.0 client asks for a stream, or for an answer whose length is not known: it could not tell an answer that was cut",
		Status: 505, Type: invalidRequest, Hopeless: true,
		Message: "A stream, and an answer whose length is not known, need HTTP/1.1.",
	},
	ModelRequired: {
		Name: "model_required", When: "the API key may use some models only, and the request names none",
		Status: 400, Type: invalidRequest, Param: "model",
		Message: "This API key may use some models only: name one of them as model. GET /v1/models lists them.",
	},
	modelNotFound: {
		Name: "model_not_found", When: "the API key may not use the model that the request names",
		Status: 404, Type: invalidRequest, Code: "model_not_found", Param: "model", Hopeless: true,
		Message: "The model {model} does not exist, or this API key may not use it. GET /v1/models lists those that it may.",
	},

	requestRate: {
		Name: "request_rate", When: "the API key has had its requests of the minute",
		Status: 429, Type: "requests", Code: "rate_limit_exceeded", Retry: "when the next request is let in",
		Message: "Rate limit reached for this API key: {limit} requests a minute.",
	},
	tokenRate: {
		Name: "token_rate", When: "the API key has had its tokens of the minute",
		Status: 429, Type: "tokens", Code: "rate_limit_exceeded", Retry: "when the next request is let in",
		Message: "Rate limit reached for this API key: {limit} tokens a minute.",
	},
	KeySpendStale: {
		Name: "key_spend_stale", When: "the API key has a budget, and what it has used of it is not computed yet",
		Status: 503, Type: unobservable, Code: unobservable, RetryAfter: time.Second,
		Message: "What this API key has used of its budget is being computed.",
	},
	KeySpendUnknown: {
		Name: "key_spend_unknown", When: "the API key has a budget, and what it has used of it cannot be told from the bill",
		Status: 503, Type: unobservable, Code: unobservable, RetryAfter: time.Minute, Hopeless: true,
		Message: "What this API key has used of its budget cannot be told from the provider's bill, so it is not served.",
	},
	KeyBudgetSpent: {
		Name: "key_budget_spent", When: "the API key has used its own budget of the day",
		Status: DefaultQuotaStatus, Type: noQuota, Code: noQuota, Hopeless: true, Quota: true,
		Message: "Today's budget of this API key is spent. It is served again at the next midnight of the budget's time zone.",
	},

	ShuttingDown: {
		Name: "shutting_down", When: "the gateway was asked to stop",
		Status: 503, Type: serverError, Code: "shutting_down", RetryAfter: 10 * time.Second,
		Message: "The gateway is shutting down.",
	},
	gateNotEvaluated: {
		Name: "gate_not_evaluated", When: "the gate is closed: what was spent has not been worked out since the gateway started",
		Status: 503, Type: unobservable, Code: unobservable, RetryAfter: time.Second,
		Message: "The gateway is working out what may still be spent. Try again in a moment. ({reason})",
	},
	billUnobservable: {
		Name: "bill_unobservable", When: "the gate is closed: the provider's bill cannot be seen now",
		Status: 503, Type: unobservable, Code: unobservable, RetryAfter: time.Minute, Hopeless: true,
		Message: "{why}, so nothing is served that could spend unseen." + stillCosts,
	},
	billNeedsOperator: {
		Name: "bill_needs_operator", When: "the gate is closed: the provider's bill cannot be seen, and waiting does not mend that: the provider refuses its key, say",
		Status: 402, Type: unobservable, Code: unobservable, Hopeless: true,
		Message: "{why}, so nothing is served that could spend unseen, until the operator of this gateway mends that." + stillCosts,
	},
	ledgerUnavailable: {
		Name: "ledger_unavailable", When: "the gate is closed: the ledger cannot be read or written",
		Status: 503, Type: noLedger, Code: noLedger, RetryAfter: time.Minute, Hopeless: true,
		Message: "{why}, so nothing is served that could not be counted." + stillCosts,
	},
	budgetSpent: {
		Name: "budget_spent", When: "the gate is closed: the budget is spent",
		Status: DefaultQuotaStatus, Type: noQuota, Code: noQuota, Hopeless: true, Quota: true,
		Message: "The budget for this machine is spent. Serving starts again when its next period begins." + stillCosts,
	},
	periodBudgetSpent: {
		Name: "period_budget_spent", When: "the gate is closed: the budget of this period is spent",
		Status: DefaultQuotaStatus, Type: noQuota, Code: noQuota, Hopeless: true, Quota: true,
		Message: "This {period}'s budget for this machine is spent. Serving starts again when the next {period} begins." + stillCosts,
	},
	engineNotReady: {
		Name: "engine_not_ready", When: "the engine starts, has crashed or is stopped",
		Status: 503, Type: serverError, Code: "engine_not_ready", RetryAfter: 10 * time.Second, Retry: "when a crashed engine is started again",
		Message: "The engine is not ready yet. Try again in a moment.",
	},
	QueueFull: {
		Name: "wake_queue_full", When: "as many requests wait for the engine as may",
		Status: 503, Type: serverError, Code: "wake_queue_full", RetryAfter: 10 * time.Second,
		Message: "Too many requests wait for the engine. Try again in a moment.",
	},
	EngineWaking: {
		Name: "engine_waking", When: "the engine wakes, and a request that does not stream has waited for it for --wake-hold",
		Status: 503, Type: serverError, Code: "engine_waking", RetryAfter: 30 * time.Second,
		Message: "The engine is still waking. Try again in half a minute, or ask for a stream, which is kept open meanwhile.",
	},
	WakeTimeout: {
		Name: "wake_timeout", When: "the request waited for the engine for as long as one may",
		Status: 504, Type: serverError, Code: "wake_timeout", RetryAfter: time.Minute,
		Message: "The engine did not wake in time.",
	},

	EngineFailed: {
		Name: "engine_failed", When: "the engine ended its answer early, or refuses the gateway's own key",
		Status: 502, Type: serverError, Code: "engine_failed", RetryAfter: 5 * time.Second,
		Message: "The engine failed before its answer was complete.",
	},
	EngineStalled: {
		Name: "engine_stalled", When: "the engine has made no progress for --stall-timeout: each further try would wait for as long",
		Status: 504, Type: serverError, Code: "engine_stalled", Hopeless: true,
		Message: "The engine has stopped making progress, and its answer was cut.",
	},
	engineRateLimit: {
		Name: "engine_rate_limit", When: "the engine itself answers with 429",
		Status: 429, Type: "rate_limit_error", Code: "rate_limit_exceeded", RetryAfter: 5 * time.Second,
		Message: "{why}",
	},
	engineBusy: {
		Name: "engine_busy", When: "the engine itself answers with 503",
		RetryAfter: 5 * time.Second, Message: "{why}",
	},
	engineDecided: {
		// It lives and has decided: llama-server answers 500 to a message without a
		// role. The same request would cost the same, three times.
		Name: "engine_decided", When: "the engine itself answers with 500 or 501",
		Hopeless: true, Message: "{why}",
	},
	engineNoAnswer: {
		Name: "engine_no_answer", When: "the engine answers with a status that is neither a success nor an error",
		Status: 502, Message: "{why}",
	},
	engineError: {
		Name: "engine_error", When: "the engine answers with another error",
		Message: "{why}",
	},
	LedgerUnwritable: {
		Name: "ledger_unwritable", When: "the request's row could not be written to the ledger",
		Status: 500, Type: serverError, Code: "ledger_unwritable", Hopeless: true,
		Message: "The answer could not be recorded, so it is not sent.",
	},
	Internal: {
		Name: "internal_error", When: "the gateway has a bug; its log says more",
		Status: 500, Type: serverError, Hopeless: true,
		Message: "Internal error.",
	},
	ClientClosed: {
		Name: "client_closed", When: "the client left before the end: nobody is told, and the request's row has the status",
		Status: 499, Type: "client_closed",
		Message: "the client left",
	},
}
