package api

import (
	"io"
	"slices"
	"time"
)

// How an answer is read from the engine.

// pieceSize bounds what is read from the engine before it is forwarded: an engine that is
// faster than the client's connection is forwarded in pieces rather than event by event.
const pieceSize = 8 << 10

// buffers are what a piece of an answer passes through. An answer has them only
// while it moves: of a thousand open streams nearly all wait.
type buffers struct {
	in  [pieceSize]byte // as it was read
	out []byte          // what may leave
}

func (a *answer) takeBuffers() {
	if a.buf == nil {
		a.buf, _ = a.s.buffers.Get().(*buffers)
	}
	if a.buf == nil {
		a.buf = new(buffers)
	}
}

// returnBuffers puts the buffers back into the pool. One that a large event made large is
// not kept.
func (a *answer) returnBuffers() {
	if a.buf == nil {
		return
	}
	if cap(a.buf.out) > 2*pieceSize {
		a.buf.out = nil
	}
	a.buf.out = a.buf.out[:0]
	a.s.buffers.Put(a.buf)
	a.buf = nil
}

// copy waits for the engine in state answerCopying, and reads on for as long as the engine
// has sent more.
func (a *answer) copy() {
	if a.started && a.format == formatEvents && a.m.Interruptible() {
		a.c.asking.allow(chunkComment)
		defer a.c.asking.allow(nil)
	}
	if br := a.x.conn.br; br.Buffered() == 0 && a.x.resp.Header.ContentLength() < 0 {
		a.returnBuffers()
		a.c.delivering.Store(false)
		if !a.waitReadable() {
			return
		}
	}
	a.takeBuffers()
	for {
		n, err := a.read()
		switch {
		case a.format == formatEvents && a.m.Done(), err == io.EOF:
			a.holdTail(n)
			a.state = answerComplete
			return
		case err != nil:
			a.engineLost(err)
			return
		}
		a.holdTail(n)
		if len(a.buf.out) >= pieceSize || a.x.conn.br.Buffered() == 0 {
			a.publish()
			return
		}
	}
}

// waitReadable waits until the engine has sent something, or cannot be read any more. It is
// false where a heartbeat is due before that.
func (a *answer) waitReadable() bool {
	if a.beat == nil {
		_, _ = a.x.conn.br.Peek(1) // the read that follows finds the error again
		return true
	}
	if a.x.readable(a.beat.due()) {
		return true
	}
	if beat := a.beat.beat(time.Now()); beat != nil {
		a.takeBuffers()
		a.buf.out, a.beating = append(a.buf.out, beat...), true
	}
	return false
}

// receive reads what the engine sends next.
func (a *answer) receive(p []byte) (int, error) {
	a.c.delivering.Store(false)
	n, err := a.x.Read(p)
	a.c.delivering.Store(true)
	return n, err
}

// publish shows how far the answer is to the watchers of calls.
func (a *answer) publish() {
	a.c.progress.Store(a.m.Progress())
	a.c.publish(a.m.Usage(), a.m.Model())
}

// read takes the next piece from the engine through the meter. Of events, what
// may leave is appended to out; a piece of a body is left in in.
func (a *answer) read() (int, error) {
	n, err := a.receive(a.buf.in[:])
	if n > 0 {
		if a.format == formatBody {
			a.m.JSON(a.buf.in[:n])
		} else {
			a.buf.out = a.m.Stream(a.buf.out, a.buf.in[:n])
		}
	}
	if a.x.readToEnd && a.format == formatBody {
		a.m.End()
	}
	return n, err
}

// holdTail keeps the newest piece of a body back, and lets the piece before it leave: only
// the end shows which piece is the last.
func (a *answer) holdTail(n int) {
	if a.format != formatBody || n == 0 {
		return
	}
	if a.m.Done() { // the end is in this piece or an earlier one: nothing more leaves
		a.tail = append(a.tail, a.buf.in[:n]...)
		return
	}
	a.buf.out = append(a.buf.out, a.tail...)
	a.tail = append(a.tail[:0], a.buf.in[:n]...)
}

// holdWhole reads a body into tail until it ends, or until limit is reached: see
// exchange.readToEnd.
func (a *answer) holdWhole(limit int) error {
	const least = 1 << 10
	a.tail = slices.Grow(a.tail, min(max(a.x.resp.Header.ContentLength(), least), limit))
	for len(a.tail) < limit && !a.x.readToEnd {
		a.tail = slices.Grow(a.tail, least)
		at := len(a.tail)
		n, err := a.receive(a.tail[at:cap(a.tail)])
		a.tail = a.tail[:at+n]
		if n > 0 {
			a.m.JSON(a.tail[at:])
			a.publish()
		}
		if a.x.readToEnd {
			a.m.End()
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	a.first = a.s.cfg.Now()
	return nil
}

// releaseTail lets what holdWhole gathered leave, all but its last byte.
func (a *answer) releaseTail() {
	last := len(a.tail) - 1
	a.takeBuffers()
	a.buf.out = a.tail[:last:last]
	a.tail = []byte{a.tail[last]}
}
