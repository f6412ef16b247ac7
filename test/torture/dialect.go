package main

import (
	"encoding/json"
	"strings"
)

// dialect is one API that clients speak.
type dialect struct {
	name   string // the ledger's
	path   string
	prompt func(text string) map[string]any
	base   int    // prompt tokens beside the words of the text, as the simulated engine counts
	limit  string // the field that bounds an answer; "" where none is made
	end    string // what the last event of a whole stream holds
}

func messages(text string) map[string]any {
	return map[string]any{"messages": []map[string]string{{"role": "user", "content": text}}}
}

var dialects = []dialect{
	{"chat", "/v1/chat/completions", messages, 7, "max_tokens", "[DONE]"},
	{"completions", "/v1/completions", func(text string) map[string]any { return map[string]any{"prompt": text} }, 1, "max_tokens", "[DONE]"},
	{"messages", "/v1/messages", messages, 7, "max_tokens", "message_stop"},
	{"responses", "/v1/responses", func(text string) map[string]any { return map[string]any{"input": text} }, 7, "max_output_tokens", "response.completed"},
	{"embeddings", "/v1/embeddings", func(text string) map[string]any { return map[string]any{"input": text} }, 1, "", ""},
}

// event is what a client reads of one event of a stream, in any dialect.
type event struct {
	Type    string
	Error   json.RawMessage
	Delta   json.RawMessage // Anthropic's object, or the text of a response
	Choices []struct {
		Text  string
		Delta struct{ Content string }
	}
}

// tokens are the words in the event: a word is a token of the simulated engine.
func (e event) tokens() (n int) {
	for _, c := range e.Choices {
		n += len(strings.Fields(c.Text)) + len(strings.Fields(c.Delta.Content))
	}
	var text string
	var object struct{ Text string }
	if json.Unmarshal(e.Delta, &text) == nil || json.Unmarshal(e.Delta, &object) == nil {
		n += len(strings.Fields(text)) + len(strings.Fields(object.Text))
	}
	return n
}

// failed is an error in place of the rest.
func (e event) failed() bool {
	return e.Type == "error" || len(e.Error) > 0 && string(e.Error) != "null"
}

// usage is what an answer says that it cost, by any dialect's names.
type usage struct {
	PromptTokens         int `json:"prompt_tokens"`
	InputTokens          int `json:"input_tokens"`
	CacheReadInputTokens int `json:"cache_read_input_tokens"`
	CompletionTokens     int `json:"completion_tokens"`
	OutputTokens         int `json:"output_tokens"`
}

func (u usage) prompt() int     { return u.PromptTokens + u.InputTokens + u.CacheReadInputTokens }
func (u usage) completion() int { return u.CompletionTokens + u.OutputTokens }
