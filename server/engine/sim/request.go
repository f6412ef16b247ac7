package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// request is the union of what the dialects ask. Unknown fields are ignored, as both
// engines do.
type request struct {
	Model        string          `json:"model"`
	Messages     json.RawMessage `json:"messages"`
	System       json.RawMessage `json:"system"`
	Prompt       json.RawMessage `json:"prompt"`
	Input        json.RawMessage `json:"input"`
	Instructions string          `json:"instructions"`
	Query        string          `json:"query"`
	Documents    []string        `json:"documents"`
	Content      string          `json:"content"`

	N                   int  `json:"n"`
	MaxTokens           *int `json:"max_tokens"`
	MaxCompletionTokens *int `json:"max_completion_tokens"`
	MaxOutputTokens     *int `json:"max_output_tokens"`
	Predict             *int `json:"n_predict"`

	Stream        bool `json:"stream"`
	StreamOptions *struct {
		IncludeUsage         bool `json:"include_usage"`
		ContinuousUsageStats bool `json:"continuous_usage_stats"`
	} `json:"stream_options"`
	TimingsPerToken bool            `json:"timings_per_token"`
	ReturnProgress  bool            `json:"return_progress"`
	Logprobs        json.RawMessage `json:"logprobs"`
	TopLogprobs     int             `json:"top_logprobs"`
	Tools           json.RawMessage `json:"tools"`
	ToolChoice      json.RawMessage `json:"tool_choice"`

	Method string `json:"method"` // of /collective_rpc

	Sim json.RawMessage `json:"sim"` // faults of this one request
}

func (r *request) includeUsage() bool {
	return r.StreamOptions != nil && r.StreamOptions.IncludeUsage
}

func (r *request) wantsLogprobs() bool { return string(r.Logprobs) == "true" }

// limit is the most tokens that the client wants, or -1.
func (r *request) limit() int {
	for _, n := range []*int{r.Predict, r.MaxCompletionTokens, r.MaxTokens, r.MaxOutputTokens} {
		if n != nil && *n >= 0 {
			return *n
		}
	}
	return -1
}

// errAbsent is a required field that is not there.
var errAbsent = errors.New("is required")

// prompt is one text to go on from, and its length in tokens.
type prompt struct {
	text   string
	tokens int
}

// templateTokens are what a chat template adds to each message, and once.
const (
	templateTokens = 4
	templateOnce   = 3
)

// engineError is an error in the engine's own words, capitals and full stops included.
type engineError string

func (e engineError) Error() string { return string(e) }

// chatPrompt renders messages, and a system text if there is one, as one prompt.
func chatPrompt(system, messages json.RawMessage) (prompt, error) {
	if len(messages) == 0 {
		return prompt{}, errAbsent
	}
	var list []json.RawMessage
	if err := json.Unmarshal(messages, &list); err != nil {
		return prompt{}, engineError("Expected 'messages' to be an array")
	}
	p := prompt{tokens: templateOnce}
	add := func(content json.RawMessage) {
		text := contentText(content)
		p.text += text + "\n"
		p.tokens += countWords(text) + templateTokens
	}
	if len(system) > 0 {
		add(system)
	}
	for _, raw := range list {
		var m struct {
			Role    string          `json:"role"`
			Content json.RawMessage `json:"content"`
		}
		if err := json.Unmarshal(raw, &m); err != nil || m.Role == "" {
			return prompt{}, engineError("Failed to parse messages: Missing 'role' in message: " + string(raw))
		}
		add(m.Content)
	}
	return p, nil
}

// contentText reads a string, or the texts of an array of parts.
func contentText(content json.RawMessage) string {
	var text string
	if json.Unmarshal(content, &text) == nil {
		return text
	}
	var parts []struct {
		Text string `json:"text"`
	}
	json.Unmarshal(content, &parts)
	texts := make([]string, 0, len(parts))
	for _, p := range parts {
		texts = append(texts, p.Text)
	}
	return strings.Join(texts, " ")
}

// textPrompts reads a string, a list of tokens, or a list of either: completions and
// embeddings take all of them. One token more begins each.
func textPrompts(raw json.RawMessage) ([]prompt, error) {
	if len(raw) == 0 {
		return nil, errAbsent
	}
	if p, ok := onePrompt(raw); ok {
		return []prompt{p}, nil
	}
	var many []json.RawMessage
	if err := json.Unmarshal(raw, &many); err != nil || len(many) == 0 {
		return nil, engineError("\"prompt\" must be a string, an list of tokens, a list of mixed strings & tokens, or a list of prompts")
	}
	var prompts []prompt
	for _, each := range many {
		p, ok := onePrompt(each)
		if !ok {
			return nil, engineError("\"prompt\" elements must be a string, a list of tokens, a JSON object containing a prompt string, or a list of mixed strings & tokens.")
		}
		prompts = append(prompts, p)
	}
	return prompts, nil
}

func onePrompt(raw json.RawMessage) (prompt, bool) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return prompt{text, countWords(text) + 1}, true
	}
	var tokens []int
	if json.Unmarshal(raw, &tokens) == nil && len(tokens) > 0 {
		return prompt{fmt.Sprint(tokens), len(tokens)}, true
	}
	return prompt{}, false
}

// responsesPrompt reads the Responses dialect: a string, or a list of messages.
func responsesPrompt(r *request) (prompt, error) {
	if len(r.Input) == 0 {
		return prompt{}, errAbsent
	}
	var system json.RawMessage
	if r.Instructions != "" {
		system, _ = json.Marshal(r.Instructions)
	}
	var text string
	if json.Unmarshal(r.Input, &text) == nil {
		message, _ := json.Marshal([]map[string]string{{"role": "user", "content": text}})
		return chatPrompt(system, message)
	}
	return chatPrompt(system, r.Input)
}
