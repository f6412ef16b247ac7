package meter

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// maxAnswer bounds an answer that is assembled: unlike one that streams, it is
// held whole.
const maxAnswer = 64 << 20

// assembly makes the one JSON answer of a stream that its client did not ask
// for. It joins what the engine wrote and decodes next to nothing: numbers and
// escapes leave as they came, and halves of an escaped surrogate pair that came
// in two events are whole again.
type assembly struct {
	head    []part // the members of the answer, from the first event that has choices
	last    []part // those of the first choice's last event that the answer has, too
	choices []choiceParts
	size    int
	err     error // the first thing that cannot be assembled
}

type choiceParts struct {
	index int64
	parts part // an object
}

// part is a JSON value that grows with every event that adds to it.
type part struct {
	name    []byte // as written, where it is a member; else nil
	kind    byte   // '{', '[' or '"'; 0 for what does not grow: raw is the newest
	raw     []byte // the inside of a string, or the value
	members []part // of an object; the elements of an array
}

// add takes one event in.
func (a *assembly) add(payload []byte) {
	if a.err != nil {
		return
	}
	if a.size += len(payload); a.size > maxAnswer {
		a.err = fmt.Errorf("an answer of over %d MiB", maxAnswer>>20)
		return
	}
	payload = bytes.Clone(payload) // the parts lie in it
	var choices []byte
	var last []part
	head := a.head == nil
	eachMember(payload, func(name, value []byte) {
		switch string(name) {
		case "choices":
			choices = value
		case "timings", "__verbose":
			last = append(last, part{name: name, raw: value})
			return
		case "usage", "prompt_progress", "error":
			return // of one result, or of none
		}
		if head {
			a.head = append(a.head, part{name: name, raw: value})
		}
	})
	if choices == nil {
		if head {
			a.head = nil
		}
		return
	}
	eachElement(choices, func(value []byte) {
		if index, finish := a.addChoice(value); index == 0 && finish {
			a.last = last
		}
	})
}

func (a *assembly) addChoice(value []byte) (index int64, finish bool) {
	c := cursor{b: value}
	var one chunk
	c.choice(&one)
	if one.index.n >= maxChoices {
		a.err = fmt.Errorf("an answer of over %d choices", maxChoices)
		return one.index.n, false
	}
	i, found := slices.BinarySearchFunc(a.choices, one.index.n, func(c choiceParts, index int64) int { return int(c.index - index) })
	if !found {
		a.choices = slices.Insert(a.choices, i, choiceParts{index: one.index.n, parts: part{kind: '{'}})
	}
	a.choices[i].parts.merge(value)
	return one.index.n, one.finish
}

// merge adds value to the part: texts are joined, objects member by member,
// arrays element by element where these name their index, else end to end. Of
// anything else the newest counts, but null never undoes what was there.
func (p *part) merge(value []byte) {
	kind := value[0]
	if string(value) == "null" {
		if p.kind == 0 && p.raw == nil {
			p.raw = value
		}
		return
	}
	switch {
	case kind == '{' && (p.kind == 0 || p.kind == '{'):
		p.kind = '{'
		eachMember(value, func(name, v []byte) { p.member(name).mergeMember(name, v) })
	case kind == '[' && (p.kind == 0 || p.kind == '['):
		p.kind = '['
		eachElement(value, p.mergeElement)
	case kind == '"' && (p.kind == 0 || p.kind == '"'):
		if p.kind == 0 {
			p.kind, p.raw = '"', nil
		}
		p.raw = append(p.raw, value[1:len(value)-1]...)
	default:
		*p = part{name: p.name, raw: value}
	}
}

// mergeMember adds a member's value. A label is said once, or said again.
func (p *part) mergeMember(name, value []byte) {
	switch string(name) {
	case "role", "type", "id", "name", "finish_reason", "stop_reason":
		if p.raw == nil || string(value) != "null" && string(value) != `""` {
			p.kind, p.raw = 0, value
		}
	default:
		p.merge(value)
	}
}

// mergeElement adds one element. Those of tool calls name the index of the call
// that they go on with.
func (p *part) mergeElement(value []byte) {
	index, ok := elementIndex(value)
	if ok {
		for i := range p.members {
			if string(p.members[i].name) == string(index) {
				p.members[i].merge(value)
				return
			}
		}
	}
	e := part{name: index}
	if ok {
		e.merge(value)
	} else {
		e.raw = value
	}
	p.members = append(p.members, e)
}

func elementIndex(value []byte) (index []byte, ok bool) {
	if value[0] != '{' {
		return nil, false
	}
	eachMember(value, func(name, v []byte) {
		if string(name) == "index" {
			index, ok = v, true
		}
	})
	return index, ok
}

func (p *part) member(name []byte) *part {
	for i := range p.members {
		if string(p.members[i].name) == string(name) {
			return &p.members[i]
		}
	}
	p.members = append(p.members, part{name: name})
	return &p.members[len(p.members)-1]
}

// Answer is the JSON answer of a stream that its client did not ask for. Its usage is the
// request's, not one result's; the engine's timings are the first result's, as they are
// where it answers by itself.
func (m *Meter) Answer() ([]byte, error) {
	a := &m.assembly
	switch {
	case a.err != nil:
		return nil, a.err
	case !m.done || m.fault != nil:
		return nil, errors.New("the stream was not whole")
	case a.head == nil:
		return nil, errors.New("the stream held no answer")
	}
	out := []byte{'{'}
	for i := range a.head {
		p := &a.head[i]
		out = appendName(out, p.name)
		switch string(p.name) {
		case "choices":
			out = append(out, '[')
			for i := range a.choices {
				out = appendComma(out)
				out = a.choices[i].parts.appendChoice(out)
			}
			out = append(out, ']')
		case "object":
			out = append(out, bytes.Replace(p.raw, []byte(".chunk"), nil, 1)...)
		default:
			out = append(out, p.raw...)
		}
	}
	out = m.appendUsage(appendName(out, []byte("usage")))
	for i := range a.last {
		p := &a.last[i]
		out = appendName(out, p.name)
		if string(p.name) == "__verbose" {
			out = a.appendVerbose(out, p.raw)
		} else {
			out = append(out, p.raw...)
		}
	}
	return append(out, '}'), nil
}

// appendVerbose appends what the engine tells of the first result to who wants to know: in
// a stream its text is empty, and the stream is not its client's.
func (a *assembly) appendVerbose(out, verbose []byte) []byte {
	out = append(out, '{')
	eachMember(verbose, func(name, value []byte) {
		out = appendName(out, name)
		switch string(name) {
		case "content":
			out = a.choices[0].parts.appendText(out)
		case "generation_settings":
			out = append(out, '{')
			eachMember(value, func(name, value []byte) {
				if string(name) == "stream" {
					value = []byte("false")
				}
				out = append(appendName(out, name), value...)
			})
			out = append(out, '}')
		default:
			out = append(out, value...)
		}
	})
	return append(out, '}')
}

// appendText appends the text of a choice.
func (p *part) appendText(out []byte) []byte {
	text := p.member([]byte("text"))
	if text.kind != '"' {
		text = p.member([]byte("delta")).member([]byte("content"))
	}
	if text.kind != '"' {
		return append(out, `""`...)
	}
	return text.append(out)
}

func (m *Meter) appendUsage(out []byte) []byte {
	u := m.Usage()
	for _, f := range []struct {
		before string
		n      int64
	}{
		{`{"completion_tokens":`, u.CompletionTokens}, {`,"prompt_tokens":`, u.PromptTokens},
		{`,"total_tokens":`, u.PromptTokens + u.CompletionTokens}, {`,"prompt_tokens_details":{"cached_tokens":`, u.CachedTokens},
	} {
		out = strconv.AppendInt(append(out, f.before...), f.n, 10)
	}
	return append(out, "}}"...)
}

// appendChoice writes a choice, in which a delta has become the message.
func (p *part) appendChoice(out []byte) []byte {
	out = append(out, '{')
	for i := range p.members {
		e := &p.members[i]
		if string(e.name) != "delta" {
			out = e.append(appendName(out, e.name))
			continue
		}
		out = appendName(out, []byte("message"))
		// A message without a text is null only beside what it says instead.
		calls := slices.ContainsFunc(e.members, func(p part) bool { return string(p.name) == "tool_calls" && len(p.members) > 0 })
		if text := e.member([]byte("content")); text.kind == 0 && !calls {
			text.kind, text.raw = '"', nil
		} else if text.kind == 0 {
			text.raw = []byte("null")
		}
		out = e.append(out)
	}
	return append(out, '}')
}

// append writes the part. The index of an array's element was for the stream.
func (p *part) append(out []byte) []byte {
	switch p.kind {
	case '{':
		out = append(out, '{')
		for i := range p.members {
			out = appendName(out, p.members[i].name)
			out = p.members[i].append(out)
		}
		return append(out, '}')
	case '[':
		out = append(out, '[')
		for i := range p.members {
			e := &p.members[i]
			e.members = slices.DeleteFunc(e.members, func(m part) bool { return string(m.name) == "index" })
			out = e.append(appendComma(out))
		}
		return append(out, ']')
	case '"':
		return append(append(append(out, '"'), p.raw...), '"')
	}
	return append(out, p.raw...)
}

// appendName begins a member.
func appendName(out, name []byte) []byte {
	out = append(appendComma(out), '"')
	return append(append(out, name...), '"', ':')
}

// appendComma parts an element from the one before, if there is one.
func appendComma(out []byte) []byte {
	if last := out[len(out)-1]; last != '{' && last != '[' {
		out = append(out, ',')
	}
	return out
}

// eachMember walks a well-formed object. The names are as they are written.
func eachMember(object []byte, f func(name, value []byte)) {
	c := cursor{b: object}
	c.space()
	if !c.openIf('{') {
		return
	}
	for first := true; c.more('}', first); first = false {
		name, _ := c.str()
		c.colon()
		if value := c.value(); value != nil {
			f(name, value)
		}
	}
}

// eachElement walks a well-formed array.
func eachElement(array []byte, f func(value []byte)) {
	c := cursor{b: array}
	if !c.openIf('[') {
		return
	}
	for first := true; c.more(']', first); first = false {
		if value := c.value(); value != nil {
			f(value)
		}
	}
}
