package sim

// chat is POST /v1/chat/completions.
type chat struct{ doneStream }

func (chat) prompts(r *request) ([]prompt, error) {
	p, err := chatPrompt(nil, r.Messages)
	return []prompt{p}, err
}

func (chat) start(j *job, st *stream) {
	switch {
	case j.vllm: // after prefill: the prompt is counted and nothing is made
		for _, q := range j.seqs {
			st.data(vllmChunk(j, q, obj{{"role", "assistant"}, {"content", ""}}, nil))
		}
	case j.req.ReturnProgress:
		for _, q := range j.seqs {
			progress := obj{{"total", q.prompt}, {"cache", q.cached}, {"processed", q.prompt}, {"time_ms", j.prefill.Milliseconds()}}
			st.data(llamaChunk(j, list{llamaDelta(q, role, nil)}).with("prompt_progress", progress))
		}
	}
}

// role is what a llama-server stream begins with.
var role = obj{{"role", "assistant"}, {"content", nil}}

func (chat) token(j *job, q *sequence, st *stream) {
	delta := obj{{"content", q.last()}}
	if j.vllm {
		var finish any
		if q.done() {
			finish = q.finish
		}
		st.data(vllmChunk(j, q, delta, finish))
		return
	}
	if q.made == 1 {
		st.data(llamaChunk(j, list{llamaDelta(q, role, nil)}))
	}
	if j.req.toolName() != "" {
		delta = callDelta(j, q)
	}
	choice := llamaDelta(q, delta, nil)
	if j.req.wantsLogprobs() {
		choice = choice.with("logprobs", obj{{"content", list{logprob(q.last(), j.req.TopLogprobs)}}})
	}
	c := llamaChunk(j, list{choice})
	if j.req.TimingsPerToken {
		c = c.with("timings", timings(j, q))
	}
	st.data(c)
}

func (chat) finish(j *job, q *sequence, st *stream) {
	if j.vllm {
		return
	}
	reason := q.finish
	if j.req.toolName() != "" {
		reason = "tool_calls"
	}
	finish := llamaChunk(j, list{llamaDelta(q, obj{}, reason)})
	if !j.req.includeUsage() {
		st.data(finish.with("timings", timings(j, q)))
		return
	}
	st.data(finish)
	st.data(llamaChunk(j, list{}).with("usage", llamaUsage(q)).with("timings", timings(j, q)))
}

func (chat) end(j *job, st *stream) {
	if j.vllm && j.finalUsage() {
		st.data(vllmChunkHead(j, "chat.completion.chunk").with("choices", list{}).with("usage", j.totalUsage()))
	}
	st.done()
}

func (chat) whole(j *job) obj {
	choices := list{}
	for _, q := range j.seqs {
		message := obj{{"role", "assistant"}, {"content", q.text()}}
		if j.vllm {
			message = append(message, field{"refusal", nil}, field{"tool_calls", list{}})
			choices = append(choices, obj{{"index", q.index}, {"message", message}, {"logprobs", nil}, {"finish_reason", q.finish}, {"stop_reason", nil}})
			continue
		}
		choice := obj{{"finish_reason", q.finish}, {"index", q.index}, {"message", message}}
		if j.req.toolName() != "" {
			message = obj{{"role", "assistant"}, {"content", ""}, {"tool_calls", list{call(j, q)}}}
			choice = obj{{"finish_reason", "tool_calls"}, {"index", q.index}, {"message", message}}
		}
		if j.req.wantsLogprobs() {
			tokens := list{}
			for _, word := range q.words[:q.made] {
				tokens = append(tokens, logprob(word, j.req.TopLogprobs))
			}
			choice = choice.with("logprobs", obj{{"content", tokens}})
		}
		choices = append(choices, choice)
	}
	if j.vllm {
		return vllmChunkHead(j, "chat.completion").with("choices", choices).with("usage", j.totalUsage())
	}
	first := j.seqs[0]
	return obj{
		{"choices", choices},
		{"created", j.created},
		{"model", j.model},
		{"system_fingerprint", fingerprint},
		{"object", "chat.completion"},
		{"usage", llamaUsage(first)},
		{"id", "chatcmpl-" + j.id},
		{"timings", timings(j, first)},
	}
}

const fingerprint = "b0-sim"

func llamaChunk(j *job, choices list) obj {
	return obj{
		{"choices", choices},
		{"created", j.created},
		{"id", "chatcmpl-" + j.id},
		{"model", j.model},
		{"system_fingerprint", fingerprint},
		{"object", "chat.completion.chunk"},
	}
}

func llamaDelta(q *sequence, delta obj, finish any) obj {
	return obj{{"finish_reason", finish}, {"index", q.index}, {"delta", delta}}
}

// vllmChunkHead is what both of vLLM's dialects begin with.
func vllmChunkHead(j *job, object string) obj {
	prefix := "chatcmpl-"
	if object == "text_completion" {
		prefix = "cmpl-"
	}
	return obj{{"id", prefix + j.id}, {"object", object}, {"created", j.created}, {"model", j.model}}
}

func vllmChunk(j *job, q *sequence, delta obj, finish any) obj {
	choice := obj{{"index", q.index}, {"delta", delta}, {"logprobs", nil}, {"finish_reason", finish}}
	if finish != nil {
		choice = choice.with("stop_reason", nil)
	}
	c := vllmChunkHead(j, "chat.completion.chunk").with("choices", list{choice})
	if j.continuous() {
		c = c.with("usage", vllmUsage(j, q.prompt, q.cached, q.made))
	}
	return c
}

// logprob is llama-server's entry for one token and the tokens that it was chosen from.
func logprob(word string, top int) obj {
	entry := func(word string, p float64) obj {
		raw := list{}
		for _, c := range []byte(word) {
			raw = append(raw, int(c))
		}
		return obj{{"id", tokenID(word)}, {"token", word}, {"bytes", raw}, {"logprob", p}}
	}
	others := list{}
	for i := range top {
		others = append(others, entry(answer(word, i+1)[i], -0.5-float64(i)))
	}
	return entry(word, -0.25).with("top_logprobs", others)
}
