package meter

import (
	"encoding/binary"
	"math/bits"
)

// maxDepth bounds nesting, and with it the stack: skip recurses. No engine
// takes a request that is nested deeper.
const maxDepth = 1000

// maxTokens is more than any answer can hold; a larger count is nonsense and
// is read as no count at all.
const maxTokens = 1 << 32

// cursor walks one JSON text that lies whole in memory. It accepts what
// encoding/json accepts (down to maxDepth) and allocates nothing. After the
// first malformed byte bad is set, and every loop over more ends.
type cursor struct {
	b     []byte
	i     int // next byte
	at    int // opening quote of the name that key last read
	depth int
	bad   bool
}

// count is a number of tokens; ok is false where there is none to be had.
type count struct {
	n  int64
	ok bool
}

// space passes white space; the engines write none, so the test for that is
// all that is inlined.
func (c *cursor) space() {
	if c.i < len(c.b) && c.b[c.i] <= ' ' {
		c.spaces()
	}
}

func (c *cursor) spaces() {
	for c.i < len(c.b) {
		switch c.b[c.i] {
		case ' ', '\t', '\n', '\r':
			c.i++
		default:
			return
		}
	}
}

// peek returns the byte at the cursor, or 0 at the end.
func (c *cursor) peek() byte {
	if c.i < len(c.b) {
		return c.b[c.i]
	}
	return 0
}

// end reports whether the text was one well-formed value, now passed.
func (c *cursor) end() bool {
	c.space()
	return !c.bad && c.i == len(c.b)
}

// open enters the object or array at the cursor; the members or elements are
// then walked with
//
//	for first := true; c.more('}', first); first = false
//
// where each turn must consume exactly one key and value, or one element.
func (c *cursor) open(bracket byte) {
	if c.peek() != bracket || c.depth == maxDepth {
		c.bad = true
		return
	}
	c.i++
	c.depth++
}

func (c *cursor) more(end byte, first bool) bool {
	if c.bad {
		return false
	}
	c.space()
	switch ch := c.peek(); {
	case ch == end:
		c.i++
		c.depth--
		return false
	case first:
		return true
	case ch == ',':
		c.i++
		c.space()
		return true
	}
	c.bad = true
	return false
}

// name is room for a member's name that had to be unescaped.
type name [32]byte

// key reads a member's name, unescaped as the engines compare it, and leaves
// the cursor at the value. A name that is escaped and longer than any of ours
// comes back empty.
func (c *cursor) key(room *name) []byte {
	c.at = c.i
	s, escaped := c.str()
	if b, i := c.b, c.i; i+1 < len(b) && b[i] == ':' && b[i+1] > ' ' {
		c.i++ // as the engines write it
	} else {
		c.colon()
	}
	if escaped {
		return room.unescape(s)
	}
	return s
}

func (c *cursor) colon() {
	c.space()
	if c.peek() != ':' {
		c.bad = true
		return
	}
	c.i++
	c.space()
}

func (room *name) unescape(raw []byte) []byte {
	n := 0
	for i := 0; i < len(raw); n++ {
		if n == len(room) {
			return nil
		}
		if raw[i] != '\\' {
			room[n] = raw[i]
			i++
			continue
		}
		if raw[i+1] != 'u' { // a quote, a slash or a control byte: in no name of ours
			return nil
		}
		r := 0
		for _, h := range raw[i+2 : i+6] {
			r = r<<4 | hexValue(h)
		}
		if r >= 0x80 {
			return nil
		}
		room[n] = byte(r)
		i += 6
	}
	return room[:n]
}

// str reads a string and returns what is between its quotes, as it is written.
func (c *cursor) str() (s []byte, escaped bool) {
	if c.peek() != '"' {
		c.bad = true
		return nil, false
	}
	from := c.i + 1
	for i := from; ; {
		i = plain(c.b, i)
		if i == len(c.b) {
			break
		}
		switch c.b[i] {
		case '"':
			c.i = i + 1
			return c.b[from:i], escaped
		case '\\':
			n := escapeLen(c.b[i:])
			if n == 0 {
				c.bad = true
				return nil, false
			}
			escaped = true
			i += n
			continue
		}
		break // a control byte may not stand in a string
	}
	c.bad = true
	return nil, false
}

// escapeLen is the length of the escape sequence that b begins with, 0 where
// it is not a valid one.
func escapeLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(b) < 6 {
			return 0
		}
		for _, h := range b[2:6] {
			if hexValue(h) < 0 {
				return 0
			}
		}
		return 6
	}
	return 0
}

func hexValue(h byte) int {
	switch {
	case h >= '0' && h <= '9':
		return int(h - '0')
	case h >= 'a' && h <= 'f':
		return int(h-'a') + 10
	case h >= 'A' && h <= 'F':
		return int(h-'A') + 10
	}
	return -1
}

// plain returns the index of the first byte at or after i that is no ordinary
// byte of a string: a quote, a backslash or a control byte; or len(b). Images
// travel as megabytes of base64, so it looks at eight bytes at a time.
func plain(b []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		quote := x ^ ones*'"'
		slash := x ^ ones*'\\'
		// Each term marks bytes below a bound; a borrow can mark too many, but
		// only above a true mark, and the lowest mark is the one that is used.
		hit := ((x-ones*0x20)&^x | (quote-ones)&^quote | (slash-ones)&^slash) & highs
		if hit != 0 {
			return i + bits.TrailingZeros64(hit)>>3
		}
	}
	for ; i < len(b); i++ {
		if ch := b[i]; ch < 0x20 || ch == '"' || ch == '\\' {
			break
		}
	}
	return i
}

// skip passes one value of any kind.
func (c *cursor) skip() {
	switch ch := c.peek(); ch {
	case '"':
		c.str()
	case '{':
		c.open('{')
		for first := true; c.more('}', first); first = false {
			c.str()
			c.colon()
			c.skip()
		}
	case '[':
		c.open('[')
		for first := true; c.more(']', first); first = false {
			c.skip()
		}
	case 't':
		c.word("true")
	case 'f':
		c.word("false")
	case 'n':
		c.word("null")
	default:
		c.number()
	}
}

func (c *cursor) word(w string) {
	if len(c.b)-c.i < len(w) || string(c.b[c.i:c.i+len(w)]) != w {
		c.bad = true
		return
	}
	c.i += len(w)
}

func (c *cursor) number() {
	b, i := c.b, c.i
	if i < len(b) && b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else {
		i = c.digits(i)
	}
	if i < len(b) && b[i] == '.' {
		i = c.digits(i + 1)
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		i = c.digits(i)
	}
	c.i = i
}

// digits returns where the digits from i on end; there must be one.
func (c *cursor) digits(i int) int {
	from := i
	for i < len(c.b) && c.b[i]-'0' <= 9 {
		i++
	}
	c.bad = c.bad || i == from
	return i
}

// value passes one value and returns it as it is written.
func (c *cursor) value() []byte {
	from := c.i
	c.skip()
	if c.bad {
		return nil
	}
	return c.b[from:c.i]
}

// tokens reads a count: a plain integer from 0 to maxTokens. Anything else is
// passed over and is no count.
func (c *cursor) tokens() count {
	from, i := c.i, c.i
	var n int64
	for i < len(c.b) && c.b[i]-'0' <= 9 && n <= maxTokens {
		n = n*10 + int64(c.b[i]-'0')
		i++
	}
	c.skip()
	if c.bad || c.i != i || i == from || n > maxTokens {
		return count{}
	}
	return count{n, true}
}

// text returns the inside of a string value, nil for any other value.
func (c *cursor) text() []byte {
	if c.peek() != '"' {
		c.skip()
		return nil
	}
	s, _ := c.str()
	return s
}

// openIf opens the value if it begins with the bracket; any other value it
// passes over.
func (c *cursor) openIf(bracket byte) bool {
	if c.peek() != bracket {
		c.skip()
		return false
	}
	c.open(bracket)
	return true
}
