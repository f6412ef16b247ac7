package meter

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Ask is what a request asked for.
type Ask struct {
	Model   string // "" where the body names none
	Stream  bool
	N       int // choices for each prompt, or responses; at least 1
	Prompts int // prompts in the request; at least 1
	// MaxTokens is the most that the engine may make for one choice; 0 where the body does
	// not say, and only the context bounds it.
	MaxTokens int64

	// What Prepare asked for in the client's place, so that the client must not
	// see it. A zero Ask hides nothing.
	hideUsage      bool // a chunk that holds nothing but usage
	hideChunkUsage bool // usage beside a choice
	hideTimings    bool
	hideProgress   bool // a chunk that holds nothing but the prefill's progress

	assembled bool
}

// Assembled reports whether the engine was asked for a stream that the client
// did not ask for: what leaves is then [Meter.Answer].
func (a Ask) Assembled() bool { return a.assembled }

// Prepare checks a request body and returns what it asks for and the body to
// send to the engine. A streamed request gets the members that make the engine
// count as it goes; every other byte stays as it is, and where nothing is to
// be added the same slice comes back. Of members named twice the last counts,
// as it does to the engines. An error's text is for the client.
//
// A client sees nothing of it: what an engine says only since Prepare asked is hidden, and
// what it says elsewhere for that reason goes back to its place.
//
// An answer of several results that llama-server does not stream reports the
// first one's tokens alone. It is asked for as a stream, in which each result
// has its own count, and Meter.Answer makes the one answer of it.
func Prepare(d Dialect, e Engine, body []byte) (Ask, []byte, error) {
	if !utf8.Valid(body) {
		return Ask{}, nil, errors.New("request body is not valid UTF-8")
	}
	ask := Ask{N: 1, Prompts: 1}
	r := rewrite{body: body}
	c := cursor{b: body}
	c.space()
	if c.peek() != '{' {
		return Ask{}, nil, errors.New("request body must be a JSON object")
	}
	c.open('{')
	var n, nCmpl count
	var has forms
	var room name
	for first := true; c.more('}', first); first = false {
		key, m := c.key(&room), member{at: c.at, from: c.i}
		switch string(key) {
		case "model":
			ask.Model = unquote(c.text())
		case "stream":
			m.to = c.skipToEnd()
			ask.Stream = string(body[m.from:m.to]) == "true"
			r.stream = m
		case "stream_format":
			if v := string(c.value()); d == Speech {
				ask.Stream = v == `"sse"`
			}
		case "n":
			n = c.integerFor(e)
		case "n_cmpl": // llama-server's own word, which beats n
			nCmpl = c.integerFor(e)
		case "prompt":
			ask.Prompts = c.prompts()
		case "max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict":
			ask.MaxTokens = max(ask.MaxTokens, c.integerFor(e).n)
		case "texts":
			has.texts = true
			c.skip()
		case "input":
			has.input = true
			c.skip()
		case "content":
			has.content = true
			c.skip()
		case "background":
			v := string(c.value())
			has.background = v != "false" && v != "null"
		case "stream_options":
			m.to = c.skipToEnd()
			r.note(&r.options, m)
		case "timings_per_token":
			m.to = c.skipToEnd()
			r.note(&r.timings, m)
		case "verbose":
			v := string(c.value())
			r.verbose = e == LlamaServer && v != "false" && v != "null"
		case "return_progress":
			m.to = c.skipToEnd()
			r.note(&r.progress, m)
		default:
			c.skip()
		}
	}
	if !c.end() {
		if c.depth == maxDepth {
			return Ask{}, nil, fmt.Errorf("request body is nested deeper than %d levels", maxDepth)
		}
		return Ask{}, nil, fmt.Errorf("request body is not valid JSON at byte %d", c.i)
	}
	if err := has.check(d, e); err != nil {
		return Ask{}, nil, err
	}
	if e == LlamaServer && nCmpl.ok {
		n = nCmpl
	}
	if n.n > 1 && n.n <= maxChoices && (d == Chat || d == Completions || d == Responses && e == LlamaServer) {
		ask.N = int(n.n)
	}
	if d != Completions {
		ask.Prompts = 1
	}
	if ask.Stream || e == LlamaServer && ask.N*ask.Prompts > 1 && d != Responses {
		ask, body = r.apply(d, e, ask)
	}
	return ask, body, nil
}

// forms are the members that give a body a form in which it is not served.
type forms struct{ texts, input, content, background bool }

// check refuses what the engine would answer without saying what it cost: llama-server
// has two forms of its own whose answers hold no usage, and an answer in the background
// is made after its request has ended.
func (has forms) check(d Dialect, e Engine) error {
	switch {
	case d == Responses && has.background:
		return errors.New("background is not served: the result could not be fetched here")
	case e != LlamaServer:
	case d == Rerank && has.texts:
		return errors.New("texts is not served, since the engine does not say what it costs: use documents")
	case d == Embeddings && has.content && !has.input:
		return errors.New("content is not served, since the engine does not say what it costs: use input")
	}
	return nil
}

// integerFor reads how many choices, or tokens, a body asks for, as the engine reads it.
// No count comes back for null, and for what the engine refuses: its answer tells then.
func (c *cursor) integerFor(e Engine) count {
	written := string(c.value())
	if e == VLLM {
		return vllmInteger(written)
	}
	return llamaInteger(written)
}

// llamaInteger converts a value to 32 bits as llama-server does: a fraction is cut off,
// of a large integer the low bits count, and of a large fraction nothing is left.
func llamaInteger(written string) count {
	switch written {
	case "", "null":
		return count{}
	case "true":
		return count{1, true}
	case "false":
		return count{0, true}
	}
	if n, err := strconv.ParseUint(written, 10, 64); err == nil {
		return count{int64(int32(n)), true}
	}
	if n, err := strconv.ParseInt(written, 10, 64); err == nil {
		return count{int64(int32(n)), true}
	}
	f, err := strconv.ParseFloat(written, 64)
	if err != nil || f <= math.MinInt32-1 || f >= math.MaxInt32+1 {
		return count{}
	}
	return count{int64(f), true}
}

// vllmInteger reads a value as vLLM's models of requests do: also a fraction whose
// decimals are zeros, also a text that holds a number.
func vllmInteger(written string) count {
	if written == "true" {
		return count{1, true}
	}
	if len(written) > 1 && written[0] == '"' {
		written = strings.TrimSpace(unquote([]byte(written[1 : len(written)-1])))
	}
	f, err := strconv.ParseFloat(written, 64)
	if err != nil || f != math.Trunc(f) || f < 0 || f > maxTokens {
		return count{}
	}
	return count{int64(f), true}
}

// prompts counts the prompts of a completion: a list is several, unless it
// holds numbers, which are the tokens of one.
func (c *cursor) prompts() int {
	if !c.openIf('[') {
		return 1
	}
	n, numbers := 0, false
	for ; c.more(']', n == 0); n++ {
		numbers = numbers || c.peek() == '-' || c.peek()-'0' <= 9
		c.skip()
	}
	if numbers {
		return 1
	}
	return max(n, 1)
}

// skipToEnd passes a value and returns where it ends.
func (c *cursor) skipToEnd() int {
	c.skip()
	return c.i
}
