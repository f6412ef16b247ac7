package meter

import "spotinference/ledger"

// maxChoices bounds the slots that an answer can make us keep.
const maxChoices = 4096

// counts is what was counted of one answer.
type counts struct {
	choices  []choice // by the engine's index; slot 0 alone in dialects without choices
	finals   int      // of these, how many have their final count
	overflow int64    // events of choices beyond maxChoices

	total  reading // final usage that names no choice
	totals int     // how many such usages it is the sum of

	// unread is set by a final usage whose numbers make no sense: whatever the
	// others say, the count is not exact.
	unread bool

	message usage // Messages: the counts seen so far, each from its newest place
}

// choice is one choice's running count. The engine's reading covers every
// event up to the one it came on, also where one token made several events (a
// tool call can); what came since is at least a token an event.
type choice struct {
	prompt, cached int64
	completion     int64
	since          int64
	read           bool // the engine has given a reading
	final          bool
}

type reading struct{ prompt, cached, completion count }

// running adds the choices up. Choices of one prompt, group in a row, share
// its prompt tokens.
func (n *counts) running(group int) ledger.Usage {
	var u ledger.Usage
	for from := 0; from < len(n.choices); from += group {
		var prompt, cached int64
		first := true
		for _, c := range n.choices[from:min(from+group, len(n.choices))] {
			u.CompletionTokens += c.completion + c.since
			if !c.read {
				continue
			}
			prompt = max(prompt, c.prompt)
			if first || c.cached < cached {
				cached = c.cached
			}
			first = false
		}
		u.PromptTokens += prompt
		u.CachedTokens += cached
	}
	u.CompletionTokens += n.overflow
	return u
}

// slot returns the choice with the index, nil where there is no room for it.
func (n *counts) slot(index int64) *choice {
	if index >= maxChoices {
		return nil
	}
	for int64(len(n.choices)) <= index {
		n.choices = append(n.choices, choice{})
	}
	return &n.choices[index]
}

// count takes one event into the counts.
func (m *Meter) count(ch *chunk, k kind) {
	switch m.dialect {
	case Messages:
		m.countMessage(ch, k)
	case Responses:
		m.countResponse(ch, k)
	case Transcriptions, Translations, Speech:
		m.countAudio(ch, k)
	default:
		m.countChoice(ch)
	}
}

func (m *Meter) countChoice(ch *chunk) {
	m.finished = m.finished || ch.finish
	if ch.hasUsage && (ch.empty || !ch.choices) {
		m.countTotal(&ch.usage, &ch.timings)
		return
	}
	r, final := reading{}, false
	switch {
	case ch.hasUsage:
		// On llama-server usage stands on the last chunk of a completion; on vLLM
		// it is a running count wherever a choice is.
		r = m.reading(&ch.usage, &ch.timings)
		final = m.engine == LlamaServer
	case ch.hasTimings:
		// Unasked, timings come on a choice's last chunk only, and so do they
		// where the usage that was asked for did not come.
		r = ch.timings.reading()
		final = ch.finish
	}
	if final && (!r.prompt.ok || !r.completion.ok) {
		m.counts.unread, final = true, false
	}
	m.countReading(ch, r, final)
}

// countReading books an event on its choice: the engine's reading, where it
// has one, else a token where it carries something.
func (m *Meter) countReading(ch *chunk, r reading, final bool) {
	if !ch.content && !ch.hasProgress && !r.prompt.ok && !r.completion.ok {
		return
	}
	c := m.counts.slot(ch.index.n)
	if c == nil {
		if ch.content {
			m.counts.overflow++
		}
		return
	}
	if ch.hasProgress && ch.progress.prompt.ok {
		c.prompt, c.cached, c.read = max(c.prompt, ch.progress.prompt.n), ch.progress.cached.n, true
	}
	if r.prompt.ok {
		c.prompt, c.cached, c.read = max(c.prompt, r.prompt.n), r.cached.n, true
	}
	if !r.completion.ok || r.completion.n < c.completion {
		if ch.content {
			c.since++
		}
		return
	}
	c.completion, c.since = r.completion.n, 0
	if final && !c.final {
		c.final = true
		m.counts.finals++
	}
}

// countTotal books a usage that belongs to no choice in particular. vLLM sends
// one for the whole request; llama-server one a choice, each with the prompt
// that they share.
func (m *Meter) countTotal(u *usage, t *timings) {
	r := m.reading(u, t)
	if !r.prompt.ok || !r.completion.ok {
		m.counts.unread = true
		return
	}
	total := &m.counts.total
	m.counts.totals++
	if m.engine == VLLM || m.counts.totals == 1 {
		*total = r
		return
	}
	total.completion.n += r.completion.n
	total.prompt.n = max(total.prompt.n, r.prompt.n)
	total.cached.n = min(total.cached.n, r.cached.n)
}

// countResponse reads the Responses dialect. Of several responses in one stream an event
// does not say which it belongs to, so their running counts are of no use: until they
// end, an event that carries something is a token.
func (m *Meter) countResponse(ch *chunk, k kind) {
	if k != kindDelta {
		ch.content = false
	}
	r := ch.timings.reading()
	if m.ask.N > 1 {
		r.completion = count{}
	}
	m.countReading(ch, r, false)
	switch {
	case !ch.hasUsage || !k.terminal():
	case m.engine == VLLM:
		m.counts.total = m.reading(&ch.usage, &ch.timings)
	default:
		m.countTotal(&ch.usage, &ch.timings)
	}
}

// countAudio reads OpenAI's events, or vLLM's, which are like those of a chat.
// Where the engine reports seconds rather than tokens, there is no count.
func (m *Meter) countAudio(ch *chunk, k kind) {
	if ch.choices {
		m.countChoice(ch)
		return
	}
	if k == kindDelta {
		m.countReading(ch, reading{}, false)
	}
	if ch.hasUsage {
		m.counts.total = m.reading(&ch.usage, nil)
	}
}

// countMessage reads Anthropic's dialect: the prompt comes first, the
// completion last, and what was said earlier need not be repeated.
func (m *Meter) countMessage(ch *chunk, k kind) {
	if k == kindDelta {
		m.countReading(ch, reading{}, false)
	}
	if !ch.hasUsage {
		return
	}
	u := &m.counts.message
	u.prompt.update(ch.usage.prompt)
	u.read.update(ch.usage.read)
	u.created.update(ch.usage.created)
	if k == kindMessageDelta {
		u.completion.update(ch.usage.completion)
	}
	m.counts.total = m.reading(u, nil)
}

func (c *count) update(newer count) {
	if newer.ok {
		*c = newer
	}
}

// reading reads a usage object as the dialect means it. t may have what usage
// leaves out, and may be nil.
func (m *Meter) reading(u *usage, t *timings) reading {
	r := reading{prompt: u.prompt, cached: u.cached, completion: u.completion}
	switch m.dialect {
	case Messages: // input_tokens leaves the cached ones out
		r.prompt.n += u.read.n + u.created.n
		r.cached = u.read
		return r
	case Embeddings, Rerank:
		if !r.prompt.ok {
			r.prompt = u.total
		}
		r.completion = count{0, r.prompt.ok}
	case Responses:
		if m.engine == VLLM && r.completion.n == 0 {
			r.completion.ok = false // one of its paths does not count, and says 0
		}
	}
	if !r.cached.ok && t != nil {
		r.cached = t.cached
	}
	return r
}

func (t *timings) reading() reading {
	return reading{
		prompt:     count{t.cached.n + t.prompt.n, t.cached.ok && t.prompt.ok},
		cached:     t.cached,
		completion: t.predicted,
	}
}
