package main

import (
	"bytes"
	"encoding/json"
	"strings"
)

// said is what an answer said, as far as it matters here.
type said struct {
	Whole bool   `json:"whole"`           // it came to its end
	Error string `json:"error,omitempty"` // the message of the last error in it
	Usage *usage `json:"usage,omitempty"`
}

// usage is the tokens that an answer said it took, in the ledger's terms.
type usage struct {
	Prompt     int64 `json:"prompt_tokens"`
	Completion int64 `json:"completion_tokens"`
}

// reply is the union of what the dialects answer, whole or as one event.
type reply struct {
	Type    string          `json:"type"`
	Message json.RawMessage `json:"message"` // of an error event: text; of message_start: an object
	Error   *struct {
		Message string `json:"message"`
	} `json:"error"`
	Usage    *dialectUsage `json:"usage"`
	Response *struct {
		Error *struct {
			Message string `json:"message"`
		} `json:"error"`
		Usage *dialectUsage `json:"usage"`
	} `json:"response"`
	Object string `json:"object"`
}

// dialectUsage is usage in the words of all dialects.
type dialectUsage struct {
	Prompt        int64 `json:"prompt_tokens"`
	Completion    int64 `json:"completion_tokens"`
	Input         int64 `json:"input_tokens"`
	Output        int64 `json:"output_tokens"`
	CacheRead     int64 `json:"cache_read_input_tokens"`
	CacheCreation int64 `json:"cache_creation_input_tokens"`
}

// add puts what one event says into the usage of the answer: the events of Messages say
// a part each.
func (u *usage) add(d *dialectUsage) {
	u.Prompt = max(u.Prompt, d.Prompt, d.Input+d.CacheRead+d.CacheCreation)
	u.Completion = max(u.Completion, d.Completion, d.Output)
}

// read reads an answer: a JSON object, or a stream of events.
func read(path string, body []byte) said {
	var s said
	var whole reply
	if json.Unmarshal(body, &whole) == nil {
		s.take(whole)
		s.Whole = s.Error == "" && !strings.HasSuffix(path, "/models")
		return s
	}
	for line := range bytes.Lines(body) {
		data, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			continue
		}
		data = bytes.TrimSpace(data)
		var event reply
		if json.Unmarshal(data, &event) == nil {
			s.take(event)
		}
		s.Whole = s.Whole || string(data) == "[DONE]" || event.Type == "response.completed" || event.Type == "message_stop"
	}
	s.Whole = s.Whole && s.Error == ""
	return s
}

// take notes what one object says.
func (s *said) take(r reply) {
	switch {
	case r.Error != nil:
		s.Error = r.Error.Message
	case r.Type == "error":
		_ = json.Unmarshal(r.Message, &s.Error)
	case r.Response != nil && r.Response.Error != nil:
		s.Error = r.Response.Error.Message
	}
	told := []*dialectUsage{r.Usage}
	if r.Response != nil {
		told = append(told, r.Response.Usage)
	}
	if r.Type == "message_start" {
		var message struct {
			Usage *dialectUsage `json:"usage"`
		}
		if json.Unmarshal(r.Message, &message) == nil {
			told = append(told, message.Usage)
		}
	}
	for _, u := range told {
		if u == nil {
			continue
		}
		if s.Usage == nil {
			s.Usage = &usage{}
		}
		s.Usage.add(u)
	}
}
