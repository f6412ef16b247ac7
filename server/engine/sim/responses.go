package sim

// responses is POST /v1/responses. Its streams have named events and no [DONE].
type responses struct{ eventStream }

func (responses) prompts(r *request) ([]prompt, error) {
	p, err := responsesPrompt(r)
	return []prompt{p}, err
}

func (d responses) start(j *job, st *stream) {
	response := obj{{"id", "resp_" + j.id}, {"object", "response"}, {"status", "in_progress"}}
	d.send(j, st, "response.created", obj{{"response", response}})
	d.send(j, st, "response.in_progress", obj{{"response", response}})
	d.send(j, st, "response.output_item.added", obj{{"item", obj{
		{"content", list{}},
		{"id", "msg_" + j.id},
		{"role", "assistant"},
		{"status", "in_progress"},
		{"type", "message"},
	}}})
	d.send(j, st, "response.content_part.added", obj{
		{"item_id", "msg_" + j.id},
		{"part", obj{{"type", "output_text"}, {"text", ""}}},
	})
}

func (d responses) token(j *job, q *sequence, st *stream) {
	o := obj{{"item_id", "msg_" + j.id}, {"delta", q.last()}}
	if !j.vllm && j.req.TimingsPerToken {
		o = o.with("timings", timings(j, q))
	}
	d.send(j, st, "response.output_text.delta", o)
}

func (d responses) finish(j *job, q *sequence, st *stream) {
	d.send(j, st, "response.output_text.done", obj{{"item_id", "msg_" + j.id}, {"text", q.text()}})
	d.send(j, st, "response.content_part.done", obj{{"item_id", "msg_" + j.id}, {"part", d.part(q)}})
	d.send(j, st, "response.output_item.done", obj{{"item", d.item(j, q)}})
	completed := obj{{"response", obj{
		{"id", "resp_" + j.id},
		{"object", "response"},
		{"created_at", j.created},
		{"status", "completed"},
		{"model", j.model},
		{"output", list{d.item(j, q)}},
		{"usage", d.usage(j, q)},
	}}}
	if !j.vllm {
		completed = completed.with("timings", timings(j, q))
	}
	d.send(j, st, "response.completed", completed)
}

func (responses) end(*job, *stream) {}

func (d responses) whole(j *job) obj {
	q := j.seqs[0]
	return obj{
		{"completed_at", j.created},
		{"created_at", j.created},
		{"id", "resp_" + j.id},
		{"model", j.model},
		{"object", "response"},
		{"output", list{obj{
			{"content", list{d.part(q)}},
			{"id", "msg_" + j.id},
			{"role", "assistant"},
			{"status", "completed"},
			{"type", "message"},
		}}},
		{"status", "completed"},
		{"usage", d.usage(j, q)},
	}
}

// send names the event twice, as both engines do.
func (responses) send(j *job, st *stream, name string, rest obj) {
	st.event(name, append(obj{{"type", name}}, rest...))
}

func (responses) part(q *sequence) obj {
	return obj{{"type", "output_text"}, {"annotations", list{}}, {"logprobs", list{}}, {"text", q.text()}}
}

func (d responses) item(j *job, q *sequence) obj {
	return obj{
		{"type", "message"},
		{"status", "completed"},
		{"id", "msg_" + j.id},
		{"content", list{d.part(q)}},
		{"role", "assistant"},
	}
}

func (responses) usage(j *job, q *sequence) obj {
	u := obj{
		{"input_tokens", q.prompt},
		{"output_tokens", q.made},
		{"total_tokens", q.prompt + q.made},
		{"input_tokens_details", obj{{"cached_tokens", q.cached}}},
	}
	if j.vllm {
		u = u.with("output_tokens_details", obj{{"reasoning_tokens", 0}})
	}
	return u
}
