package meter

import "slices"

// rewrite plans the changes to one request body. It splices: a body may hold
// megabytes of images, and numbers and escapes must reach the engine as the
// client wrote them.
type rewrite struct {
	body []byte

	// The last members of these names.
	stream, options   member // stream, stream_options
	timings, progress member // timings_per_token, return_progress

	verbose bool // the client asked to see how the engine understood the request

	edits      []edit
	duplicates []edit // members that a later one of the same name overrides
}

// edit replaces body[from:to].
type edit struct {
	from, to int
	with     string
}

func (m member) present() bool { return m.to > 0 }

// note remembers a member, and that it overrides the one noted before.
func (r *rewrite) note(last *member, m member) {
	if last.present() {
		comma := skipSpace(r.body, last.to)
		r.duplicates = append(r.duplicates, edit{from: last.at, to: skipSpace(r.body, comma+1)})
	}
	*last = m
}

// apply adds what makes the engine count a stream as it goes, and notes in the
// Ask what the client did not ask for. Where a member that we would set holds
// something that is not even of its type, the whole body is left for the
// engine to refuse.
func (r *rewrite) apply(d Dialect, e Engine, ask Ask) (Ask, []byte) {
	plan := ask
	var add []string
	if !ask.Stream {
		if _, ok := r.setTrue(r.stream, `"stream":true`, &add); !ok {
			return ask, r.body
		}
		plan.assembled = true
	}
	switch {
	case d != Chat && d != Completions:
	case e == LlamaServer: // its final timings, which come unasked, hold the counts
		plan.hideUsage = !r.asksUsage()
	case !r.setOptions(&plan, &add):
		return ask, r.body
	}
	if r.verbose { // the engine would show what we ask for
		r.insert(skipSpace(r.body, 0), add)
		return plan, r.splice()
	}
	if e == LlamaServer && (d == Chat || d == Completions || d == Responses) {
		asked, ok := r.setTrue(r.timings, `"timings_per_token":true`, &add)
		if !ok {
			return ask, r.body
		}
		plan.hideTimings = !asked
	}
	// During a prefill it tells how long the prompt is, and that the engine is
	// at work. In the Responses dialect it would repeat events that are not ours.
	if e == LlamaServer && (d == Chat || d == Completions) {
		asked, ok := r.setTrue(r.progress, `"return_progress":true`, &add)
		if !ok {
			return ask, r.body
		}
		plan.hideProgress = !asked
	}
	r.insert(skipSpace(r.body, 0), add)
	return plan, r.splice()
}

// asksUsage reports whether the client asks for usage at the end of its stream.
func (r *rewrite) asksUsage() (asks bool) {
	c := cursor{b: r.body, i: r.options.from}
	if !r.options.present() || !c.openIf('{') {
		return false
	}
	var room name
	for first := true; c.more('}', first); first = false {
		if string(c.key(&room)) == "include_usage" {
			asks = string(c.value()) == "true"
		} else {
			c.skip()
		}
	}
	return asks
}

// setOptions makes stream_options ask for usage, at the end and on every chunk.
func (r *rewrite) setOptions(ask *Ask, add *[]string) bool {
	const all = `{"include_usage":true,"continuous_usage_stats":true}`
	ask.hideUsage, ask.hideChunkUsage = true, true
	m := r.options
	if !m.present() {
		*add = append(*add, `"stream_options":`+all)
		return true
	}
	c := cursor{b: r.body, i: m.from}
	switch c.peek() {
	case 'n':
		r.edits = append(r.edits, edit{m.from, m.to, all})
		return true
	case '{':
	default:
		return false
	}
	var include, continuous member
	var room name
	c.open('{')
	for first := true; c.more('}', first); first = false {
		key, m := c.key(&room), member{at: c.at, from: c.i}
		m.to = c.skipToEnd()
		switch string(key) {
		case "include_usage":
			r.note(&include, m)
		case "continuous_usage_stats":
			r.note(&continuous, m)
		}
	}
	var addHere []string
	asked, ok := r.setTrue(include, `"include_usage":true`, &addHere)
	ask.hideUsage = !asked
	if ok {
		asked, ok = r.setTrue(continuous, `"continuous_usage_stats":true`, &addHere)
		// Without include_usage vLLM ignores it, and so must we.
		ask.hideChunkUsage = ask.hideUsage || !asked
	}
	r.insert(m.from, addHere)
	return ok
}

// setTrue makes a boolean member true, or adds it as it is given. asked is
// whether the client had set it; ok is false where it holds no boolean.
func (r *rewrite) setTrue(m member, whole string, add *[]string) (asked, ok bool) {
	if !m.present() {
		*add = append(*add, whole)
		return false, true
	}
	switch string(r.body[m.from:m.to]) {
	case "true":
		return true, true
	case "false", "null":
		r.edits = append(r.edits, edit{m.from, m.to, "true"})
		return false, true
	}
	return false, false
}

// insert puts members first in the object whose brace is at brace.
func (r *rewrite) insert(brace int, members []string) {
	empty := r.body[skipSpace(r.body, brace+1)] == '}'
	for i, m := range members {
		if i < len(members)-1 || !empty {
			m += ","
		}
		r.edits = append(r.edits, edit{brace + 1, brace + 1, m})
	}
}

// splice carries the edits out. Overridden members go too then, so that what
// we set is named once.
func (r *rewrite) splice() []byte {
	if len(r.edits) == 0 {
		return r.body
	}
	edits := append(r.edits, r.duplicates...)
	slices.SortStableFunc(edits, func(a, b edit) int { return a.from - b.from })
	size := len(r.body)
	for _, e := range edits {
		size += len(e.with)
	}
	out := make([]byte, 0, size)
	at := 0
	for _, e := range edits {
		out = append(out, r.body[at:e.from]...)
		out = append(out, e.with...)
		at = e.to
	}
	return append(out, r.body[at:]...)
}
