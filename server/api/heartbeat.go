package api

import (
	"errors"
	"io"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/ledger"
	"spotinference/server/meter"
	"spotinference/server/refusal"
)

// How the client of a stream is kept while nothing comes from the engine: it sleeps, the
// request is in its queue or its prefill, or it pauses in an answer. Where the engine's head
// is not there within Config.Heartbeat of the whole request, ours leaves, with status 200;
// until then a refusal has a status of its own, after that it is an error event.

const (
	// defaultHeartbeat is Config.Heartbeat by default. Proxies cut what is silent for a
	// minute.
	defaultHeartbeat = 10 * time.Second

	// defaultHeartbeatEvent is Config.HeartbeatEvent by default: half of the shortest limit
	// that is known of a client that counts events (qwen-code 0.24: 240 s; codex 0.169: 300 s).
	defaultHeartbeatEvent = 2 * time.Minute
)

// comment is a heartbeat that a reader of events skips.
const comment = ": waiting for the engine\n\n"

// heart times the heartbeats of one stream.
type heart struct {
	s *Server
	c *call
	m *meter.Meter

	sent   time.Time // when something was sent to the client last
	event  time.Time // when an event was
	events int64     // how many there were then
}

// newHeart makes the heart of a stream of which nothing has been sent.
func (s *Server) newHeart(c *call, m *meter.Meter, now time.Time) *heart {
	return &heart{s: s, c: c, m: m, sent: now, event: now}
}

// noteSent notes that something was sent now.
func (h *heart) noteSent(now time.Time) {
	h.sent = now
	if n := h.m.Events(); n != h.events {
		h.events, h.event = n, now
	}
}

// due is when the next heartbeat is, if nothing is sent until then.
func (h *heart) due() time.Time {
	comment, event := h.sent.Add(h.s.cfg.Heartbeat), h.event.Add(h.s.cfg.HeartbeatEvent)
	if event.Before(comment) {
		return event
	}
	return comment
}

// beat is a heartbeat, nil where there can be none now.
func (h *heart) beat(now time.Time) []byte {
	h.sent = now
	if !h.m.Interruptible() {
		h.event = now
		return nil
	}
	if now.Sub(h.event) >= h.s.cfg.HeartbeatEvent {
		h.event = now
		if event := h.m.Heartbeat(h.c.id, h.s.cfg.Now()); event != nil {
			h.events = h.m.Events()
			return event
		}
	}
	return []byte(comment)
}

// waitingStream is the answer to a stream whose engine has not answered yet: heartbeats,
// then what the engine says. fasthttp has it write itself, as an answer does.
type waitingStream struct {
	s    *Server
	c    *call
	m    *meter.Meter
	req  *fasthttp.Request // nil once it was sent
	kept *oneBody          // what its body takes
	beat *heart

	state   streamState
	entered <-chan *refusal.Refusal // in state streamEntering: brings enter's answer
	x       *exchange               // in state streamAsked
	answer  *answer                 // in state streamAnswering
}

// streamState is how far a waitingStream has got.
type streamState uint8

const (
	// streamEntering: enter has not answered. Exits: streamEntered, streamRefused.
	streamEntering streamState = iota

	// streamEntered: the engine has admitted the call, and was not asked yet.
	// Exits: streamAsked, streamRefused.
	streamEntered

	// streamAsked: the engine has the request, and has not answered.
	// Exits: streamAnswering, streamRefused.
	streamAsked

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
	n, err := w.write(client, w.beat.beat(time.Now())) // along with the head
	sent += int64(n)
	for err == nil && w.state != streamAnswering {
		w.c.asking.allow(chunkComment)
		r := w.step(w.beat.due())
		w.c.asking.allow(nil)
		if r != nil {
			w.state = streamRefused
			w.s.end(w.c)
			n, err := w.write(client, r.Event(w.m, w.c.id, w.s.cfg.Now()))
			return sent + int64(n), err
		}
		if now := time.Now(); !now.Before(w.beat.due()) {
			n, err = w.write(client, w.beat.beat(now))
			sent += int64(n)
		}
	}
	if err != nil {
		return sent, err
	}
	rest, err := w.answer.WriteTo(client)
	return sent + rest, err
}

// step goes on to the next state, or waits until until. It returns why the call is refused.
func (w *waitingStream) step(until time.Time) *refusal.Refusal {
	switch w.state {
	case streamEntering:
		due := time.NewTimer(time.Until(until))
		defer due.Stop()
		select {
		case r := <-w.entered:
			if r != nil {
				w.s.cfg.Metrics.Refused(r)
				return r
			}
			w.state = streamEntered
		case <-due.C:
		}
	case streamEntered:
		x, err := w.s.upstream.send(w.c, w.req)
		w.releaseBody()
		if errors.Is(err, errUnsent) {
			r := w.s.engineFault(w.c, err)
			w.s.cfg.Metrics.Refused(r)
			return r
		}
		if err != nil {
			return w.s.noAnswer(w.c, w.m, err)
		}
		w.state, w.x = streamAsked, x
	case streamAsked:
		if !w.x.readable(until) {
			return nil
		}
		x := w.x
		w.x = nil
		if err := w.s.upstream.readHead(w.c, x); err != nil {
			return w.s.noAnswer(w.c, w.m, err)
		}
		if x.resp.StatusCode() != fasthttp.StatusOK || !isType(x.resp, "text/event-stream") {
			return w.s.noStream(w.c, w.m, x)
		}
		w.state, w.answer = streamAnswering, w.s.newAnswer(w.c, w.m, x, formatEvents)
		w.answer.beat = w.beat
	default:
		panic("BUG: a stream that waits for nothing")
	}
	return nil
}

// noStream ends an exchange whose answer is no stream, and returns what the client is told:
// the call has its row then.
func (s *Server) noStream(c *call, m *meter.Meter, x *exchange) *refusal.Refusal {
	a := s.newAnswer(c, m, x, formatBody)
	defer a.endExchange()
	r := refusal.New(refusal.EngineFailed)
	if err := a.holdWhole(maxHeld); err != nil {
		r = s.engineFault(c, err)
	} else if a.status != fasthttp.StatusOK {
		r = refusal.Engine(a.status, meter.OpenAIError(a.status, a.tail))
	}
	return a.settle(r)
}

// releaseBody lets go of the request's body. Safe twice.
func (w *waitingStream) releaseBody() {
	if w.req != nil {
		fasthttp.ReleaseRequest(w.req)
		w.req = nil
	}
	w.s.bodies.release(w.kept)
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
	defer w.releaseBody() // nobody enters with it any more
	if w.state == streamAnswering {
		return w.answer.Close()
	}
	if w.state == streamRefused {
		return nil
	}
	w.c.cut(refusal.New(refusal.ClientClosed)) // it ends the wait
	switch w.state {
	case streamEntering:
		<-w.entered
	case streamAsked:
		if w.x != nil {
			w.s.upstream.drop(w.c, w.x)
		}
		if !w.c.isRecorded() {
			cause := w.c.cutCause()
			_ = w.s.record(w.c, w.m, statusFor(cause), cause.Status, time.Time{}) // a failure is logged where it happens
		}
	}
	w.s.end(w.c)
	return nil
}
