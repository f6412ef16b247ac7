package api

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/ledger"
	"spotinference/server/meter"
	"spotinference/server/refusal"
)

// answer is an engine's answer on its way to the client. fasthttp calls its WriteTo in the
// goroutine of the client's connection, and then closes it, whether WriteTo failed or not.
// So one goroutine owns it.
type answer struct {
	s      *Server
	c      *call
	m      *meter.Meter
	x      *exchange // nil once it has ended
	format format
	status int // the HTTP status that the client gets

	state answerState
	err   error // in state answerSevered: why

	started bool   // its head has left: WriteTo runs
	beat    *heart // nil where the client gets no events
	beating bool   // what may leave is a heartbeat

	buf  *buffers // nil while the answer waits for the engine
	tail []byte   // in formatBody: what waits for the row

	first       time.Time // when the first byte was there to be sent
	deadlineSet time.Time // when the client's write deadline was set last
}

// format decides how the last bytes of an answer are found, and held back.
type format uint8

const (
	formatEvents format = iota // server-sent events: the meter keeps the last ones back
	formatBody                 // one JSON text, or bytes in no form that is read: the last piece is kept back
)

// answerState is how far an answer has got.
type answerState uint8

const (
	// answerCopying: the engine's answer is read and forwarded.
	// Exits: answerComplete; answerEnding and answerSevered, where the engine cannot be read on.
	answerCopying answerState = iota

	// answerComplete: all of it was read, and all that may leave before its row has left.
	// Exits: answerEnding and answerSevered, once the row was written or could not be.
	answerComplete

	// answerEnding: the last bytes may leave, or an error event in their place.
	// Exits: none, WriteTo returns when they have left.
	answerEnding

	// answerSevered: the answer ends short of its last bytes. The client sees by that that
	// it is not whole.
	// Exits: none, WriteTo fails.
	answerSevered
)

func (s *Server) newAnswer(c *call, m *meter.Meter, x *exchange, f format) *answer {
	return &answer{s: s, c: c, m: m, x: x, format: f, status: x.resp.StatusCode()}
}

// Read is there for the interface: see SupportsBodyWriteTo.
func (a *answer) Read([]byte) (int, error) { panic("BUG: an answer writes itself") }

// SupportsBodyWriteTo makes fasthttp call WriteTo, which decides what is one write to
// the client, and keeps no buffer while it waits.
func (a *answer) SupportsBodyWriteTo() bool { return true }

// WriteTo hands over what the engine has sent, as soon as it is there; each
// Write to w reaches the client at once. It writes the last bytes of the answer
// only after the call's row is on disk.
func (a *answer) WriteTo(w io.Writer) (sent int64, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = a.s.panicked(a.c, v)
			_ = a.record(ledger.Failed)
		}
	}()
	defer a.returnBuffers()
	for {
		n, err := a.send(w)
		a.started = true
		sent += int64(n)
		if err != nil {
			return sent, err
		}
		switch a.state {
		case answerCopying:
			a.copy()
		case answerComplete:
			a.conclude()
		case answerEnding:
			a.endExchange()
			return sent, nil
		case answerSevered:
			return sent, a.err
		}
	}
}

// send writes what may leave, and gives the client time to read it.
func (a *answer) send(w io.Writer) (int, error) {
	if a.buf == nil || len(a.buf.out) == 0 {
		return 0, nil
	}
	if a.first.IsZero() && !a.beating {
		a.first = a.s.cfg.Now()
	}
	now := time.Now()
	if now.Sub(a.deadlineSet) > writeTimeout/4 && a.c.cutCause() == nil {
		a.deadlineSet = now
		_ = a.c.client.SetWriteDeadline(now.Add(writeTimeout))
	}
	n, err := w.Write(a.buf.out)
	a.buf.out = a.buf.out[:0]
	if a.beat != nil && !a.beating {
		a.beat.noteSent(now)
	}
	a.beating = false
	return n, err
}

// conclude leaves state answerComplete. The row is on disk before the last bytes are in out.
func (a *answer) conclude() {
	var rest []byte
	if a.format == formatEvents && a.x.readToEnd {
		// The end of the stream may take the place of the last event's blank line.
		// Half of another event is not forwarded.
		if out := a.m.Close(nil); a.m.Done() {
			rest = out
		}
	}
	status := ledger.OK
	_, failed := a.m.Failed()
	if failed || !a.m.Done() {
		status = ledger.Failed
	}
	a.returnBuffers() // it waits again, for the disk
	err := a.record(status)
	a.takeBuffers()
	a.buf.out = append(a.buf.out, rest...)
	a.state = answerEnding
	switch {
	case a.format == formatBody && (err != nil || !a.m.Done()):
		// Its status has left already. The client sees by the missing end that the
		// answer is not whole.
		a.sever(errors.New("the answer could not be recorded"))
	case a.format == formatBody:
		a.buf.out = append(a.buf.out, a.tail...)
	case err != nil:
		a.addEvent(refusal.New(refusal.LedgerUnwritable))
	case failed:
		a.addEvent(refusal.Engine(fasthttp.StatusBadGateway, a.m.Fault()))
	case !a.m.Done():
		a.s.cfg.Log.Warn("the engine ended an answer before its end", "request", a.c.id)
		a.addEvent(refusal.New(refusal.EngineFailed))
	default:
		a.buf.out = append(a.buf.out, a.m.Tail()...)
	}
}

// engineLost leaves state answerCopying, where the engine cannot be read on.
func (a *answer) engineLost(err error) {
	if a.format == formatEvents {
		a.m.Close(nil) // for the count; half an event is not forwarded
	}
	r := a.s.engineFault(a.c, err)
	if a.record(statusFor(r)) != nil {
		r = refusal.New(refusal.LedgerUnwritable)
	}
	if a.format == formatBody || r.Kind == refusal.ClientClosed {
		a.sever(fmt.Errorf("answer cut: %w", err))
		return
	}
	a.state = answerEnding
	a.addEvent(r)
}

// sever ends the answer here: nothing more of it leaves.
func (a *answer) sever(err error) {
	a.state, a.err = answerSevered, err
	a.buf.out = a.buf.out[:0]
}

// addEvent adds an error event to what may leave.
func (a *answer) addEvent(r *refusal.Refusal) {
	a.buf.out = append(a.buf.out, r.Event(a.m, a.c.id, a.s.cfg.Now())...)
}

// settle writes the row of an answer of which nothing has left yet. r says what is wrong
// with the answer, nil for nothing. It returns what the client gets instead of the
// answer, nil where the client gets the answer.
func (a *answer) settle(r *refusal.Refusal) *refusal.Refusal {
	status := ledger.OK
	if r != nil {
		status, a.status = statusFor(r), r.Status
	}
	if a.record(status) != nil {
		return refusal.New(refusal.LedgerUnwritable)
	}
	return r
}

// record writes the row, once.
func (a *answer) record(status ledger.Status) error {
	if a.c.isRecorded() {
		return nil
	}
	return a.s.record(a.c, a.m, status, a.status, a.first)
}

// panicked counts and logs a panic in a stream. What it returns ends the stream.
func (s *Server) panicked(c *call, v any) error {
	s.cfg.Metrics.panics.Inc()
	s.cfg.Log.Error("BUG: panic in a stream", "request", c.id, "panic", v, "stack", string(debug.Stack()))
	return fmt.Errorf("panic in a stream: %v", v)
}

// drainTime is how long the engine may take to end a stream whose terminal
// event has passed.
const drainTime = time.Second

// endExchange ends the exchange with the engine. A stream whose terminal event has passed
// is read to its end, where the end is near: an engine whose client leaves a moment before
// takes the request for cancelled.
func (a *answer) endExchange() {
	if a.x == nil {
		return
	}
	if a.m.Done() && !a.x.readToEnd {
		_ = a.x.conn.SetReadDeadline(time.Now().Add(drainTime))
		var err error
		a.takeBuffers()
		for err == nil {
			_, err = a.x.Read(a.buf.in[:])
		}
		_ = a.x.conn.SetReadDeadline(time.Time{})
	}
	// llama-server closes the connection after a stream without saying so in the head
	// (seen on build 11669): the next request on it would be lost. vLLM's uvicorn keeps
	// the connection.
	keeps := a.format == formatBody || a.s.dialectOf() == meter.VLLM
	a.s.upstream.end(a.c, a.x, keeps)
	a.x = nil
}

// Close is called by fasthttp when the answer was written, or could not be. A
// call that has no row by then lost its client.
func (a *answer) Close() error {
	if !a.c.isRecorded() {
		a.c.cut(refusal.New(refusal.ClientClosed))
		_ = a.record(statusFor(a.c.cutCause())) // a failure is logged where it happens
	}
	a.endExchange()
	a.returnBuffers()
	return nil
}
