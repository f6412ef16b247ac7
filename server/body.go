package server

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/ledger"
	"spotinference/server/meter"
)

// body is an answer on its way to the client. fasthttp reads it in the
// goroutine of the client's connection, writes and flushes what each Read
// returned, and closes it, however that went. So one goroutine owns it.
type body struct {
	s      *Server
	c      *call
	m      *meter.Meter
	x      *exchange // nil once let go
	src    io.Reader
	json   bool // one JSON body rather than events
	status int  // HTTP status that the client got

	out  []byte // what may leave, from off on
	off  int
	buf  []byte // the piece that was read last
	held []byte // JSON that waits for the row

	eof      bool      // the engine's answer was read to its end
	over     bool      // nothing follows out
	cutShort bool      // what follows out is an error, not the end
	first    time.Time // when the first byte was there to be sent
	fresh    time.Time // when the client's write deadline was set last
}

const (
	// piece is how much is read from the engine at once, at most, before it is
	// handed on: an engine that is faster than the client's connection is
	// forwarded in pieces rather than event by event.
	piece = 16 << 10
)

// Read hands over what the engine has sent, as soon as it is there. It returns
// the last bytes of the answer only after the call's row is on disk.
func (b *body) Read(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			b.s.cfg.Metrics.panics.Inc()
			b.s.cfg.Log.Error("BUG: panic in a stream", "request", b.c.id, "panic", v, "stack", string(debug.Stack()))
			_ = b.record(ledger.Failed)
			n, err = 0, fmt.Errorf("panic in a stream: %v", v)
		}
	}()
	for b.off == len(b.out) {
		if b.cutShort {
			return 0, errors.New("the answer could not be recorded")
		}
		if b.over {
			b.letGo()
			return 0, io.EOF
		}
		b.out, b.off = b.out[:0], 0
		if err := b.fill(); err != nil {
			return 0, err
		}
	}
	now := b.s.cfg.Now()
	if b.first.IsZero() {
		b.first = now
	}
	if now.Sub(b.fresh) > writeTimeout/4 && b.c.why() == nil {
		b.fresh = now
		_ = b.c.client.SetWriteDeadline(now.Add(writeTimeout))
	}
	n = copy(p, b.out[b.off:])
	b.off += n
	return n, nil
}

// fill reads once from the engine, and on for as long as that needs no wait.
func (b *body) fill() error {
	for {
		n, err := b.read()
		switch {
		case !b.json && b.m.Done(), err == io.EOF:
			b.keep(n)
			b.finish()
			return nil
		case err != nil:
			return b.broken(err)
		}
		b.keep(n)
		if len(b.out) >= piece || b.x.conn.br.Buffered() == 0 {
			return nil
		}
	}
}

// read takes the next piece from the engine through the meter. Of events, what
// may leave is appended to out; a piece of JSON is left in buf.
func (b *body) read() (int, error) {
	if b.buf == nil {
		b.buf = make([]byte, piece)
	}
	b.c.handing.Store(false)
	n, err := b.src.Read(b.buf)
	b.c.handing.Store(true)
	if n > 0 {
		if b.json {
			b.m.JSON(b.buf[:n])
		} else {
			b.out = b.m.Stream(b.out, b.buf[:n])
		}
		b.c.progress.Store(b.m.Progress())
		b.c.saw(b.m.Usage(), b.m.Model())
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
		b.held = append(b.held, b.buf[:n]...)
		return
	}
	b.out = append(b.out, b.held...)
	b.held = append(b.held[:0], b.buf[:n]...)
}

// hold reads a JSON answer until it ends, or until limit is reached; eof tells
// which. What it read is in held.
func (b *body) hold(limit int) error {
	for len(b.held) < limit && !b.eof {
		n, err := b.read()
		b.held = append(b.held, b.buf[:n]...)
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
	b.out = append(b.out, b.held[:last]...)
	b.held = append(b.held[:0], b.held[last])
}

// finish is reached once: at the end of what the engine had to say. The row is
// on disk before the last bytes are in out.
func (b *body) finish() {
	b.over = true
	if b.eof && !b.json {
		// The end may stand for the last event's blank line; half an event that
		// is no end is nobody's.
		if out := b.m.Close(b.out); b.m.Done() {
			b.out = out
		}
	}
	status := ledger.OK
	_, failed := b.m.Failed()
	if failed || !b.m.Done() {
		status = ledger.Failed
	}
	err := b.record(status)
	switch {
	case b.json && (err != nil || !b.m.Done()):
		// Its status has left already. To end it short is all that is left to
		// say no with.
		b.cutShort = true
	case b.json:
		b.out = append(b.out, b.held...)
	case err != nil:
		b.out = append(b.out, errLedger.event(b.c.dialect, b.c.id)...)
	case failed:
		b.out = append(b.out, fromEngine(fasthttp.StatusBadGateway, b.m.Fault()).event(b.c.dialect, b.c.id)...)
	case !b.m.Done():
		b.s.cfg.Log.Warn("the engine ended an answer before its end", "request", b.c.id)
		b.out = append(b.out, errEngine.event(b.c.dialect, b.c.id)...)
	default:
		b.out = append(b.out, b.m.Tail()...)
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
		e = errLedger
	}
	if b.json || e == errGone {
		return fmt.Errorf("answer cut: %w", err)
	}
	b.out = append(b.out, e.event(b.c.dialect, b.c.id)...)
	return nil
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
		for err == nil {
			_, err = b.src.Read(b.buf)
		}
		b.eof = err == io.EOF
		_ = b.x.conn.SetReadDeadline(time.Time{})
	}
	// llama-server closes a connection after a stream without having said so
	// (seen on build 11669): the next request would fall into the gap.
	b.s.upstream.end(b.c, b.x, b.eof && b.json, b.s.cfg.Now())
	b.x = nil
}

// Close is called by fasthttp when the answer was written, or could not be. A
// call that has no row by then lost its client.
func (b *body) Close() error {
	if !b.c.recorded {
		b.c.cut(errGone)
		_ = b.record(statusFor(b.c.why())) // logged where it failed; nobody is left to tell
	}
	b.letGo()
	return nil
}
