package meter

// maxValue bounds what is kept of one value of an answer; the values that are
// read are far smaller. maxKey is room for any of their names, all escaped.
const (
	maxValue = 64 << 10
	maxKey   = 6*len(name{}) + 2
)

// tap follows an answer that is one JSON text and arrives in pieces. It keeps
// nothing but the top-level values that are read, one at a time. It tracks
// strings and depth only: whether the answer is well formed is for the client
// to find out.
type tap struct {
	depth    int
	object   bool // the text is an object
	ended    bool // there is nothing more to read
	inString bool
	escaped  bool // by the byte before

	inKey  bool // between a comma and a colon at the top
	key    []byte
	wanted string // the name of the value at hand; "" where nobody reads it
	value  []byte

	usage    usage
	timings  timings
	hasUsage bool
}

var structural = [256]bool{'"': true, '{': true, '}': true, '[': true, ']': true, ',': true, ':': true}

// JSON reads the next piece of an answer that is not streamed. The pieces go
// to the client as they are; the caller keeps the last one back until the
// count is recorded.
func (m *Meter) JSON(p []byte) {
	t := &m.tap
	m.progress++
	for i := 0; i < len(p) && !t.ended; {
		if t.depth == 0 {
			t.begin(p[i])
			i++
			continue
		}
		if t.inString {
			i = t.string(p, i)
			continue
		}
		from := i
		for i < len(p) && !structural[p[i]] {
			i++
		}
		t.keep(p[from:i])
		if i < len(p) {
			m.punctuation(p[i : i+1])
			i++
		}
	}
}

// begin reads a byte before the text's first bracket. A text that is no object
// has nothing for us.
func (t *tap) begin(ch byte) {
	switch ch {
	case ' ', '\t', '\n', '\r':
	case '{', '[':
		t.depth, t.object, t.inKey = 1, ch == '{', ch == '{'
	default:
		t.ended = true
	}
}

// string passes the inside of a string and its closing quote.
func (t *tap) string(p []byte, i int) int {
	if t.escaped {
		t.escaped = false
		t.keep(p[i : i+1])
		return i + 1
	}
	end := plain(p, i)
	if end == len(p) {
		t.keep(p[i:])
		return end
	}
	t.escaped = p[end] == '\\'
	t.inString = p[end] != '"'
	t.keep(p[i : end+1])
	return end + 1
}

// punctuation reads one structural byte outside strings.
func (m *Meter) punctuation(p []byte) {
	t := &m.tap
	top := t.depth == 1 && t.object
	switch p[0] {
	case '"':
		t.inString = true
	case '{', '[':
		t.depth++
	case '}', ']':
		t.depth--
		if t.depth == 0 {
			m.member()
			t.ended, m.done = true, true
			return
		}
	case ',':
		if top {
			m.member()
			t.inKey, t.key = true, t.key[:0]
			return
		}
	case ':':
		if top && t.inKey {
			t.inKey, t.wanted = false, t.reads()
			t.value = t.value[:0]
			return
		}
	}
	t.keep(p)
}

// keep adds bytes to the name or the value at hand, where it is one of ours.
func (t *tap) keep(p []byte) {
	switch {
	case t.inKey:
		if t.key == nil {
			t.key = make([]byte, 0, 32)
		}
		t.key = append(t.key, p[:min(len(p), maxKey-len(t.key))]...)
	case t.wanted == "":
	case len(t.value)+len(p) > maxValue:
		t.wanted = ""
	default:
		if t.value == nil {
			t.value = make([]byte, 0, 256) // a usage is about half of that
		}
		t.value = append(t.value, p...)
	}
}

// reads returns the name that was just read, if its value is one of ours.
func (t *tap) reads() string {
	c := cursor{b: t.key}
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
	}
	return ""
}

// member reads the value that just ended.
func (m *Meter) member() {
	t := &m.tap
	c := cursor{b: t.value}
	c.space()
	switch t.wanted {
	case "":
		return
	case "usage":
		var u usage
		if c.usage(&u) && c.end() {
			t.usage, t.hasUsage = u, true
		}
	case "timings":
		var tm timings
		if c.timings(&tm) && c.end() {
			t.timings = tm
		}
	case "model":
		if s := c.text(); c.end() {
			m.sawModel(s)
		}
	case "error":
		if v := c.nonNull(); c.end() && v != nil {
			m.setFault(readError(0, v))
		}
	}
	t.wanted = ""
	if t.hasUsage { // again for late timings: they may hold the cached part
		m.tally.total, m.tally.totals = m.reading(&t.usage, &t.timings), 1
		m.tally.unread = !m.tally.total.prompt.ok || !m.tally.total.completion.ok
	}
}
