package api

import (
	"context"
	"errors"
	"sync"
	"time"

	"spotinference/ledger"
	"spotinference/server/queue"
)

// Audit is where the engine's own counters are kept beside the rows, and held
// against them. *ledger.Ledger has it.
type Audit interface {
	AddEngineSample(ledger.EngineSample) error
	CheckEngine(from *ledger.EngineSample, to ledger.EngineSample) (ledger.EngineCheck, error)
	AddEvent(time.Time, ledger.EventDetail) error
}

// audit is what the sampling of the counters remembers. Guarded by mu.
type audit struct {
	mu    sync.Mutex
	base  *ledger.EngineSample // the last quiet one of the engine's process; nil: from its start
	last  ledger.EngineSample  // the last one written
	drift bool                 // one was reported since base

	read   time.Time // when the counters were asked for last; see counterPause
	sized  time.Time // the start of the process whose context is known
	missed time.Time // likewise, of that whose counters were found missing
}

// counterWait bounds the wait for an engine that may hang.
const counterWait = 5 * time.Second

// watchCounters samples the engine's counters until ctx ends.
func (s *Server) watchCounters(ctx context.Context) {
	if s.cfg.Audit == nil {
		return
	}
	every(ctx, s.cfg.AuditEvery, func() { s.SampleCounters(ctx) })
}

// hasCounters reports whether the engine's process is one whose counters can be read.
func hasCounters(s queue.Status) bool {
	return s.State == ledger.Ready || s.State == ledger.Suspending
}

// SampleCounters takes one sample and checks whether it agrees with the rows. It is
// called before an engine is suspended, whose counters may end with its process; Run
// takes all other samples. The order matters: a row that is there before the counters
// are read is in them.
func (s *Server) SampleCounters(ctx context.Context) {
	if s.cfg.Audit == nil {
		return
	}
	if !s.audit.mu.TryLock() {
		return // a sample is being taken: an engine is not kept from being suspended
	}
	defer s.audit.mu.Unlock()
	before := s.cfg.Engine.Status()
	if !hasCounters(before) {
		return
	}
	begun, running := s.calls.count()
	at := s.cfg.Now()
	ctx, cancel := context.WithTimeout(ctx, counterWait)
	defer cancel()
	if !s.audit.sized.Equal(before.StartedAt) {
		if size, err := queue.ReadContext(ctx, s.cfg.Engine); err == nil {
			s.audit.sized = before.StartedAt
			s.contextSize.Store(size)
		}
	}
	s.audit.read = time.Now()
	n, err := queue.ReadCounters(ctx, s.cfg.Engine)
	if err != nil {
		s.missing(at, before.StartedAt, err)
		s.cfg.Log.Debug("sample the engine's counters", "err", err)
		return
	}
	after := s.cfg.Engine.Status()
	if !hasCounters(after) || after.PID != before.PID || !after.StartedAt.Equal(before.StartedAt) {
		return // which process they are of is not known
	}
	begunSince, _ := s.calls.count()
	sample := ledger.EngineSample{
		At: at, Started: before.StartedAt, Engine: string(s.cfg.Engine.Kind()), Prompt: n.Prompt, Completion: n.Completion,
		WithCached: n.WithCached, Quiet: running == 0 && n.Running == 0 && begunSince == begun,
	}
	if !s.audit.last.Started.Equal(sample.Started) {
		s.audit.base, s.audit.last, s.audit.drift = nil, ledger.EngineSample{}, false // its counters start again
	}
	err = s.writeSample(sample)
	if errors.Is(err, ledger.ErrRefused) { // a clock that was set back: the gate sees to that
		s.cfg.Log.Warn("sample the engine's counters", "err", err)
	} else if err != nil {
		s.ledgerFailed(err)
	}
}

// writeSample writes a sample, and an event where it disagrees with the rows.
func (s *Server) writeSample(sample ledger.EngineSample) error {
	a := &s.audit
	check, err := s.cfg.Audit.CheckEngine(a.base, sample)
	if err != nil {
		return err
	}
	idle := a.base != nil && a.base.At.Equal(a.last.At) && check.Requests == 0
	if idle && sample.Quiet && sample.Prompt == a.last.Prompt && sample.Completion == a.last.Completion {
		return nil // it would say the same again
	}
	if err := s.cfg.Audit.AddEngineSample(sample); err != nil {
		return err
	}
	a.last = sample
	if check.Drift() && !a.drift {
		a.drift = true
		s.cfg.Log.Error("the ledger and the engine's own counters disagree", "since", check.From, "requests", check.Requests,
			"prompt", check.Prompt.Ledger, "engine_prompt", check.Prompt.Engine, "completion", check.Completion.Ledger, "engine_completion", check.Completion.Engine)
		if err := s.cfg.Audit.AddEvent(check.To, ledger.MeterDrift{From: check.From, Prompt: check.Prompt, Completion: check.Completion}); err != nil {
			return err
		}
		s.cfg.Metrics.drifts.Inc()
	}
	if sample.Quiet {
		a.base, a.drift = &sample, false
	}
	return nil
}
