package refusal

import (
	"cmp"
	"encoding/json"
	"time"

	"spotinference/server/meter"
)

// AnyDialect is for a request whose path is not known, since it could not be read: the
// SDKs of all dialects can read such a body.
const AnyDialect = meter.Dialect(255)

// Body is the refusal as a JSON body in the dialect d; id is the request's.
func (r *Refusal) Body(d meter.Dialect, id string) []byte {
	type openAI struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	type anthropic struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	type envelope struct {
		Type      string `json:"type"`
		Error     any    `json:"error"`
		RequestID string `json:"request_id"`
	}
	e := openAI{r.Message, r.Type, orNull(r.Param), orNull(r.Code)}
	switch d {
	case meter.Messages:
		return marshal(envelope{"error", anthropic{r.anthropicType(), r.Message}, id})
	case AnyDialect:
		return marshal(envelope{"error", e, id})
	}
	return marshal(struct {
		Error openAI `json:"error"`
	}{e})
}

// Event is the refusal as the end of the stream that m counts, whose status has left
// already: the event that the dialect's clients read, and [DONE] where naive ones wait for
// it. id is the request's.
func (r *Refusal) Event(m *meter.Meter, id string, now time.Time) []byte {
	switch d := m.Dialect(); d {
	case meter.Messages:
		return event("event: error\ndata: ", r.Body(d, id), "\n\n")
	case meter.Responses:
		return m.ResponseFailed(id, now, r.responseCode(), r.Message)
	default:
		return event("data: ", r.Body(d, id), "\n\ndata: [DONE]\n\n")
	}
}

// responseCode is the code of a response that failed. Agents try again unless they know the
// code, and a status does not tell them any more: codex 0.169 ends at once for
// insufficient_quota, context_length_exceeded and invalid_prompt alone, and prints our words
// for the last, opencode and pi likewise.
func (r *Refusal) responseCode() string {
	if r.Kind == EngineStalled || r.Code == "" && r.Status >= 400 && r.Status < 500 {
		return "invalid_prompt"
	}
	return cmp.Or(r.Code, r.Type)
}

// anthropicType is the type that Anthropic's API gives the status.
func (r *Refusal) anthropicType() string {
	switch r.Status {
	case 401:
		return "authentication_error"
	case 402:
		return "billing_error"
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
	if r.Status >= 400 && r.Status < 500 {
		return "invalid_request_error"
	}
	return "api_error"
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: a refusal that is not JSON: " + err.Error())
	}
	return b
}

func event(before string, payload []byte, after string) []byte {
	return append(append([]byte(before), payload...), after...)
}
