package sim

// completions is POST /v1/completions.
type completions struct{ doneStream }

func (completions) prompts(r *request) ([]prompt, error) { return textPrompts(r.Prompt) }

func (completions) start(*job, *stream) {}

func (completions) token(j *job, q *sequence, st *stream) {
	if j.vllm {
		var finish any
		if q.done() {
			finish = q.finish
		}
		c := vllmChunkHead(j, "text_completion").with("choices", list{vllmText(q, q.last(), finish)})
		if j.continuous() {
			c = c.with("usage", vllmUsage(j, q.prompt, q.cached, q.made))
		}
		st.data(c)
		return
	}
	c := llamaText(j, list{llamaTextChoice(q, q.last(), nil)}, nil)
	if j.req.TimingsPerToken {
		c = c.with("timings", timings(j, q))
	}
	st.data(c)
}

// finish of llama-server carries usage whether it was asked for or not, one for each
// sequence.
func (completions) finish(j *job, q *sequence, st *stream) {
	if !j.vllm {
		st.data(llamaText(j, list{llamaTextChoice(q, "", q.finish)}, llamaUsage(q)).with("timings", timings(j, q)))
	}
}

func (completions) end(j *job, st *stream) {
	if j.vllm && j.finalUsage() {
		st.data(vllmChunkHead(j, "text_completion").with("choices", list{}).with("usage", j.totalUsage()))
	}
	st.done()
}

func (completions) whole(j *job) obj {
	choices := list{}
	for _, q := range j.seqs {
		if j.vllm {
			choices = append(choices, vllmText(q, q.text(), q.finish))
		} else {
			choices = append(choices, llamaTextChoice(q, q.text(), q.finish))
		}
	}
	if j.vllm {
		return vllmChunkHead(j, "text_completion").with("choices", choices).with("usage", j.totalUsage())
	}
	first := j.seqs[0]
	return llamaText(j, choices, llamaUsage(first)).with("timings", timings(j, first))
}

func llamaText(j *job, choices list, usage obj) obj {
	o := obj{
		{"choices", choices},
		{"created", j.created},
		{"model", j.model},
		{"system_fingerprint", fingerprint},
		{"object", "text_completion"},
	}
	if usage != nil {
		o = o.with("usage", usage)
	}
	return o.with("id", "chatcmpl-"+j.id)
}

func llamaTextChoice(q *sequence, text string, finish any) obj {
	return obj{{"text", text}, {"index", q.index}, {"logprobs", nil}, {"finish_reason", finish}}
}

func vllmText(q *sequence, text string, finish any) obj {
	return obj{{"index", q.index}, {"text", text}, {"logprobs", nil}, {"finish_reason", finish}, {"stop_reason", nil}}
}
