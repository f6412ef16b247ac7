package engine

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
)

const (
	ringLines = 40
	ringWidth = 500 // bytes kept of a line
)

// ring keeps the last lines of the engine's output, whatever their number and
// length. Written by the goroutine that drains the engine's pipe, read by Run.
type ring struct {
	mu    sync.Mutex
	lines [ringLines]string // guarded by mu
	n     int               // lines seen so far; guarded by mu
	bytes int64             // of all that was written; guarded by mu
	part  []byte            // the line being written, cut at ringWidth; guarded by mu
	long  bool              // part was cut; guarded by mu
	cr    bool              // a carriage return waits for what follows it; guarded by mu
}

// Write never fails and never blocks for long.
func (r *ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes += int64(len(p))
	for rest := p; len(rest) > 0; {
		i := bytes.IndexAny(rest, "\r\n")
		if i < 0 {
			r.appendPart(rest)
			break
		}
		r.appendPart(rest[:i])
		if rest[i] == '\n' {
			r.endLine()
		} else {
			r.cr = true
		}
		rest = rest[i+1:]
	}
	return len(p), nil
}

// appendPart appends to the line being written. After a lone carriage return it starts
// over, as a terminal would: progress bars must not push the error out of the ring.
func (r *ring) appendPart(text []byte) {
	if len(text) == 0 {
		return
	}
	if r.cr {
		r.part, r.long, r.cr = r.part[:0], false, false
	}
	if room := ringWidth - len(r.part); len(text) > room {
		text, r.long = text[:room], true
	}
	r.part = append(r.part, text...)
}

func (r *ring) endLine() {
	line := string(r.part)
	if r.long {
		line += "..."
	}
	r.lines[r.n%ringLines] = line
	r.n++
	r.part, r.long, r.cr = r.part[:0], false, false
}

// total is how many bytes were written so far.
func (r *ring) total() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// print writes the lines kept, oldest first.
func (r *ring) print(w io.Writer) {
	r.mu.Lock()
	if len(r.part) > 0 {
		r.endLine()
	}
	n := min(r.n, ringLines)
	lines := make([]string, 0, n)
	for i := r.n - n; i < r.n; i++ {
		lines = append(lines, r.lines[i%ringLines])
	}
	r.mu.Unlock()
	for _, line := range lines {
		fmt.Fprintf(w, "engine | %s\n", printable(line))
	}
}

var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[ -/]*[@-~]`)

// printable takes out what could steer a terminal.
func printable(line string) string {
	return strings.Map(func(c rune) rune {
		if c == '\t' || c >= ' ' && c != 0x7f {
			return c
		}
		return -1
	}, escapes.ReplaceAllString(line, ""))
}
