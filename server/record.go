package server

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server/engine"
)

// record writes what happens to the log and, as events, to the ledger.
type record struct {
	led *ledger.Ledger
	log *slog.Logger
	now func() time.Time
}

// event writes what happens now.
func (r record) event(d ledger.EventDetail) { r.write(r.now(), d) }

func (r record) write(at time.Time, d ledger.EventDetail) { r.failed(at, d, r.led.AddEvent(at, d)) }

// failed logs that an event could not be written; a ledger that is closed has ended with
// everything else.
func (r record) failed(at time.Time, d ledger.EventDetail, err error) {
	if err != nil && !errors.Is(err, ledger.ErrClosed) {
		r.log.Error("write an event", "event", ledger.NewEvent(at, d).Subject, "err", err)
	}
}

// engine says that the engine's state changed. identity names the engine.
func (r record) engine(identity string, t engine.Transition) {
	args := []any{"was", t.From, "cause", t.Cause}
	c := ledger.EngineChange{
		At: t.At, From: t.From, To: t.To, Engine: identity, Cause: t.Cause, PID: t.PID, Method: string(t.Method),
		Waiters: int64(t.Waiters), Left: int64(t.Abandoned.Left), Late: int64(t.Abandoned.Late), Phases: map[string]ledger.Seconds{},
	}
	for _, p := range t.Phases {
		c.Phases[p.Name] = ledger.Seconds(p.Took)
		args = append(args, p.Name, p.Took.Round(time.Millisecond))
	}
	if t.Canary != (engine.Usage{}) {
		c.Canary = &ledger.CanaryTokens{Prompt: t.Canary.PromptTokens, Completion: t.Canary.CompletionTokens}
	}
	if t.Method != "" {
		args = append(args, "by", t.Method)
	}
	level := slog.LevelInfo
	if t.To == ledger.Crashed {
		level = slog.LevelWarn
	}
	r.log.Log(context.Background(), level, "engine "+string(t.To), args...)
	r.write(c.At, c)
}

// gateRecord says that the gate opened or closed, and why. What the ledger could not
// take, since it was what failed, is written when it can.
type gateRecord struct {
	record
	limits    string // under which it opens, see ledger.GateOpened
	wasOpen   bool
	unwritten []gateEvent // owned by who evaluates the gate, one at a time
}

type gateEvent struct {
	at     time.Time
	detail ledger.EventDetail
}

// waitsForSample tells whether a gate is closed since no sample came yet, and none has
// failed: the bill of an earlier serve is old by then.
func waitsForSample(r *budget.Refusal) bool {
	return r.Reason == budget.ReasonNoSample || r.Reason == budget.ReasonStale || r.Reason == budget.ReasonStart
}

// unwrittenMost bounds what is kept: a ledger that fails for long fails in one way.
const unwrittenMost = 100

func (g *gateRecord) changed(r *budget.Refusal) {
	if r == nil {
		g.wasOpen = true
	} else if !g.wasOpen && waitsForSample(r) {
		return // how every start begins
	}
	e := gateEvent{g.now(), ledger.GateOpened{Budget: g.limits}}
	if r == nil {
		g.log.Info("gate open")
	} else {
		g.log.Warn("gate closed", "reason", r.Reason, "why", r.Detail, "means", budget.Sentence(r.Reason))
		e.detail = ledger.GateClosed{Reason: r.Reason, Why: r.Detail}
	}
	if len(g.unwritten) < unwrittenMost {
		g.unwritten = append(g.unwritten, e)
	}
	for len(g.unwritten) > 0 {
		first := g.unwritten[0]
		if err := g.led.AddEvent(first.at, first.detail); err != nil {
			g.failed(first.at, first.detail, err)
			return
		}
		g.unwritten = g.unwritten[1:]
	}
}
