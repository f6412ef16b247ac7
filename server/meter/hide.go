package meter

import "bytes"

// hidesEvent reports whether the whole event is there only because Prepare asked
// for it.
func (m *Meter) hidesEvent(ch *chunk) bool {
	if m.ask.hideProgress && ch.hasProgress && !ch.content && !ch.hasUsage && ch.error == nil {
		return true
	}
	return m.ask.hideUsage && ch.hasUsage && ch.choices && ch.empty && ch.error == nil
}

// hidesMember reports whether Prepare asked for the member. llama-server puts timings
// on the last chunk of a result by itself, so there they stay.
func (m *Meter) hidesMember(ch *chunk, what injection) bool {
	switch what {
	case injectedUsage:
		return m.ask.hideChunkUsage && ch.choices && !ch.empty
	case injectedTimings:
		return m.ask.hideTimings && !ch.hasUsage && !ch.finish
	}
	return false
}

// emitComments emits an event that is hidden: its comments, if it has any.
func (m *Meter) emitComments(dst, ev []byte) []byte {
	any := false
	for line := range bytes.Lines(ev) {
		if line[0] == ':' {
			any = true
			dst = m.emit(dst, line)
		}
	}
	if any {
		dst = m.emit(dst, []byte("\n"))
	}
	return dst
}

// emitWithoutHidden emits an event whose payload begins at off, without the members
// that are hidden.
func (m *Meter) emitWithoutHidden(dst, ev []byte, off int, ch *chunk) []byte {
	done := 0
	first := firstMember(ev, off)
	for _, c := range ch.injected[:ch.nInjected] {
		if !m.hidesMember(ch, c.what) {
			continue
		}
		var from, to int
		from, to, first = cut(ev, off+c.at, off+c.to, first)
		dst = m.emit(dst, ev[done:from])
		done = to
	}
	return m.emit(dst, ev[done:])
}

// firstMember returns where the members of the payload at off begin.
func firstMember(ev []byte, off int) int { return off + bytes.IndexByte(ev[off:], '{') + 1 }

// cut returns what is to be cut with the member ev[from:to]: the comma that it leaves
// over, too. first is where the first member begins, and is returned as it is after the
// cut.
func cut(ev []byte, from, to, first int) (cutFrom, cutTo, newFirst int) {
	// With no member left before it, a member takes the comma after it.
	if skipSpace(ev, first) == from {
		if next := skipSpace(ev, to); ev[next] == ',' {
			to = next + 1
		}
		return from, to, to
	}
	for from--; ev[from] != ','; from-- {
	}
	return from, to, first
}

func skipSpace(b []byte, i int) int {
	c := cursor{b: b, i: i}
	c.space()
	return c.i
}

// holdsFinish reports whether the event waits for the next one. vLLM puts some members of
// an answer (system_fingerprint, metrics) on its last chunk, which is the one with the
// finish_reason for a client that asks for no usage, and the usage chunk for us.
func (m *Meter) holdsFinish(ch *chunk) bool {
	return m.engine == VLLM && m.ask.hideUsage && ch.choices && !ch.empty && ch.finish && !m.inTail()
}

// emitFinish emits the chunk that waits, if one does.
func (m *Meter) emitFinish(dst []byte) []byte {
	s := &m.stream
	if len(s.finish) > 0 {
		dst = m.emit(dst, s.finish)
		s.finish = s.finish[:0]
	}
	return dst
}

// restoreMembers gives the chunk that waits those members of the usage chunk that it lacks.
func (m *Meter) restoreMembers(usageChunk []byte) {
	s := &m.stream
	if len(s.finish) == 0 {
		return
	}
	e := s.parse(s.finish)
	if e.joined {
		return
	}
	var add []byte
	eachMember(usageChunk, func(name, value []byte) {
		has := string(name) == "usage" || string(value) == "null"
		eachMember(e.payload, func(n, _ []byte) { has = has || bytes.Equal(n, name) })
		if !has {
			add = append(append(append(append(add, `,"`...), name...), `":`...), value...)
		}
	})
	if add != nil {
		at := e.at + bytes.LastIndexByte(e.payload, '}')
		s.finish = append(s.finish[:at:at], append(add, s.finish[at:]...)...)
	}
}
