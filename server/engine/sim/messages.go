package sim

// messages is POST /v1/messages, Anthropic's dialect. Its streams have named events
// and no [DONE].
type messages struct{ eventStream }

func (messages) prompts(r *request) ([]prompt, error) {
	p, err := chatPrompt(r.System, r.Messages)
	return []prompt{p}, err
}

func (d messages) start(j *job, st *stream) {
	message := d.head(j, list{}).
		with("stop_reason", nil).
		with("stop_sequence", nil).
		with("usage", d.usage(j, j.seqs[0]))
	st.event("message_start", obj{{"type", "message_start"}, {"message", message}})
	st.event("content_block_start", obj{
		{"type", "content_block_start"},
		{"index", 0},
		{"content_block", obj{{"type", "text"}, {"text", ""}}},
	})
}

func (messages) token(j *job, q *sequence, st *stream) {
	st.event("content_block_delta", obj{
		{"type", "content_block_delta"},
		{"index", 0},
		{"delta", obj{{"type", "text_delta"}, {"text", q.last()}}},
	})
}

func (d messages) finish(j *job, q *sequence, st *stream) {
	usage := obj{{"output_tokens", q.made}}
	if j.vllm {
		usage = d.usage(j, q)
	}
	st.event("content_block_stop", obj{{"type", "content_block_stop"}, {"index", 0}})
	st.event("message_delta", obj{
		{"type", "message_delta"},
		{"delta", obj{{"stop_reason", d.reason(q)}, {"stop_sequence", nil}}},
		{"usage", usage},
	})
	st.event("message_stop", obj{{"type", "message_stop"}})
}

func (messages) end(*job, *stream) {}

func (d messages) whole(j *job) obj {
	q := j.seqs[0]
	return d.head(j, list{obj{{"type", "text"}, {"text", q.text()}}}).
		with("stop_reason", d.reason(q)).
		with("stop_sequence", nil).
		with("usage", d.usage(j, q))
}

func (messages) head(j *job, content list) obj {
	return obj{
		{"id", "chatcmpl-" + j.id},
		{"type", "message"},
		{"role", "assistant"},
		{"content", content},
		{"model", j.model},
	}
}

func (messages) reason(q *sequence) string {
	if q.finish == "length" {
		return "max_tokens"
	}
	return "end_turn"
}

// usage of llama-server takes the cached tokens out of input_tokens; vLLM's doesn't.
func (messages) usage(j *job, q *sequence) obj {
	if j.vllm {
		return obj{{"input_tokens", q.prompt}, {"output_tokens", q.made}}
	}
	return obj{
		{"cache_read_input_tokens", q.cached},
		{"input_tokens", q.prompt - q.cached},
		{"output_tokens", q.made},
	}
}
