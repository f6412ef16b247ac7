package api

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/ledger"
	"spotinference/server/meter"
	"spotinference/server/refusal"
)

// body is an answer on its way to the client. fasthttp has it write itself in
// the goroutine of the client's connection, and closes it, however that went.
// So one goroutine owns it.
type body struct {
	s      *Server
	c      *call
	m      *meter.Meter
	x      *exchange // nil once let go
	src    io.Reader
	json   bool // one JSON body rather than events
	status int  // HTTP status that the client got

	buf  *buffers // nil while the answer waits for the engine
	held []byte   // JSON that waits for the row

	eof      bool      // the engine's answer was read to its end
	ended    bool      // there is nothing more to be read of it
	over     bool      // nothing follows what is in buf
	cutShort bool      // what follows it is an error, not the end
	first    time.Time // when the first byte was there to be sent
	fresh    time.Time // when the client's write deadline was set last
}

// piece is how much is read from the engine at once, at most, before it is
// handed on: an engine that is faster than the client's connection is forwarded
// in pieces rather than event by event.
const piece = 8 << 10

// buffers are what a piece of an answer passes through. An answer has them only
// while it moves: of a thousand open streams nearly all wait.
type buffers struct {
	in  [piece]byte // as it was read
	out []byte      // what may leave
}

// take gives the answer its buffers.
func (b *body) take() {
	if b.buf == nil {
		b.buf, _ = b.s.buffers.Get().(*buffers)
	}
	if b.buf == nil {
		b.buf = new(buffers)
	}
}

// drop gives them back. What a large event has made large is not kept.
func (b *body) drop() {
	if b.buf == nil {
		return
	}
	if cap(b.buf.out) > 2*piece {
		b.buf.out = nil
	}
	b.buf.out = b.buf.out[:0]
	b.s.buffers.Put(b.buf)
	b.buf = nil
}

// Read is there for the interface: see SupportsBodyWriteTo.
func (b *body) Read([]byte) (int, error) { panic("BUG: an answer writes itself") }

// SupportsBodyWriteTo has fasthttp call WriteTo, which decides itself what is
// one write to the client, and keeps no buffer while it waits.
func (b *body) SupportsBodyWriteTo() bool { return true }

// WriteTo hands over what the engine has sent, as soon as it is there; each
// Write to w reaches the client at once. It writes the last bytes of the answer
// only after the call's row is on disk.
func (b *body) WriteTo(w io.Writer) (sent int64, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = b.s.panicked(b.c, v)
			_ = b.record(ledger.Failed)
		}
	}()
	defer b.drop()
	for {
		n, err := b.send(w)
		sent += int64(n)
		switch {
		case err != nil:
			return sent, err
		case b.cutShort:
			return sent, errors.New("the answer could not be recorded")
		case b.over:
			b.letGo()
			return sent, nil
		case b.ended:
			b.finish()
			continue
		}
		if err := b.fill(); err != nil {
			return sent, err
		}
	}
}

// send writes what may leave, and gives the client time to take it.
func (b *body) send(w io.Writer) (int, error) {
	if b.buf == nil || len(b.buf.out) == 0 {
		return 0, nil
	}
	now := b.s.cfg.Now()
	if b.first.IsZero() {
		b.first = now
	}
	if now.Sub(b.fresh) > writeTimeout/4 && b.c.why() == nil {
		b.fresh = now
		_ = b.c.client.SetWriteDeadline(now.Add(writeTimeout))
	}
	n, err := w.Write(b.buf.out)
	b.buf.out = b.buf.out[:0]
	return n, err
}

// fill waits for the engine, and reads on for as long as that needs no wait.
func (b *body) fill() error {
	if br := b.x.conn.br; br.Buffered() == 0 && b.x.resp.Header.ContentLength() < 0 {
		b.drop()
		b.c.handing.Store(false)
		_, _ = br.Peek(1) // the read that follows finds the error again
	}
	b.take()
	for {
		n, err := b.read()
		switch {
		case !b.json && b.m.Done(), err == io.EOF:
			b.keep(n)
			b.ended = true
			return nil
		case err != nil:
			return b.broken(err)
		}
		b.keep(n)
		if len(b.buf.out) >= piece || b.x.conn.br.Buffered() == 0 {
			b.tell()
			return nil
		}
	}
}

// receive reads what the engine sends next.
func (b *body) receive(p []byte) (int, error) {
	b.c.handing.Store(false)
	n, err := b.src.Read(p)
	b.c.handing.Store(true)
	return n, err
}

// tell publishes how far the answer is.
func (b *body) tell() {
	b.c.progress.Store(b.m.Progress())
	b.c.saw(b.m.Usage(), b.m.Model())
}

// read takes the next piece from the engine through the meter. Of events, what
// may leave is appended to out; a piece of JSON is left in in.
func (b *body) read() (int, error) {
	n, err := b.receive(b.buf.in[:])
	if n > 0 {
		if b.json {
			b.m.JSON(b.buf.in[:n])
		} else {
			b.buf.out = b.m.Stream(b.buf.out, b.buf.in[:n])
		}
	}
	if b.eof = b.eof || err == io.EOF; b.eof && b.json {
		b.m.End()
	}
	return n, err
}

// keep moves a piece of JSON on by one: the piece before it may leave, this
// one waits, for only the end shows which piece is the last.
func (b *body) keep(n int) {
	if !b.json || n == 0 {
		return
	}
	if b.m.Done() { // the end is in this piece, or was: nothing leaves any more
		b.held = append(b.held, b.buf.in[:n]...)
		return
	}
	b.buf.out = append(b.buf.out, b.held...)
	b.held = append(b.held[:0], b.buf.in[:n]...)
}

// hold reads a JSON answer until it ends, or until limit is reached; eof tells
// which. What it read is in held.
func (b *body) hold(limit int) error {
	const least = 1 << 10
	b.held = slices.Grow(b.held, min(max(b.x.resp.Header.ContentLength(), least), limit))
	for len(b.held) < limit && !b.eof {
		b.held = slices.Grow(b.held, least)
		at := len(b.held)
		n, err := b.receive(b.held[at:cap(b.held)])
		b.held = b.held[:at+n]
		if n > 0 {
			b.m.JSON(b.held[at:])
			b.tell()
		}
		if b.eof = err == io.EOF; b.eof {
			b.m.End()
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	b.first = b.s.cfg.Now()
	return nil
}

// release lets what hold gathered leave, all but its last byte.
func (b *body) release() {
	last := len(b.held) - 1
	b.take()
	b.buf.out = b.held[:last:last]
	b.held = []byte{b.held[last]}
}

// finish is reached once: at the end of what the engine had to say, when all that
// may leave before the row has left. The row is on disk before the last bytes are
// in out.
func (b *body) finish() {
	b.over = true
	var rest []byte
	if b.eof && !b.json {
		// The end may stand for the last event's blank line; half an event that
		// is no end is nobody's.
		if out := b.m.Close(nil); b.m.Done() {
			rest = out
		}
	}
	status := ledger.OK
	_, failed := b.m.Failed()
	if failed || !b.m.Done() {
		status = ledger.Failed
	}
	b.drop() // it waits again, for the disk
	err := b.record(status)
	b.take()
	b.buf.out = append(b.buf.out, rest...)
	switch {
	case b.json && (err != nil || !b.m.Done()):
		// Its status has left already. To end it short is all that is left to
		// say no with.
		b.cutShort = true
	case b.json:
		b.buf.out = append(b.buf.out, b.held...)
	case err != nil:
		b.buf.out = append(b.buf.out, refusal.New(refusal.LedgerUnwritable).Event(b.c.dialect, b.c.id)...)
	case failed:
		b.buf.out = append(b.buf.out, refusal.Engine(fasthttp.StatusBadGateway, b.m.Fault()).Event(b.c.dialect, b.c.id)...)
	case !b.m.Done():
		b.s.cfg.Log.Warn("the engine ended an answer before its end", "request", b.c.id)
		b.buf.out = append(b.buf.out, refusal.New(refusal.EngineFailed).Event(b.c.dialect, b.c.id)...)
	default:
		b.buf.out = append(b.buf.out, b.m.Tail()...)
	}
}

// broken is reached instead of finish, when the engine could not be read on.
func (b *body) broken(err error) error {
	b.over = true
	if !b.json {
		b.m.Close(nil) // for the count; half an event is nobody's
	}
	e := b.s.fault(b.c, err)
	if b.record(statusFor(e)) != nil {
		e = refusal.New(refusal.LedgerUnwritable)
	}
	if b.json || e.Kind == refusal.ClientClosed {
		return fmt.Errorf("answer cut: %w", err)
	}
	b.buf.out = append(b.buf.out, e.Event(b.c.dialect, b.c.id)...)
	return nil
}

// conclude writes the row of an answer of which nothing has left yet, e being what is
// wrong with it, and returns what the client is to be told instead; nil for nothing.
func (b *body) conclude(e *refusal.Refusal) *refusal.Refusal {
	status := ledger.OK
	if e != nil {
		status, b.status = statusFor(e), e.Status
	}
	if b.record(status) != nil {
		return refusal.New(refusal.LedgerUnwritable)
	}
	return e
}

// panicked counts and tells of a panic in a stream, and is what ends the stream.
func (s *Server) panicked(c *call, v any) error {
	s.cfg.Metrics.panics.Inc()
	s.cfg.Log.Error("BUG: panic in a stream", "request", c.id, "panic", v, "stack", string(debug.Stack()))
	return fmt.Errorf("panic in a stream: %v", v)
}

// record writes the row, once.
func (b *body) record(status ledger.Status) error {
	if b.c.recorded {
		return nil
	}
	return b.s.record(b.c, b.m, status, b.status, b.first)
}

// drainTime is how long the engine may take to end a stream whose terminal
// event has passed.
const drainTime = time.Second

// letGo ends the exchange with the engine. A stream that has passed is read to
// its end, where the end is near: an engine whose client leaves a moment before
// would take it for cancelled.
func (b *body) letGo() {
	if b.x == nil {
		return
	}
	if b.m.Done() && !b.eof {
		_ = b.x.conn.SetReadDeadline(b.s.cfg.Now().Add(drainTime))
		var err error
		b.take()
		for err == nil {
			_, err = b.src.Read(b.buf.in[:])
		}
		b.eof = err == io.EOF
		_ = b.x.conn.SetReadDeadline(time.Time{})
	}
	// llama-server closes a connection after a stream without having said so
	// (seen on build 11669): the next request would fall into the gap. vLLM's
	// uvicorn keeps it.
	keeps := b.json || b.s.dialectOf() == meter.VLLM
	b.s.upstream.end(b.c, b.x, b.eof && keeps, b.s.cfg.Now())
	b.x = nil
}

// Close is called by fasthttp when the answer was written, or could not be. A
// call that has no row by then lost its client.
func (b *body) Close() error {
	if !b.c.recorded {
		b.c.cut(refusal.New(refusal.ClientClosed))
		_ = b.record(statusFor(b.c.why())) // logged where it failed; nobody is left to tell
	}
	b.letGo()
	b.drop()
	return nil
}
