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

// How a request enters the engine. Where it sleeps, the request waits until it is
// awake: one that asked for a stream hears of us meanwhile.

// heartbeat is Config.Heartbeat by default. The first one goes along with the status:
// until then a refusal still has a status of its own.
const heartbeat = 10 * time.Second

// beat is a comment: a reader of events skips it.
const beat = ": waiting for the engine\n\n"

// tryEnter lets a call into an engine that is ready.
func (s *Server) tryEnter(c *call) bool {
	in := s.cfg.Engine.TryAdmit()
	if in {
		c.inside.Store(true)
	}
	return in
}

// enter lets a call into the engine, which it may have to wait for, or says why not. A
// call that is cut meanwhile does not wait on.
func (s *Server) enter(c *call) *refusal.Refusal {
	if s.tryEnter(c) {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if !c.waits(cancel) {
		return c.why()
	}
	defer c.waits(nil)
	err := s.cfg.Engine.Admit(ctx)
	switch {
	case err == nil:
		e := s.keys.still(c.key, s.cfg.Now())
		if err := s.cfg.Gate.Allow(); err != nil { // much may have been spent meanwhile
			e = refusal.Gate(err)
		}
		if e != nil {
			s.cfg.Engine.Release(false)
			return e
		}
		c.started = s.cfg.Now() // before, it cost the engine nothing
		c.inside.Store(true)
		return nil
	case c.why() != nil:
		return c.why()
	case errors.Is(err, queue.ErrFull):
		return refusal.New(refusal.QueueFull)
	case errors.Is(err, queue.ErrWakeTimeout):
		return refusal.New(refusal.WakeTimeout)
	}
	return s.notReady()
}

// notReady says when asking again may help, where that is known.
func (s *Server) notReady() *refusal.Refusal {
	var wait time.Duration
	if next := s.cfg.Engine.Status().NextStart; !next.IsZero() {
		wait = time.Until(next)
	}
	return refusal.EngineNotReady(wait)
}

// forget ends a call: it leaves the engine, and nobody looks at it any more.
func (s *Server) forget(c *call) {
	s.calls.remove(c)
	if c.inside.Swap(false) {
		s.cfg.Engine.Release(!c.glance)
	}
}

// waits has cut call end, nil for nothing. It is false where the call was cut already.
func (c *call) waits(end func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wait = end
	return c.cause == nil
}

// waiting reports whether the call waits for the engine.
func (c *call) waiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wait != nil
}

// await is enter for a call that may have to wait for long. It returns the channel
// that will bring enter's answer where that is not there within a heartbeat.
func (s *Server) await(c *call) (*refusal.Refusal, <-chan *refusal.Refusal) {
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
	case e := <-entered:
		return e, nil
	case <-patience.C:
		return nil, entered
	}
}

// held is the answer to a stream that waits for the engine: heartbeats, then what
// the engine says. fasthttp has it write itself, as a body does.
type held struct {
	s       *Server
	c       *call
	m       *meter.Meter
	req     *fasthttp.Request
	entered <-chan *refusal.Refusal
	b       *body // once the engine answers
	over    bool  // the call is ended, and has its row where it has one
}

// hold answers a stream that waits.
func (s *Server) hold(ctx *fasthttp.RequestCtx, h *held) {
	streamHead(ctx)
	ctx.Response.ImmediateHeaderFlush = true
	ctx.Response.SetBodyStream(h, -1)
}

func (h *held) Read([]byte) (int, error) { panic("BUG: an answer writes itself") }

func (h *held) SupportsBodyWriteTo() bool { return true }

func (h *held) WriteTo(w io.Writer) (sent int64, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = h.s.panicked(h.c, v)
			h.c.cut(refusal.New(refusal.Internal))
			if h.c.inside.Load() && !h.c.recorded {
				_ = h.s.record(h.c, h.m, ledger.Failed, fasthttp.StatusInternalServerError, time.Time{})
			}
		}
	}()
	write := func(p []byte) error {
		if h.c.why() == nil {
			_ = h.c.client.SetWriteDeadline(h.s.cfg.Now().Add(writeTimeout))
		}
		n, err := w.Write(p)
		sent += int64(n)
		return err
	}
	next := time.NewTicker(h.s.cfg.Heartbeat)
	defer next.Stop()
	for {
		if err := write([]byte(beat)); err != nil {
			return sent, err
		}
		select {
		case <-next.C:
			continue
		case e := <-h.entered:
			h.entered = nil
			if e == nil {
				h.b, e = h.s.ask(h.c, h.m, h.req)
			}
			if e != nil {
				h.over = true
				h.s.cfg.Metrics.Refused(e)
				h.s.forget(h.c)
				return sent, write(e.Event(h.c.dialect, h.c.id))
			}
			n, err := h.b.WriteTo(w)
			return sent + n, err
		}
	}
}

// ask sends a request whose client has its status already, and returns the stream
// of the answer, or why there is none; the call has its row then.
func (s *Server) ask(c *call, m *meter.Meter, req *fasthttp.Request) (*body, *refusal.Refusal) {
	x, err := s.upstream.do(c, req, s.cfg.Now())
	if errors.Is(err, errUnsent) {
		return nil, s.fault(c, err)
	}
	if err != nil {
		return nil, s.failed(c, m, err)
	}
	b := &body{s: s, c: c, m: m, x: x, src: x.resp.BodyStream(), status: x.resp.StatusCode()}
	if b.status == fasthttp.StatusOK && isType(x.resp, "text/event-stream") {
		return b, nil
	}
	defer b.letGo()
	b.json = true
	e := refusal.New(refusal.EngineFailed)
	if err := b.hold(maxHeld); err != nil {
		e = s.fault(c, err)
	} else if b.status != fasthttp.StatusOK {
		e = refusal.Engine(b.status, meter.OpenAIError(b.status, b.held))
	}
	return nil, b.conclude(e)
}

// Close is called by fasthttp when the answer was written, or could not be.
func (h *held) Close() error {
	defer fasthttp.ReleaseRequest(h.req)
	if h.b != nil {
		return h.b.Close()
	}
	if !h.over {
		h.c.cut(refusal.New(refusal.ClientClosed)) // it ends the wait
		if h.entered != nil {
			<-h.entered
		}
		h.s.forget(h.c)
	}
	return nil
}
