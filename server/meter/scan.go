package meter

// maxValue bounds what is kept of one value of an answer; the values that are
// read are far smaller. maxKey is room for any of their names, all escaped.
const (
	maxValue = 64 << 10
	maxKey   = 6*len(name{}) + 2
)

// jsonScanner follows an answer that is one JSON text and arrives in pieces. It keeps
// nothing but the values that are read, one at a time: those at the top, or, where the
// text is a list of results, those at the top of each. It tracks strings and depth only:
// whether the answer is well formed is for the client to find out.
type jsonScanner struct {
	depth    int
	top      int  // depth of the members that are read: 2 in a list of results
	result   bool // the value at depth top is an object
	ended    bool // there is nothing more to read
	inString bool
	escaped  bool // by the byte before

	inKey  bool // between a comma and a colon at the top
	key    []byte
	wanted string // the name of the value that is being read; "" where it is skipped
	value  []byte

	usage    usage
	timings  timings
	hasUsage bool

	choices   int  // how many the answer holds
	inChoices bool // their list is being passed
}

var structural = [256]bool{'"': true, '{': true, '}': true, '[': true, ']': true, ',': true, ':': true}

// JSON reads the next piece of an answer that is not streamed. The pieces go
// to the client as they are; the caller keeps the last one back until the
// count is recorded.
func (m *Meter) JSON(p []byte) {
	j := &m.scanner
	m.progress++
	for i := 0; i < len(p) && !j.ended; {
		if j.depth == 0 {
			j.start(p[i], m.dialect == Responses)
			i++
			continue
		}
		if j.inString {
			i = j.skipString(p, i)
			continue
		}
		from := i
		for i < len(p) && !structural[p[i]] {
			i++
		}
		j.collect(p[from:i])
		if i < len(p) {
			m.punctuation(p[i : i+1])
			i++
		}
	}
}

// start reads a byte before the text's first bracket. A text that is no object has
// nothing for us, unless it is a list of results.
func (j *jsonScanner) start(ch byte, results bool) {
	switch ch {
	case ' ', '\t', '\n', '\r':
	case '{':
		j.depth, j.top, j.result, j.inKey = 1, 1, true, true
	case '[':
		j.depth = 1
		if results {
			j.top = 2
		}
	default:
		j.ended = true
	}
}

// skipString passes the inside of a string and its closing quote.
func (j *jsonScanner) skipString(p []byte, i int) int {
	if j.escaped {
		j.escaped = false
		j.collect(p[i : i+1])
		return i + 1
	}
	end := plain(p, i)
	if end == len(p) {
		j.collect(p[i:])
		return end
	}
	j.escaped = p[end] == '\\'
	j.inString = p[end] != '"'
	j.collect(p[i : end+1])
	return end + 1
}

// punctuation reads one structural byte outside strings.
func (m *Meter) punctuation(p []byte) {
	j := &m.scanner
	top := j.depth == j.top && j.result
	switch p[0] {
	case '"':
		j.inString = true
	case '{', '[':
		j.depth++
		if j.depth == j.top { // of a list of results, the next
			j.result, j.inKey, j.key = p[0] == '{', p[0] == '{', j.key[:0]
			return
		}
		if j.inChoices && p[0] == '{' && j.depth == j.top+2 {
			j.choices++
		}
	case '}', ']':
		j.depth--
		if j.depth < j.top && j.result {
			m.endResult()
		}
		if j.depth == 0 {
			j.ended, m.done = true, true
			return
		}
	case ',':
		if top {
			m.endMember()
			j.inKey, j.key = true, j.key[:0]
			return
		}
	case ':':
		if top && j.inKey {
			j.inKey, j.wanted = false, j.wantedName()
			j.value = j.value[:0]
			return
		}
	}
	j.collect(p)
}

// collect adds bytes to the name or the value that is being read, where it is one of ours.
func (j *jsonScanner) collect(p []byte) {
	switch {
	case j.inKey:
		if j.key == nil {
			j.key = make([]byte, 0, 32)
		}
		j.key = append(j.key, p[:min(len(p), maxKey-len(j.key))]...)
	case j.wanted == "":
	case len(j.value)+len(p) > maxValue:
		j.wanted = ""
	default:
		if j.value == nil {
			j.value = make([]byte, 0, 256) // a usage is about half of that
		}
		j.value = append(j.value, p...)
	}
}

// wantedName returns the name that was just read, if its value is one of ours.
func (j *jsonScanner) wantedName() string {
	c := cursor{b: j.key}
	c.space()
	s, escaped := c.str()
	if !c.end() {
		return ""
	}
	var room name
	if escaped {
		s = room.unescape(s)
	}
	switch string(s) {
	case "usage":
		return "usage"
	case "timings":
		return "timings"
	case "model":
		return "model"
	case "error":
		return "error"
	case "meta":
		return "meta"
	case "choices":
		j.inChoices = true
	}
	return ""
}

// endMember reads the value that just ended.
func (m *Meter) endMember() {
	j := &m.scanner
	j.inChoices = false
	c := cursor{b: j.value}
	c.space()
	switch j.wanted {
	case "":
		return
	case "usage":
		var u usage
		if c.usage(&u) && c.end() {
			j.usage, j.hasUsage = u, true
		}
	case "meta":
		var u usage
		if m.dialect == Rerank && !j.hasUsage && c.meta(&u) && c.end() {
			j.usage, j.hasUsage = u, true
		}
	case "timings":
		var tm timings
		if c.timings(&tm) && c.end() {
			j.timings = tm
		}
	case "model":
		if s := c.text(); c.end() {
			m.noteModel(s)
		}
	case "error":
		if v := c.nonNull(); c.end() && v != nil {
			m.setFault(readError(0, v))
		}
	}
	j.wanted = ""
	if j.hasUsage && j.top == 1 { // again for late timings: they may hold the cached part
		m.counts.total, m.counts.totals = m.reading(&j.usage, &j.timings), 1
		m.counts.unread = !m.counts.total.prompt.ok || !m.counts.total.completion.ok
	}
}

// endResult ends the object at depth top: the answer, or one result of a list.
func (m *Meter) endResult() {
	m.endMember()
	j := &m.scanner
	j.result, j.inKey = false, false
	if j.top == 1 {
		return
	}
	if j.hasUsage {
		m.countTotal(&j.usage, &j.timings)
	} else {
		m.counts.unread = true
	}
	j.usage, j.timings, j.hasUsage = usage{}, timings{}, false
}
