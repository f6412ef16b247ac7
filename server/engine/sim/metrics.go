package sim

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// counts is what the engine says of itself in /metrics.
type counts struct {
	running, waiting atomic.Int64

	mu             sync.Mutex
	prompt         int // tokens: llama without the cached ones, vLLM with them; guarded by mu, as all below
	cached         int
	completion     int
	decodes        int
	busy           int // tokens of all decodes
	longest        int
	promptTime     time.Duration
	completionTime time.Duration
	stopped        map[string]int // vLLM's finished_reason
	scraped        struct {       // llama's gauges are averages since the last scrape
		prompt, completion         int
		promptTime, completionTime time.Duration
	}
}

// prefill counts each prompt, llama-server once, vLLM again for each choice of it.
func (c *counts) prefill(j *job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, q := range j.seqs {
		if q.index%j.n != 0 && !j.vllm {
			continue
		}
		c.cached += q.cached
		c.prompt += q.prompt
		if !j.vllm {
			c.prompt -= q.cached
		}
	}
	c.promptTime += j.prefill
}

// token counts a step. vLLM's total moves with it, llama-server's when a slot is
// released.
func (c *counts) token(j *job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy++
	if j.vllm {
		c.completion++
	}
}

// release counts what a request made, also one that its client left.
func (c *counts) release(j *job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped == nil {
		c.stopped = make(map[string]int)
	}
	steps := 0
	for _, q := range j.seqs {
		steps = max(steps, q.made)
		c.longest = max(c.longest, q.prompt+q.made)
		c.completionTime += q.took
		if !j.vllm {
			c.completion += q.made
		}
		if q.done() {
			c.stopped[q.finish]++
		} else {
			c.stopped["abort"]++
		}
	}
	c.decodes += steps
}

// pooled counts an embedding or a ranking: a prompt and no answer.
func (c *counts) pooled(tokens int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.prompt += tokens
}

func (s *server) metrics(w http.ResponseWriter, r *http.Request) {
	if s.opts.vllm() {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		w.Write([]byte(s.counts.vllm(s.opts.model)))
		return
	}
	if !s.opts.metrics {
		s.writeError(w, apiError{status: 501, message: "This server does not support metrics endpoint. Start it with `--metrics`"})
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	w.Header().Set("Process-Start-Time-Unix", fmt.Sprint(s.started.Unix()))
	page := s.counts.llama()
	w.Header().Set("Content-Length", fmt.Sprint(len(page)))
	w.Write([]byte(page))
}

// llama writes llama-server's page, numbers in six digits as it does.
func (c *counts) llama() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	rate := func(tokens int, took time.Duration) float64 {
		if took <= 0 {
			return 0
		}
		return float64(tokens) / took.Seconds()
	}
	perDecode := 0.0
	if c.decodes > 0 {
		perDecode = float64(c.busy) / float64(c.decodes)
	}
	var b strings.Builder
	put := func(kind, name, help string, v float64) {
		fmt.Fprintf(&b, "# HELP llamacpp:%s %s\n# TYPE llamacpp:%[1]s %[3]s\nllamacpp:%[1]s %[4]s\n",
			name, help, kind, strconv.FormatFloat(v, 'g', 6, 64))
	}
	put("counter", "prompt_tokens_total", "Number of prompt tokens processed.", float64(c.prompt))
	put("counter", "prompt_seconds_total", "Prompt process time", c.promptTime.Seconds())
	put("counter", "tokens_predicted_total", "Number of generation tokens processed.", float64(c.completion))
	put("counter", "tokens_predicted_seconds_total", "Predict process time", c.completionTime.Seconds())
	put("counter", "n_decode_total", "Total number of llama_decode() calls", float64(c.decodes))
	put("counter", "n_tokens_max", "Largest observed n_tokens.", float64(c.longest))
	put("counter", "spec_decode_num_draft_tokens_total", "Total draft tokens generated", 0)
	put("counter", "spec_decode_num_accepted_tokens_total", "Total draft tokens accepted by the target model", 0)
	put("counter", "spec_decode_num_drafts_total", "Total speculative decoding verification steps", 0)
	put("gauge", "prompt_tokens_seconds", "Average prompt throughput in tokens/s.",
		rate(c.prompt-c.scraped.prompt, c.promptTime-c.scraped.promptTime))
	put("gauge", "predicted_tokens_seconds", "Average generation throughput in tokens/s.",
		rate(c.completion-c.scraped.completion, c.completionTime-c.scraped.completionTime))
	put("gauge", "requests_processing", "Number of requests processing.", float64(c.running.Load()))
	put("gauge", "requests_deferred", "Number of requests deferred.", float64(c.waiting.Load()))
	put("gauge", "n_busy_slots_per_decode", "Average number of busy slots per llama_decode() call", perDecode)
	c.scraped.prompt, c.scraped.completion = c.prompt, c.completion
	c.scraped.promptTime, c.scraped.completionTime = c.promptTime, c.completionTime
	return b.String()
}

// vllm writes the part of vLLM's page that counts tokens and requests.
func (c *counts) vllm(model string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	labels := fmt.Sprintf("engine=\"0\",model_name=%q", model)
	var b strings.Builder
	head := func(kind, name string) {
		fmt.Fprintf(&b, "# HELP vllm:%s Simulated.\n# TYPE vllm:%[1]s %[2]s\n", name, kind)
	}
	put := func(kind, name string, v int64) {
		head(kind, name)
		// The exporter writes floats.
		fmt.Fprintf(&b, "vllm:%s{%s} %d.0\n", name, labels, v)
	}
	put("gauge", "num_requests_running", c.running.Load())
	put("gauge", "num_requests_waiting", c.waiting.Load())
	put("counter", "prompt_tokens_total", int64(c.prompt))
	put("counter", "prompt_tokens_cached_total", int64(c.cached))
	put("counter", "generation_tokens_total", int64(c.completion))
	head("counter", "request_success_total")
	for _, reason := range []string{"stop", "length", "abort", "error", "repetition"} {
		fmt.Fprintf(&b, "vllm:request_success_total{%s,finished_reason=%q} %d.0\n", labels, reason, c.stopped[reason])
	}
	return b.String()
}
