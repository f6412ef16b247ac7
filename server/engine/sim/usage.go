package sim

import "time"

// llamaUsage is llama-server's usage of one sequence. There is no other: an answer
// that has several reports the first.
func llamaUsage(q *sequence) obj {
	return obj{
		{"completion_tokens", q.made},
		{"prompt_tokens", q.prompt},
		{"total_tokens", q.prompt + q.made},
		{"prompt_tokens_details", obj{{"cached_tokens", q.cached}}},
	}
}

// timings is llama-server's running count of one sequence.
func timings(j *job, q *sequence) obj {
	evaluated := q.prompt - q.cached
	prompt, predicted := millis(j.prefill), millis(q.took)
	return obj{
		{"cache_n", q.cached},
		{"prompt_n", evaluated},
		{"prompt_ms", prompt},
		{"prompt_per_token_ms", prompt / float64(evaluated)},
		{"prompt_per_second", float64(evaluated) / prompt * 1000},
		{"predicted_n", q.made},
		{"predicted_ms", predicted},
		{"predicted_per_token_ms", predicted / float64(max(q.made, 1))},
		{"predicted_per_second", float64(q.made) / predicted * 1000},
	}
}

// millis is never 0: it is divided by.
func millis(d time.Duration) float64 {
	return float64(max(d, time.Microsecond).Microseconds()) / 1000
}

// total is vLLM's usage: the sum over all prompts, each counted once, and all choices.
func (j *job) total() (prompt, cached, completion int) {
	for _, q := range j.seqs {
		if q.index%j.n == 0 {
			prompt += q.prompt
			cached += q.cached
		}
		completion += q.made
	}
	return prompt, cached, completion
}

func vllmUsage(j *job, prompt, cached, completion int) obj {
	u := obj{
		{"prompt_tokens", prompt},
		{"total_tokens", prompt + completion},
		{"completion_tokens", completion},
	}
	if j.details {
		return u.with("prompt_tokens_details", obj{{"cached_tokens", cached}})
	}
	return u.with("prompt_tokens_details", nil)
}

func (j *job) totalUsage() obj {
	prompt, cached, completion := j.total()
	return vllmUsage(j, prompt, cached, completion)
}

// continuous says whether every chunk of a vLLM stream carries usage.
func (j *job) continuous() bool {
	return j.force || j.req.includeUsage() && j.req.StreamOptions.ContinuousUsageStats
}

// finalUsage says whether a vLLM stream ends with a usage chunk.
func (j *job) finalUsage() bool { return j.force || j.req.includeUsage() }
