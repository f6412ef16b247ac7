package meter

import (
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
		if m.events == 0 { // the first event of a response must be this one; a second one passes
			return m.responseCreated(id, now)
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

type responseEvent struct {
	Type     string   `json:"type"`
	Sequence int      `json:"sequence_number"`
	Response response `json:"response"`
}

func (m *Meter) responseOf(id, status string, now time.Time) response {
	return response{
		ID: "resp_" + id, Object: "response", CreatedAt: now.Unix(), Status: status, Model: m.nameOfModel(), Output: []struct{}{},
		Parallel: true, ToolChoice: "auto", Tools: []struct{}{}, Truncation: "disabled",
	}
}

func (m *Meter) responseCreated(id string, now time.Time) []byte {
	return m.event("response.created", responseEvent{"response.created", m.NextSequence(), m.responseOf(id, "in_progress", now)})
}

// ResponseFailed is the end of a response that failed, in the dialect Responses: agents
// read why, and by code whether to try again. Two ends would be reported twice.
func (m *Meter) ResponseFailed(id string, now time.Time, code, message string) []byte {
	var out []byte
	if m.events == 0 {
		out = m.responseCreated(id, now)
	}
	failed := m.responseOf(id, "failed", now)
	failed.Error = &responseError{code, message}
	return append(out, m.event("response.failed", responseEvent{"response.failed", m.NextSequence(), failed})...)
}

// NextSequence numbers an event of ours.
func (m *Meter) NextSequence() int {
	m.sequence++
	return m.sequence - 1
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
