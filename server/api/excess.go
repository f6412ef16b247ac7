package api

import (
	"context"
	"errors"
	"time"

	"spotinference/ledger"
	"spotinference/server/meter"
	"spotinference/server/queue"
)

// What an engine may have made beyond what was seen of it, and how that is found out.

// excess is what the engine's counters may hold of a call beyond its row. unseen says that
// the engine may have worked on it unseen.
func (s *Server) excess(c *call, m *meter.Meter, unseen bool) (x ledger.EngineExcess) {
	u, vllm := m.Usage(), s.dialectOf() == meter.VLLM
	if vllm && c.ask.N > 1 {
		x.PromptAgain = int64(c.ask.N-1) * u.PromptTokens
	}
	if !unseen {
		return x
	}
	switch m.Dialect() {
	case meter.Chat, meter.Completions, meter.Responses, meter.Messages:
	default:
		return x
	}
	prompts := int64(max(c.ask.Prompts, 1))
	choices := prompts * int64(max(c.ask.N, 1))
	size := s.contextSize.Load()
	most := size
	if n := c.ask.MaxTokens; n > 0 && (n < most || most == 0) {
		most = n
	}
	if most == 0 {
		return x
	}
	x.Completion = ledger.Most{N: max(choices*most-u.CompletionTokens, 0), Known: true}
	if size == 0 {
		return x
	}
	read := prompts
	if vllm {
		read = choices
	}
	x.Prompt = ledger.Most{N: max(read*size-u.PromptTokens-x.PromptAgain, 0), Known: true}
	return x
}

// counterPause is the least time between two looks at the engine's counters that requests
// are the reason of: llama-server, when it is asked more than once a second, does not see
// that a client has left.
const counterPause = 3 * time.Second

// moved is what the engine's counters tell of a request that failed.
type moved uint8

const (
	movedUnknown moved = iota // something else moved them, too, or they cannot be read now
	movedNothing
	movedSome
)

// movedBy tells by the engine's counters whether it worked on a call that it answered with
// an error. Only where nothing else ran can that be told.
func (s *Server) movedBy(c *call) moved {
	if s.cfg.Audit == nil || !s.audit.mu.TryLock() {
		return movedUnknown
	}
	defer s.audit.mu.Unlock()
	before := s.cfg.Engine.Status()
	begun, running := s.calls.count()
	now := time.Now()
	if !hasCounters(before) || running != 1 || now.Sub(s.audit.read) < counterPause {
		return movedUnknown
	}
	s.audit.read = now
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	at := s.cfg.Now()
	n, err := queue.ReadCounters(ctx, s.cfg.Engine)
	after := s.cfg.Engine.Status()
	begunSince, _ := s.calls.count()
	if err != nil || n.Running > 0 || begunSince != begun || !after.StartedAt.Equal(before.StartedAt) {
		return movedUnknown
	}
	base := s.audit.base
	if base != nil && !base.Started.Equal(before.StartedAt) {
		base = nil
	}
	check, err := s.cfg.Audit.CheckEngine(base, ledger.EngineSample{
		At: at, Started: before.StartedAt, Engine: string(s.cfg.Engine.Kind()), Prompt: n.Prompt, Completion: n.Completion, WithCached: n.WithCached, Quiet: true,
	})
	switch {
	case err != nil || check.Prompt.Rounding > 0 || check.Completion.Rounding > 0:
		return movedUnknown
	case check.Prompt.Cause == ledger.DiffNone && check.Completion.Cause == ledger.DiffNone:
		return movedNothing
	case check.LowerBound > 0 || s.audit.drift:
		return movedUnknown
	}
	return movedSome
}

// judge says of a call without an exact count whether its row is known only from below, and
// whether the engine may have worked on it unseen. An error of the engine's is judged by the
// engine's counters, and where these do not tell, by its status: a request that it refuses
// has made nothing, as a rule.
func (s *Server) judge(c *call, status ledger.Status) (lowerBound, unseen bool) {
	if status != ledger.Failed || c.cutCause() != nil || c.engineStatus < 400 {
		return true, true
	}
	switch s.movedBy(c) {
	case movedNothing:
		return false, false
	case movedSome:
		return true, true
	}
	refused := c.engineStatus < 500 || c.engineStatus == 501
	return !refused, !refused || s.dialectOf() == meter.VLLM
}

// missing notes counters that the engine's page of metrics lacks, once for each process.
func (s *Server) missing(at, started time.Time, err error) {
	var m queue.MissingCounters
	if !errors.As(err, &m) || s.audit.missed.Equal(started) {
		return
	}
	s.audit.missed = started
	s.cfg.Log.Warn("the engine's metrics lack a counter: nothing holds its tokens against the ledger", "counters", []string(m))
	if err := s.cfg.Audit.AddEvent(at, ledger.MeterMissing{Engine: string(s.cfg.Engine.Kind()), Counters: m}); err != nil {
		s.ledgerFailed(err)
	}
}
