package meter

import (
	"cmp"
	"encoding/json"
	"time"
)

// Events of our own in a client's stream: heartbeats, and the failure of a response. An
// engine writes the others.

// Events counts the events that the client was given, of the engine's and of ours.
func (m *Meter) Events() int64 { return m.events }

// Interruptible reports whether an event of ours may leave now: not in the midst of one of
// the engine's that is too long to be kept.
func (m *Meter) Interruptible() bool { return !m.stream.oversize }

// Heartbeat is an event that every client of the dialect lets pass, for those that count
// events and not bytes; nil where none is known. id is the request's. docs/clients.md has
// the clients with which it was tried.
func (m *Meter) Heartbeat(id string, now time.Time) []byte {
	type delta struct{}
	type choice struct {
		Index        int     `json:"index"`
		Text         *string `json:"text,omitempty"`
		Delta        *delta  `json:"delta,omitempty"`
		FinishReason *string `json:"finish_reason"`
	}
	type completion struct {
		ID      string   `json:"id"`
		Object  string   `json:"object"`
		Created int64    `json:"created"`
		Model   string   `json:"model"`
		Choices []choice `json:"choices"`
	}
	switch m.dialect {
	case Chat:
		// With no choices at all it would break what reads choices[0].
		return m.event("", completion{"chatcmpl-" + id, "chat.completion.chunk", now.Unix(), m.nameOfModel(), []choice{{Delta: &delta{}}}})
	case Completions:
		return m.event("", completion{"cmpl-" + id, "text_completion", now.Unix(), m.nameOfModel(), []choice{{Text: new(string)}}})
	case Messages:
		return m.event("ping", map[string]string{"type": "ping"})
	case Responses:
		if m.events == 0 {
			return m.begin(id, now)
		}
		return m.event("keepalive", struct {
			Type     string `json:"type"`
			Sequence int    `json:"sequence_number"`
		}{"keepalive", m.NextSequence()})
	}
	return nil
}

// response is the state of a response in events of ours: what OpenAI's API always has.
type response struct {
	ID                string         `json:"id"`
	Object            string         `json:"object"`
	CreatedAt         int64          `json:"created_at"`
	Status            string         `json:"status"`
	Error             *responseError `json:"error"`
	IncompleteDetails *struct{}      `json:"incomplete_details"`
	Instructions      *string        `json:"instructions"`
	MaxOutputTokens   *int64         `json:"max_output_tokens"`
	Model             string         `json:"model"`
	Output            []struct{}     `json:"output"`
	Parallel          bool           `json:"parallel_tool_calls"`
	Previous          *string        `json:"previous_response_id"`
	Store             bool           `json:"store"`
	Temperature       *float64       `json:"temperature"`
	ToolChoice        string         `json:"tool_choice"`
	Tools             []struct{}     `json:"tools"`
	TopP              *float64       `json:"top_p"`
	Truncation        string         `json:"truncation"`
	Usage             *struct{}      `json:"usage"`
	Metadata          struct{}       `json:"metadata"`
}

type responseError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type ourResponseEvent struct {
	Type     string   `json:"type"`
	Sequence int      `json:"sequence_number"`
	Response response `json:"response"`
}

// responseOf is the response of the request id, by the name that its stream has for it.
func (m *Meter) responseOf(id, status string, now time.Time) response {
	return response{
		ID: cmp.Or(m.ResponseID(), "resp_"+id), Object: "response", CreatedAt: now.Unix(), Status: status, Model: m.nameOfModel(), Output: []struct{}{},
		Parallel: true, ToolChoice: "auto", Tools: []struct{}{}, Truncation: "disabled",
	}
}

// begin begins the response before the engine does: no other event may come first. The
// engine's own events of the response have the id of ours then, since to OpenAI's client
// for Node a response whose id changes is an error; that it begins twice is none.
func (m *Meter) begin(id string, now time.Time) []byte {
	r := m.responseOf(id, "in_progress", now)
	m.completion.id, m.completion.begun = []byte(r.ID), true
	return m.event("response.created", ourResponseEvent{"response.created", m.NextSequence(), r})
}

// ResponseFailed is the end of a response that failed, in the dialect Responses: agents
// read why, and by code whether to try again. Two ends would be reported twice.
func (m *Meter) ResponseFailed(id string, now time.Time, code, message string) []byte {
	var out []byte
	if m.events == 0 {
		out = m.begin(id, now)
	}
	failed := m.responseOf(id, "failed", now)
	failed.Error = &responseError{code, message}
	return append(out, m.event("response.failed", ourResponseEvent{"response.failed", m.NextSequence(), failed})...)
}

// nameOfModel is the model as the engine names it, or else as the client does.
func (m *Meter) nameOfModel() string {
	if m.model != "" {
		return m.model
	}
	return m.ask.Model
}

// event writes an event; name is "" for one without a name.
func (m *Meter) event(name string, payload any) []byte {
	m.events++
	b, err := json.Marshal(payload)
	if err != nil {
		panic("BUG: an event that is not JSON: " + err.Error())
	}
	out := make([]byte, 0, len(name)+len(b)+20)
	if name != "" {
		out = append(append(append(out, "event: "...), name...), '\n')
	}
	out = append(append(append(out, "data: "...), b...), "\n\n"...)
	return out
}
