package meter

import "bytes"

// chunk is what the payload of one stream event says. Its slices lie in the
// payload.
type chunk struct {
	kind  kind
	model []byte // as written between its quotes
	error []byte // the value of a non-null error, at the top or in a response

	choices bool // there is a list of choices
	empty   bool // and it is empty
	index   count
	finish  bool // the choice has its finish_reason
	content bool // the event carries something that was generated

	usage       usage
	hasUsage    bool
	timings     timings
	hasTimings  bool
	progress    timings // of the prefill
	hasProgress bool

	// Where the members stand that may have to be cut out.
	injected  [4]member
	nInjected int
}

// member is where a member stands in its object.
type member struct {
	at       int // opening quote of its name
	from, to int // its value
	what     injection
}

type injection uint8

const (
	injectedUsage injection = iota + 1
	injectedTimings
)

// kind is what an event's name, or the type in its payload, means to us.
type kind uint8

const (
	kindOther kind = iota
	kindDelta
	kindMessageDelta // has the final usage of a message
	kindDone         // the last event of a transcript or of speech; at most [DONE] follows
	kindCompleted    // the last event of a response
	kindFailed       // likewise, and it failed
	kindStop         // the last event of a message
	kindError
)

func kindOf(name []byte) kind {
	switch string(name) {
	case "content_block_delta", "transcript.text.delta":
		return kindDelta
	case "transcript.text.done", "speech.audio.done":
		return kindDone
	case "message_delta":
		return kindMessageDelta
	case "response.completed", "response.incomplete":
		return kindCompleted
	case "response.failed":
		return kindFailed
	case "message_stop":
		return kindStop
	case "error":
		return kindError
	}
	if bytes.HasPrefix(name, []byte("response.")) && bytes.HasSuffix(name, []byte(".delta")) {
		return kindDelta
	}
	return kindOther
}

func (k kind) terminal() bool { return k >= kindCompleted }

// usage holds the counts of a usage object, by OpenAI's names or Anthropic's.
type usage struct {
	prompt, completion, total count
	cached                    count // part of prompt
	read, created             count // beside prompt: Anthropic's cache counts
}

// timings are llama-server's running counts. The prompt is both parts.
type timings struct {
	cached, prompt, predicted count
}

// read takes one payload into a zero chunk, in one pass. It returns false, and
// ch is worth nothing, where the payload is no well-formed object.
func (ch *chunk) read(payload []byte) bool {
	c := cursor{b: payload}
	c.space()
	c.open('{')
	var room name
	for first := true; c.more('}', first); first = false {
		key, m := c.key(&room), member{at: c.at, from: c.i}
		switch string(key) {
		case "choices":
			c.choices(ch)
		case "usage":
			if c.usage(&ch.usage) {
				ch.hasUsage = true
				m.what = injectedUsage
			}
		case "timings":
			if c.timings(&ch.timings) {
				ch.hasTimings = true
				m.what = injectedTimings
			}
		case "prompt_progress":
			if c.timings(&ch.progress) {
				ch.hasProgress = true
			}
		case "model":
			ch.model = c.text()
		case "type":
			ch.kind = kindOf(c.text())
		case "error":
			if v := c.nonNull(); v != nil {
				ch.error = v
			}
		case "delta":
			ch.content = c.hasContent()
		case "response", "message":
			c.envelope(ch)
		default:
			c.skip()
		}
		if m.what != 0 && ch.nInjected < len(ch.injected) {
			m.to = c.i
			ch.injected[ch.nInjected] = m
			ch.nInjected++
		}
	}
	return c.end()
}

func (c *cursor) choices(ch *chunk) {
	if !c.openIf('[') {
		return
	}
	ch.choices, ch.empty = true, true
	for first := true; c.more(']', first); first = false {
		ch.empty = false
		c.choice(ch)
	}
}

// choice reads one element; the engines send one a chunk, so the last wins.
func (c *cursor) choice(ch *chunk) {
	if !c.openIf('{') {
		return
	}
	var room name
	for first := true; c.more('}', first); first = false {
		switch string(c.key(&room)) {
		case "index":
			ch.index = c.tokens()
		case "finish_reason":
			ch.finish = c.nonNull() != nil
		case "delta", "text":
			if c.hasContent() {
				ch.content = true
			}
		default:
			c.skip()
		}
	}
}

// hasContent passes a delta and reports whether it carries something generated: a
// text that is not empty, or a member other than the labels that holds one.
func (c *cursor) hasContent() bool {
	switch c.peek() {
	case '"':
		s, _ := c.str()
		return len(s) > 0
	case '[':
		c.open('[')
		n := 0
		for ; c.more(']', n == 0); n++ {
			c.skip()
		}
		return n > 0
	}
	if !c.openIf('{') {
		return false
	}
	said := false
	var room name
	for first := true; c.more('}', first); first = false {
		switch string(c.key(&room)) {
		case "role", "type", "signature": // a signature is made by the server, not the model
			c.skip()
		default:
			if c.hasContent() {
				said = true
			}
		}
	}
	return said
}

// envelope reads the object that the last event of a response and the first
// of a message wrap around what other dialects have at the top.
func (c *cursor) envelope(ch *chunk) {
	if !c.openIf('{') {
		return
	}
	var room name
	for first := true; c.more('}', first); first = false {
		switch string(c.key(&room)) {
		case "usage":
			if c.usage(&ch.usage) {
				ch.hasUsage = true
			}
		case "model":
			ch.model = c.text()
		case "error":
			if v := c.nonNull(); v != nil {
				ch.error = v
			}
		default:
			c.skip()
		}
	}
}

func (c *cursor) usage(u *usage) bool {
	if !c.openIf('{') {
		return false
	}
	*u = usage{}
	var room name
	for first := true; c.more('}', first); first = false {
		switch string(c.key(&room)) {
		case "prompt_tokens", "input_tokens":
			u.prompt = c.tokens()
		case "completion_tokens", "output_tokens":
			u.completion = c.tokens()
		case "total_tokens":
			u.total = c.tokens()
		case "cache_read_input_tokens":
			u.read = c.tokens()
		case "cache_creation_input_tokens":
			u.created = c.tokens()
		case "prompt_tokens_details", "input_tokens_details":
			c.details(u)
		default:
			c.skip()
		}
	}
	return true
}

func (c *cursor) details(u *usage) {
	if !c.openIf('{') {
		return
	}
	var room name
	for first := true; c.more('}', first); first = false {
		if string(c.key(&room)) == "cached_tokens" {
			u.cached = c.tokens()
		} else {
			c.skip()
		}
	}
}

// meta reads what Cohere's form of a rerank's answer has instead of a usage: what was
// read, and else what is billed.
func (c *cursor) meta(u *usage) (found bool) {
	if !c.openIf('{') {
		return false
	}
	var room name
	for first := true; c.more('}', first); first = false {
		var part usage
		switch string(c.key(&room)) {
		case "tokens":
			if c.usage(&part) && part.prompt.ok {
				*u, found = part, true
			}
		case "billed_units":
			if c.usage(&part) && !u.prompt.ok && (part.prompt.ok || part.total.ok) {
				*u, found = part, true
			}
		default:
			c.skip()
		}
	}
	return found
}

// timings reads a timings object, or the prompt_progress that stands in for it
// during prefill.
func (c *cursor) timings(t *timings) bool {
	if !c.openIf('{') {
		return false
	}
	*t = timings{}
	var room name
	for first := true; c.more('}', first); first = false {
		switch string(c.key(&room)) {
		case "cache_n", "cache":
			t.cached = c.tokens()
		case "prompt_n", "total":
			t.prompt = c.tokens()
		case "predicted_n":
			t.predicted = c.tokens()
		default:
			c.skip()
		}
	}
	return true
}

// nonNull passes a value and returns it as written, nil for null.
func (c *cursor) nonNull() []byte {
	v := c.value()
	if string(v) == "null" {
		return nil
	}
	return v
}
