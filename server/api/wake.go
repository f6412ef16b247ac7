package api

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/ledger"
	"spotinference/server/meter"
	"spotinference/server/queue"
	"spotinference/server/refusal"
)

// How a request enters the engine. While the engine sleeps, the request waits until it is
// awake. A request for a stream gets heartbeats meanwhile.

// defaultHeartbeat is Config.Heartbeat by default. The first one goes along with the
// status: until then a refusal still has a status of its own.
const defaultHeartbeat = 10 * time.Second

// heartbeat is a comment: a reader of events skips it.
const heartbeat = ": waiting for the engine\n\n"

// tryEnter lets a call into an engine that is ready.
func (s *Server) tryEnter(c *call) bool {
	in := s.cfg.Engine.TryAdmit()
	if in {
		c.admit(c.started)
	}
	return in
}

// enter lets a call into the engine, for which the call may have to wait, or says why
// not. A call that is cut stops waiting.
func (s *Server) enter(c *call) *refusal.Refusal {
	if s.tryEnter(c) {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if !c.wait(cancel) {
		return c.cutCause()
	}
	err := s.cfg.Engine.Admit(ctx)
	if err == nil {
		if r := s.recheck(c); r != nil {
			s.cfg.Engine.Release(false)
			c.giveUp()
			return r
		}
		c.admit(s.cfg.Now())
		return nil
	}
	c.giveUp()
	switch {
	case c.cutCause() != nil:
		return c.cutCause()
	case errors.Is(err, queue.ErrFull):
		return refusal.New(refusal.QueueFull)
	case errors.Is(err, queue.ErrWakeTimeout):
		return refusal.New(refusal.WakeTimeout)
	}
	return s.notReady()
}

// recheck asks gate and key again: much may have been spent while the call waited.
func (s *Server) recheck(c *call) *refusal.Refusal {
	if err := s.cfg.Gate.Allow(); err != nil {
		return refusal.Gate(err)
	}
	return s.keys.recheck(c.key, s.cfg.Now())
}

// notReady says when asking again may help, where that is known.
func (s *Server) notReady() *refusal.Refusal {
	var wait time.Duration
	if next := s.cfg.Engine.Status().NextStart; !next.IsZero() {
		wait = time.Until(next) // by the clock that the engine took it from
	}
	return refusal.EngineNotReady(wait)
}

// end ends a call: it leaves the engine, and is watched no more.
func (s *Server) end(c *call) {
	s.calls.remove(c)
	if c.end() {
		s.cfg.Engine.Release(c.keepsAwake())
	}
}

// enterSoon is enter for a call that may have to wait for long: where enter's answer is
// not there within a heartbeat, it returns the channel that will bring it.
func (s *Server) enterSoon(c *call) (*refusal.Refusal, <-chan *refusal.Refusal) {
	if s.tryEnter(c) {
		return nil, nil
	}
	if !c.ask.Stream || c.ask.Assembled() {
		return s.enter(c), nil
	}
	entered := make(chan *refusal.Refusal, 1)
	go func() { entered <- s.enter(c) }()
	patience := time.NewTimer(s.cfg.Heartbeat)
	defer patience.Stop()
	select {
	case r := <-entered:
		return r, nil
	case <-patience.C:
		return nil, entered
	}
}

// waitingStream is the answer to a stream that waits for the engine: heartbeats, then
// what the engine says. fasthttp has it write itself, as an answer does.
type waitingStream struct {
	s       *Server
	c       *call
	m       *meter.Meter
	req     *fasthttp.Request
	entered <-chan *refusal.Refusal // brings enter's answer

	state  streamState
	answer *answer // in state streamAnswering
}

// streamState is how far a waitingStream has got.
type streamState uint8

const (
	// streamEntering: enter has not answered. Exits: streamEntered, streamRefused.
	streamEntering streamState = iota

	// streamEntered: the engine has admitted the call, and has not answered.
	// Exits: streamAnswering, streamRefused.
	streamEntered

	// streamAnswering: the engine's answer ends the call. Exits: none.
	streamAnswering

	// streamRefused: the call has ended, and its client was told why. Exits: none.
	streamRefused
)

// startWaiting answers with a waitingStream.
func (s *Server) startWaiting(ctx *fasthttp.RequestCtx, w *waitingStream) {
	streamHead(ctx)
	ctx.Response.ImmediateHeaderFlush = true
	ctx.Response.SetBodyStream(w, -1)
}

func (w *waitingStream) Read([]byte) (int, error) { panic("BUG: an answer writes itself") }

func (w *waitingStream) SupportsBodyWriteTo() bool { return true }

func (w *waitingStream) WriteTo(client io.Writer) (sent int64, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = w.s.panicked(w.c, v)
			w.c.cut(refusal.New(refusal.Internal))
			if w.c.at() == callAdmitted {
				_ = w.s.record(w.c, w.m, ledger.Failed, fasthttp.StatusInternalServerError, time.Time{})
			}
		}
	}()
	next := time.NewTicker(w.s.cfg.Heartbeat)
	defer next.Stop()
	for {
		n, err := w.write(client, []byte(heartbeat))
		sent += int64(n)
		if err != nil {
			return sent, err
		}
		select {
		case <-next.C:
			continue
		case r := <-w.entered:
			if r == nil {
				w.state = streamEntered
				w.answer, r = w.s.askLate(w.c, w.m, w.req)
			}
			if r != nil {
				w.state = streamRefused
				w.s.cfg.Metrics.Refused(r)
				w.s.end(w.c)
				n, err := w.write(client, r.Event(w.c.route.Dialect, w.c.id))
				return sent + int64(n), err
			}
			w.state = streamAnswering
			n, err := w.answer.WriteTo(client)
			return sent + n, err
		}
	}
}

// write gives the client time to take p.
func (w *waitingStream) write(client io.Writer, p []byte) (int, error) {
	if w.c.cutCause() == nil {
		_ = w.c.client.SetWriteDeadline(time.Now().Add(writeTimeout))
	}
	return client.Write(p)
}

// Close is called by fasthttp when the answer was written, or could not be.
func (w *waitingStream) Close() error {
	defer fasthttp.ReleaseRequest(w.req)
	switch w.state {
	case streamEntering:
		w.c.cut(refusal.New(refusal.ClientClosed)) // it ends the wait
		<-w.entered
		w.s.end(w.c)
	case streamEntered: // a panic came between
		w.c.cut(refusal.New(refusal.ClientClosed))
		w.s.end(w.c)
	case streamAnswering:
		return w.answer.Close()
	}
	return nil
}

// askLate sends a request whose client has its status already, and returns the stream
// of the answer, or why there is none; the call has its row then.
func (s *Server) askLate(c *call, m *meter.Meter, req *fasthttp.Request) (*answer, *refusal.Refusal) {
	x, err := s.upstream.do(c, req)
	if errors.Is(err, errUnsent) {
		return nil, s.engineFault(c, err)
	}
	if err != nil {
		return nil, s.noAnswer(c, m, err)
	}
	ok := x.resp.StatusCode() == fasthttp.StatusOK
	if ok && isType(x.resp, "text/event-stream") {
		return s.newAnswer(c, m, x, formatEvents), nil
	}
	a := s.newAnswer(c, m, x, formatBody)
	defer a.endExchange()
	r := refusal.New(refusal.EngineFailed)
	if err := a.holdWhole(maxHeld); err != nil {
		r = s.engineFault(c, err)
	} else if !ok {
		r = refusal.Engine(a.status, meter.OpenAIError(a.status, a.tail))
	}
	return nil, a.settle(r)
}
