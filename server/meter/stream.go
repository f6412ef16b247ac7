package meter

import (
	"bytes"
	"errors"
)

// maxEvent is the largest event that is read, and the most that is kept of an
// unfinished one. A longer one goes through as it came, unread. The largest that engines
// send is the last of a response, which holds all of its text: so much is a million tokens.
const maxEvent = 4 << 20

// keptEvent is the largest buffer that is kept for the next event.
const keptEvent = 64 << 10

// stream is the reader of server-sent events: it finds where each event ends,
// whatever the pieces it arrives in.
type stream struct {
	limit    int
	partial  []byte // the unfinished event, all of it searched
	line     int    // bytes seen of its last line
	cr       bool   // the first of these is a carriage return
	oversize bool   // the event is over the limit: it is forwarded unread
	joined   []byte // payload of an event that has several data lines
	tail     []byte // what may leave only after the count is recorded
	finish   []byte // of vLLM, the event that waits for the next: see holdsFinish
}

// event is one event taken apart. Its payload lies in it from at on, unless it
// was joined from several lines.
type event struct {
	name    kind
	payload []byte
	at      int
	joined  bool
}

// Stream reads the next piece of a streamed answer and appends to dst what may
// go to the client now: every complete event, byte for byte less what Prepare
// had added to it. From the terminal event on nothing more is appended; see
// Tail.
func (m *Meter) Stream(dst, src []byte) []byte {
	s := &m.stream
	for len(src) > 0 {
		n, whole := s.find(src)
		part := src[:n]
		src = src[n:]
		switch {
		case s.oversize:
			dst = m.emit(dst, part)
			s.oversize = !whole
		case len(s.partial)+n > s.limit:
			dst = m.emitFinish(dst)
			dst = m.emit(dst, s.partial)
			dst = m.emit(dst, part)
			s.emptyPartial()
			s.oversize = !whole
			m.assembly.err = errors.New("an event that is too long to be read")
		case whole && len(s.partial) == 0:
			dst = m.forward(dst, part, true)
		default:
			s.partial = append(s.partial, part...)
			if !whole && s.partial[0] != ':' {
				m.progress++ // of a long event
			}
			if whole {
				dst = m.forward(dst, s.partial, true)
				s.emptyPartial()
			}
		}
	}
	return dst
}

// emptyPartial is for an event that was forwarded. What a large one took is not kept.
func (s *stream) emptyPartial() {
	s.partial = s.partial[:0]
	if cap(s.partial) > keptEvent {
		s.partial = nil
	}
	if cap(s.joined) > keptEvent {
		s.joined = nil
	}
}

// Close ends the stream and appends to dst what is left of it. An event that
// lacks only its blank line is still read; half a one is forwarded as it is.
func (m *Meter) Close(dst []byte) []byte {
	s := &m.stream
	if len(s.partial) > 0 {
		dst = m.forward(dst, s.partial, false)
		s.emptyPartial()
	}
	dst = m.emitFinish(dst)
	m.done = m.done || m.lastSeen
	return dst
}

// Tail is what the client must still be sent once the count is recorded: the
// terminal event and all that followed it. It is valid until the next call of
// Stream or Close, and empty where no terminal event was seen.
func (m *Meter) Tail() []byte { return m.stream.tail }

// find returns how many bytes of src belong to the event being read, and
// whether they complete it.
func (s *stream) find(src []byte) (n int, whole bool) {
	for n < len(src) {
		end := bytes.IndexByte(src[n:], '\n')
		if end < 0 {
			s.noteLine(src[n:])
			return len(src), false
		}
		s.noteLine(src[n : n+end])
		n += end + 1
		blank := s.line == 0 || s.line == 1 && s.cr
		s.line = 0
		if blank {
			return n, true
		}
	}
	return n, false
}

// noteLine notes more of the current line.
func (s *stream) noteLine(p []byte) {
	if s.line == 0 && len(p) > 0 {
		s.cr = p[0] == '\r'
	}
	s.line += len(p)
}

// emit appends p to what leaves now, or to what is held once the answer is
// done. After its end an engine sends next to nothing: beyond a second event's
// worth, it is dropped.
func (m *Meter) emit(dst, p []byte) []byte {
	if !m.inTail() {
		return append(dst, p...)
	}
	s := &m.stream
	s.tail = append(s.tail, p[:min(len(p), 2*s.limit-len(s.tail))]...)
	return dst
}

// forward reads an event and emits it. whole is false for one that the end of
// the stream cut off: it counts only where its payload is complete.
func (m *Meter) forward(dst, ev []byte, whole bool) []byte {
	e := m.stream.parse(ev)
	if len(e.payload) > 0 {
		m.progress++
	}
	if string(bytes.TrimSpace(e.payload)) == "[DONE]" {
		dst = m.emitFinish(dst)
		m.sawDone = m.sawDone || !m.done
		m.done = true
		if t := &m.counts; (m.dialect == Chat || m.dialect == Completions) && !m.finished && t.totals == 0 && t.finals == 0 {
			m.setFault(Fault{Message: "the engine ended its answer without finishing it", Type: "server_error"})
		}
		return m.emit(dst, ev)
	}
	var ch chunk
	read := ch.read(e.payload)
	if !read {
		ch = chunk{}
	}
	k := max(e.name, ch.kind)
	m.lastSeen = m.lastSeen || k == kindDone
	hides := read && !m.ask.assembled && m.hidesEvent(&ch)
	if hides && len(m.stream.finish) > 0 {
		m.restoreMembers(bytes.Clone(e.payload))
	}
	if len(m.stream.finish) > 0 {
		dst = m.emitFinish(dst)
	}
	if read || whole {
		m.finish(k, ch.error, e.payload)
	}
	if !read {
		return m.emit(dst, ev)
	}
	m.noteModel(ch.model)
	m.count(&ch, k)
	if m.ask.assembled {
		m.assembly.add(e.payload)
		return dst
	}
	if hides {
		return m.emitComments(dst, ev)
	}
	m.events++
	if m.holdsFinish(&ch) && !e.joined {
		m.stream.finish = m.emitWithoutHidden(m.stream.finish[:0], ev, e.at, &ch)
		return dst
	}
	switch {
	case m.dialect == Responses:
		return m.emitResponse(dst, ev, &e, &ch)
	case ch.nInjected == 0 || e.joined:
		return m.emit(dst, ev)
	}
	return m.emitWithoutHidden(dst, ev, e.at, &ch)
}

// finish notes that the answer is done, if this event says so.
func (m *Meter) finish(k kind, err, payload []byte) {
	if err == nil && !k.terminal() {
		return
	}
	if m.ended++; m.dialect != Responses || m.ended >= m.ask.N || err != nil || k == kindError {
		m.done = true
	}
	switch {
	case err != nil:
		m.setFault(readError(0, err))
	case k == kindFailed || k == kindError:
		m.setFault(OpenAIError(0, payload))
	}
}

// parse takes an event apart.
func (s *stream) parse(ev []byte) event {
	var e event
	lines := 0
	for at := 0; at < len(ev); {
		line := ev[at:]
		next := len(ev)
		if end := bytes.IndexByte(line, '\n'); end >= 0 {
			line, next = line[:end], at+end+1
		}
		line = bytes.TrimSuffix(line, []byte("\r"))
		if value, ok := lineValue(line, "data:"); ok {
			lines++
			if lines == 1 {
				e.payload, e.at = value, at+len(line)-len(value)
			} else {
				if lines == 2 {
					s.joined = append(s.joined[:0], e.payload...)
				}
				s.joined = append(append(s.joined, '\n'), value...)
				e.payload, e.joined = s.joined, true
			}
		} else if value, ok := lineValue(line, "event:"); ok {
			e.name = kindOf(value)
		}
		at = next
	}
	return e
}

// lineValue returns what follows the field and one space.
func lineValue(line []byte, field string) ([]byte, bool) {
	if len(line) < len(field) || string(line[:len(field)]) != field {
		return nil, false
	}
	line = line[len(field):]
	if len(line) > 0 && line[0] == ' ' {
		line = line[1:]
	}
	return line, true
}
