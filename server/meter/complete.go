package meter

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
)

// In the stream of a response, as OpenAI defines it, each event has a number and names the
// output item and the content part that it belongs to. llama-server (seen on build 11669)
// writes none of that, and openai for Node and ai cannot read the stream without it. So
// it is added on the way through. What the engine wrote stays as it is, byte for byte: an
// addition goes between two members, or two events.

// maxItems bounds the output items that an answer can make us keep, maxID an id. The
// engine's have some forty bytes.
const (
	maxItems = 4096
	maxID    = 256
)

// completion is what is known of a response's stream, and of what is added to it.
type completion struct {
	on      bool
	created int64  // when the response was asked for, in Unix seconds
	id      []byte // the response's, as it is written: the engine's own, or ours: see begin
	begun   bool   // it is ours

	next int // the number of the next event
	held int // how many events of the tail have a number beyond it

	items []item // in the order in which the engine added them

	edits []eventEdit // of the event that is emitted
	text  []byte      // what they add
}

// item is an output item: a message, thoughts, or the call of a tool.
type item struct {
	id    []byte // as it is written
	index int64  // its output_index
	parts int64  // how many content parts it has
}

// eventEdit replaces ev[from:to] of an event by text.
type eventEdit struct {
	from, to int
	text     []byte
}

// Complete makes the meter add what llama-server leaves out of the stream of a response
// and OpenAI's clients need: sequence_number, output_index and content_index in each
// event, the members of a response that has begun, and the event that announces the
// part which holds thoughts. created is when the response was asked for, in Unix seconds.
// Other dialects and vLLM's streams stay as they are. Call it before the first Stream.
func (m *Meter) Complete(created int64) {
	m.completion.created = created
	m.completion.on = m.dialect == Responses && m.engine == LlamaServer && !m.ask.assembled
}

// NextSequence takes the next sequence_number of a response's stream, for an event of
// ours. Events of the engine's that the meter completes are numbered by the same counter,
// and those that have a number set it. An event of ours that ends the stream takes the
// place of what Tail holds, and so the number.
func (m *Meter) NextSequence() int {
	n := m.completion.next
	m.completion.next++
	return n
}

// ResponseID is the id of the response as its client knows it, for an event of ours that
// ends it; "" where no event has said it yet.
func (m *Meter) ResponseID() string { return unquote(m.completion.id) }

// number takes the number of an event of the engine's.
func (c *completion) number(tail bool) int {
	n := c.next + c.held
	if tail {
		c.held++
	} else {
		c.next++
	}
	return n
}

// inTail reports whether what is emitted now goes to the tail.
func (m *Meter) inTail() bool { return m.done || m.lastSeen }

// responseEvent is what an event of a response's stream says of its place. Its slices
// and offsets lie in the payload.
type responseEvent struct {
	kind         []byte // the value of type
	kindEnd      int    // where that ends
	itemID       []byte // of item_id
	item         []byte // the id in item
	sequence     position
	outputIndex  position
	contentIndex position

	id           []byte // the response's
	idFrom, idTo int    // where that stands, with its quotes
	response     responseMembers
}

// responseMembers are those of a response that it must have when it has begun.
type responseMembers struct{ created, model, output bool }

// position is a number or an index that an event may have.
type position struct {
	count
	there bool // whatever its value
}

// read takes a payload that chunk.read found well formed into a zero responseEvent.
func (e *responseEvent) read(payload []byte) {
	c := cursor{b: payload}
	c.space()
	c.open('{')
	var room name
	for first := true; c.more('}', first); first = false {
		switch string(c.key(&room)) {
		case "type":
			e.kind = c.text()
			e.kindEnd = c.i
		case "item_id":
			e.itemID = c.text()
		case "item":
			c.item(e)
		case "sequence_number":
			e.sequence = position{c.tokens(), true}
		case "output_index":
			e.outputIndex = position{c.tokens(), true}
		case "content_index":
			e.contentIndex = position{c.tokens(), true}
		case "response":
			c.response(e)
		default:
			c.skip()
		}
	}
}

func (c *cursor) item(e *responseEvent) {
	if !c.openIf('{') {
		return
	}
	var room name
	for first := true; c.more('}', first); first = false {
		if string(c.key(&room)) == "id" {
			e.item = c.text()
		} else {
			c.skip()
		}
	}
}

func (c *cursor) response(e *responseEvent) {
	if !c.openIf('{') {
		return
	}
	r := &e.response
	var room name
	for first := true; c.more('}', first); first = false {
		switch string(c.key(&room)) {
		case "id":
			e.idFrom = c.i
			e.id = c.text()
			e.idTo = c.i
			continue
		case "created_at":
			r.created = true
		case "model":
			r.model = true
		case "output":
			r.output = true
		}
		c.skip()
	}
}

// inPart reports whether events of the kind belong to a content part.
func inPart(kind []byte) bool {
	for _, prefix := range []string{"response.content_part.", "response.output_text.", "response.reasoning_text.", "response.refusal."} {
		if len(kind) > len(prefix) && string(kind[:len(prefix)]) == prefix {
			return true
		}
	}
	return false
}

// place notes the item or the part that the event adds, and returns the item that the
// event belongs to: nil where the engine has added none with that id.
//
// An event names its item by item_id, or holds it. Items have their output_index in the
// order of response.output_item.added, which is also their order in the response at the
// end; that they end in another order, and that events of two items mix, changes nothing.
// A part of an item has no name: an event belongs to the newest that
// response.content_part.added announced.
func (m *Meter) place(e *responseEvent) *item {
	id := e.itemID
	if id == nil {
		id = e.item
	}
	if id == nil {
		return nil
	}
	i := m.completion.find(id)
	switch string(e.kind) {
	case "response.output_item.added":
		if i == nil {
			i = m.completion.add(id)
		}
		if i != nil && e.outputIndex.ok {
			i.index = e.outputIndex.n
		}
	case "response.content_part.added":
		if i != nil {
			i.parts++
			if e.contentIndex.ok {
				i.parts = e.contentIndex.n + 1
			}
		}
	}
	return i
}

// find returns the item with the id. Events are mostly of the newest.
func (c *completion) find(id []byte) *item {
	for n := len(c.items) - 1; n >= 0; n-- {
		if bytes.Equal(c.items[n].id, id) {
			return &c.items[n]
		}
	}
	return nil
}

func (c *completion) add(id []byte) *item {
	if len(c.items) == maxItems || len(id) > maxID {
		return nil
	}
	next := int64(0)
	if n := len(c.items); n > 0 {
		next = c.items[n-1].index + 1
	}
	c.items = append(c.items, item{id: bytes.Clone(id), index: next})
	return &c.items[len(c.items)-1]
}

// emitResponse emits an event of a response's stream, with what it lacks where that is
// to be added. One whose payload was joined from several lines leaves as it came.
func (m *Meter) emitResponse(dst, ev []byte, e *event, ch *chunk) []byte {
	c := &m.completion
	var re responseEvent
	re.read(e.payload)
	if re.sequence.ok && !m.inTail() {
		c.next = int(re.sequence.n) + 1
	}
	if c.id == nil && re.id != nil && len(re.id) <= maxID {
		c.id = bytes.Clone(re.id)
	}
	var in *item
	if c.on {
		in = m.place(&re)
	}
	if e.joined {
		return m.emit(dst, ev)
	}
	c.edits, c.text = c.edits[:0], c.text[:0]
	if c.on && re.kind != nil {
		dst = m.emitPart(dst, &re, in)
		m.addPlace(e.at, &re, in)
	}
	m.addResponse(e.at, &re)
	m.addCuts(ev, e.at, ch)
	// Stable: what is added behind a member comes before the cut that begins there.
	slices.SortStableFunc(c.edits, func(a, b eventEdit) int { return a.from - b.from })
	done := 0
	for _, e := range c.edits {
		dst = m.emit(dst, ev[done:e.from])
		dst = m.emit(dst, e.text)
		done = e.to
	}
	return m.emit(dst, ev[done:])
}

// addCuts adds the edits that cut hidden members out: see emitWithoutHidden.
func (m *Meter) addCuts(ev []byte, off int, ch *chunk) {
	first := firstMember(ev, off)
	for _, c := range ch.injected[:ch.nInjected] {
		if m.hidesMember(ch, c.what) {
			var e eventEdit
			e.from, e.to, first = cut(ev, off+c.at, off+c.to, first)
			m.completion.edits = append(m.completion.edits, e)
		}
	}
}

// emitPart emits the event that announces a part of thoughts, before the first of them:
// llama-server announces the parts of messages only.
func (m *Meter) emitPart(dst []byte, re *responseEvent, in *item) []byte {
	if in == nil || in.parts > 0 || re.contentIndex.there || string(re.kind) != "response.reasoning_text.delta" {
		return dst
	}
	in.parts = 1
	c := &m.completion
	c.text = append(c.text, "event: response.content_part.added\ndata: {\"type\":\"response.content_part.added\""...)
	c.text = appendIndex(c.text, `,"sequence_number":`, int64(c.number(m.inTail())))
	c.text = appendIndex(c.text, `,"output_index":`, in.index)
	c.text = append(append(c.text, `,"content_index":0,"item_id":"`...), in.id...)
	c.text = append(c.text, "\",\"part\":{\"type\":\"reasoning_text\",\"text\":\"\"}}\n\n"...)
	dst = m.emit(dst, c.text)
	c.text = c.text[:0]
	return dst
}

// addPlace adds the event's number and its place, behind its type.
func (m *Meter) addPlace(off int, re *responseEvent, in *item) {
	c := &m.completion
	from := len(c.text)
	if !re.sequence.there {
		c.text = appendIndex(c.text, `,"sequence_number":`, int64(c.number(m.inTail())))
	}
	if in != nil && !re.outputIndex.there {
		c.text = appendIndex(c.text, `,"output_index":`, in.index)
	}
	if in != nil && !re.contentIndex.there && inPart(re.kind) {
		c.text = appendIndex(c.text, `,"content_index":`, max(in.parts-1, 0))
	}
	c.insert(off+re.kindEnd, from)
}

// addResponse gives a response the id of begin, and one that has begun its members.
func (m *Meter) addResponse(off int, re *responseEvent) {
	c := &m.completion
	if re.id == nil {
		return
	}
	if c.begun {
		c.edits = append(c.edits, eventEdit{off + re.idFrom + 1, off + re.idTo - 1, c.id})
	}
	switch string(re.kind) {
	case "response.created", "response.in_progress":
		if c.on {
			from := len(c.text)
			c.text = m.appendBegun(c.text, &re.response)
			c.insert(off+re.idTo, from)
		}
	}
}

// appendBegun appends the members that a response lacks which has begun. The model is
// the one that was asked for: the engine says only at the end what it is.
func (m *Meter) appendBegun(out []byte, has *responseMembers) []byte {
	if !has.created {
		out = appendIndex(out, `,"created_at":`, m.completion.created)
	}
	if !has.model {
		out = appendString(append(out, `,"model":`...), m.ask.Model)
	}
	if !has.output {
		out = append(out, `,"output":[]`...)
	}
	return out
}

// insert adds text[from:], if there is any, as an edit.
func (c *completion) insert(at, from int) {
	if text := c.text[from:]; len(text) > 0 {
		c.edits = append(c.edits, eventEdit{at, at, text})
	}
}

func appendIndex(out []byte, name string, n int64) []byte {
	return strconv.AppendInt(append(out, name...), n, 10)
}

// appendString appends a JSON string.
func appendString(out []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil {
		panic("BUG: a text that is not JSON: " + err.Error())
	}
	return append(out, quoted...)
}
