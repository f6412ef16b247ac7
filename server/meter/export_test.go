package meter

// Valid reports whether b is one JSON text to the cursor.
func Valid(b []byte) bool {
	c := cursor{b: b}
	c.space()
	c.skip()
	return c.end()
}

const MaxDepth = maxDepth

// SetLimit lowers the limit on an event's length.
func (m *Meter) SetLimit(n int) { m.stream.limit = n }

// Kept is how many bytes of the answer the meter holds on to.
func (m *Meter) Kept() int {
	return len(m.stream.partial) + len(m.scanner.value) + len(m.scanner.key)
}
