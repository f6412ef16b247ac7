// Package meter reads what an answer cost out of the answer itself, while it
// is being copied. It knows the dialects that a client speaks, how the two
// engines write usage into each, and what must be asked of an engine so that
// an answer cut short is counted too. It refuses to know connections, time,
// keys and the ledger's file: bytes go in, bytes and a [ledger.Usage] come
// out, and nothing here does I/O or keeps an answer.
//
// A streamed answer:
//
//	ask, body, err := meter.Prepare(meter.Chat, meter.LlamaServer, body)
//	m := meter.New(meter.Chat, meter.LlamaServer, ask)
//	for each piece read from the engine {
//		buf = m.Stream(buf[:0], piece) // write buf to the client
//	}
//	buf = m.Close(buf[:0]) // at the end of the stream, however it ended
//	// record m.Usage(), and only then:
//	write(m.Tail())
package meter

import (
	"bytes"
	"encoding/json"

	"spotinference/ledger"
)

// Dialect is the API that a request was made in.
type Dialect uint8

const (
	Chat Dialect = iota
	Completions
	Responses
	Messages // Anthropic's
	Embeddings
	Rerank
	Transcriptions
	Translations
	Speech
)

// String is the ledger's word for the endpoint.
func (d Dialect) String() string {
	switch d {
	case Chat:
		return "chat"
	case Completions:
		return "completions"
	case Responses:
		return "responses"
	case Messages:
		return "messages"
	case Embeddings:
		return "embeddings"
	case Rerank:
		return "rerank"
	case Transcriptions:
		return "transcriptions"
	case Translations:
		return "translations"
	case Speech:
		return "speech"
	}
	return "unknown"
}

// Engine is the program that answers: it decides what to ask for and how to read it.
type Engine uint8

const (
	LlamaServer Engine = iota
	VLLM
)

// Meter counts one answer. It is owned by the goroutine that copies the
// answer and is not safe for any other.
type Meter struct {
	dialect Dialect
	engine  Engine
	ask     Ask

	counts   counts
	progress int64
	events   int64 // see Events
	model    string
	fault    *Fault
	done     bool // the terminal event, or the end of the JSON body, was seen
	sawDone  bool // that event was [DONE]: every choice has ended
	finished bool // a choice had its finish_reason
	lastSeen bool // the last event is here, and [DONE] may follow
	opaque   bool

	stream     stream
	scanner    jsonScanner
	assembly   assembly   // of an Ask.Assembled
	completion completion // of the stream of a response
}

// New returns the meter of one answer to the request that ask came from.
func New(d Dialect, e Engine, ask Ask) *Meter {
	ask.N, ask.Prompts = max(ask.N, 1), max(ask.Prompts, 1)
	return &Meter{dialect: d, engine: e, ask: ask, stream: stream{limit: maxEvent}}
}

// Dialect is that of the request.
func (m *Meter) Dialect() Dialect { return m.dialect }

// Usage is the count so far. Until Exact it is a lower bound.
func (m *Meter) Usage() ledger.Usage {
	u := m.counts.running(m.group())
	t := m.counts.total
	if m.Exact() && t.completion.ok {
		u = ledger.Usage{PromptTokens: t.prompt.n, CachedTokens: t.cached.n, CompletionTokens: t.completion.n}
	} else {
		if t.prompt.n > u.PromptTokens {
			u.PromptTokens, u.CachedTokens = t.prompt.n, t.cached.n
		}
		u.CompletionTokens = max(u.CompletionTokens, t.completion.n)
	}
	u.CachedTokens = min(u.CachedTokens, u.PromptTokens)
	return u
}

// Exact reports whether the engine's final usage was seen, so that Usage is
// its last word and not a lower bound.
func (m *Meter) Exact() bool {
	t := &m.counts
	if m.engine == VLLM || m.dialect != Chat && m.dialect != Completions {
		return t.total.prompt.ok && t.total.completion.ok
	}
	finals := max(t.totals, t.finals)
	if t.unread || finals == 0 {
		return false
	}
	// llama-server has a final usage for each choice of each prompt. Without a
	// stream it reports the first result's alone, which is why Prepare asks for
	// one where there are several.
	return finals >= m.ask.N*m.ask.Prompts || m.sawDone
}

// Opaque tells that the answer is in no form that is read: sound, or a text. Only
// its end is looked for.
func (m *Meter) Opaque() { m.opaque, m.scanner.ended = true, true }

// End tells that an answer that is not streamed was read to its end.
func (m *Meter) End() { m.done = m.done || m.opaque }

// Done reports whether the answer is whole: its terminal event was seen, or
// the end of its JSON body.
func (m *Meter) Done() bool { return m.done }

// Progress counts what was read of the answer, but for comments: an engine sends
// those also where it has stopped making one.
func (m *Meter) Progress() int64 { return m.progress }

// Failed reports whether the engine said that it failed, within an answer that
// had begun well, and what it said. An end that means nothing is a failure too:
// vLLM writes [DONE] whatever went before.
func (m *Meter) Failed() (msg string, failed bool) {
	if m.fault == nil {
		return "", false
	}
	return m.fault.Message, true
}

// Fault is the failure that Failed reports in OpenAI's words; the zero Fault
// where there is none.
func (m *Meter) Fault() Fault {
	if m.fault == nil {
		return Fault{}
	}
	return *m.fault
}

// Model is the model that the engine says it is; "" where it has not said.
func (m *Meter) Model() string { return m.model }

// group is how many choices in a row share one prompt.
func (m *Meter) group() int {
	if m.dialect == Completions {
		return m.ask.N
	}
	return maxChoices
}

func (m *Meter) noteModel(raw []byte) {
	if m.model == "" && len(raw) > 0 {
		m.model = unquote(raw)
	}
}

// setFault keeps the first failure; what follows is its consequence.
func (m *Meter) setFault(f Fault) {
	if m.fault == nil {
		m.fault = &f
	}
}

// unquote decodes the inside of a JSON string.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	quoted := make([]byte, 0, len(raw)+2)
	quoted = append(append(append(quoted, '"'), raw...), '"')
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return ""
	}
	return s
}
