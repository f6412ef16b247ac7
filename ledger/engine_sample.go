package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// EngineSample is a reading of an engine's own counters of tokens, to hold the
// ledger against. They begin at zero with its process.
type EngineSample struct {
	At         time.Time // a request that had its row by then is in the counters
	Started    time.Time // of the engine's process
	Engine     string    // "llama" or "vllm"
	Prompt     int64
	Completion int64
	WithCached bool // Prompt includes the tokens that came from a cache
	Quiet      bool // nothing ran in the engine or on its way there: the counters were final
}

// AddEngineSample writes a reading. Of two at one instant the first stays.
func (l *Ledger) AddEngineSample(s EngineSample) error {
	if s.Engine == "" || s.Started.IsZero() || s.At.Before(s.Started) || s.Prompt < 0 || s.Completion < 0 {
		return fmt.Errorf("engine sample at %s of a process started at %s: %w", s.At, s.Started, ErrRefused)
	}
	return l.submit(context.Background(), func(w *batch) error {
		_, _, err := w.insert(tableEngineSample, micros(s.At), micros(s.Started), s.Engine, s.Prompt, s.Completion, s.WithCached, s.Quiet)
		if err != nil {
			return fmt.Errorf("engine sample: %w", err)
		}
		return nil
	})
}

// EngineRuns returns the last sample of each engine process that was sampled in
// (from, to], in the order of their starts.
func (r *Reader) EngineRuns(from, to time.Time) (last []EngineSample, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT at, started, engine, prompt, completion, with_cached, quiet FROM engine_sample
			WHERE at IN (SELECT max(at) FROM engine_sample WHERE at > ? AND at <= ? GROUP BY started) ORDER BY started`, micros(from), micros(to))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			s, err := scanEngineSample(rows)
			if err != nil {
				return err
			}
			last = append(last, s)
		}
		return rows.Err()
	})
	return last, err
}

func scanEngineSample(row interface{ Scan(...any) error }) (s EngineSample, err error) {
	var at, started int64
	err = row.Scan(&at, &started, &s.Engine, &s.Prompt, &s.Completion, &s.WithCached, &s.Quiet)
	s.At, s.Started = fromMicros(at), fromMicros(started)
	return s, err
}

// Why the engine's count and the ledger's are as far apart as they are.
const (
	DiffNone    = ""        // they agree, within the rounding of what the engine prints
	DiffCut     = "cut"     // requests were cut: the engine made more for them than was seen
	DiffRunning = "running" // requests were running: their rows were still to come
	DiffDrift   = "drift"   // nothing explains it: somebody counts wrongly
	DiffFailed  = "failed"  // requests failed that the engine may have worked on
)

// EngineDiff is one counter held against the ledger.
type EngineDiff struct {
	Engine, Ledger int64 // the engine's is less what it made for us after a wake
	Again          int64 // what the engine counts a second time: see EngineExcess
	Rounding       int64 // the most that rounding explains
	Cause          string
}

// Difference is what the engine has beyond the ledger and what it counts again; negative
// where it has less.
func (d EngineDiff) Difference() int64 { return d.Engine - d.Ledger - d.Again }

// EngineCheck is a span of an engine process held against the ledger.
type EngineCheck struct {
	From, To   time.Time
	Requests   int64 // that finished in it
	LowerBound int64 // of these, how many are known only from below
	Prompt     EngineDiff
	Completion EngineDiff
}

// Drift reports whether a difference has no explanation.
func (c EngineCheck) Drift() bool {
	return c.Prompt.Cause == DiffDrift || c.Completion.Cause == DiffDrift
}

// CheckEngine holds an engine's counters against the requests that finished
// between two of its samples, or since its process started where from is nil.
// from must be quiet: what ran then would be in both spans.
func (r *Reader) CheckEngine(from *EngineSample, to EngineSample) (EngineCheck, error) {
	if from == nil {
		from = &EngineSample{At: to.Started, Started: to.Started, Quiet: true}
	}
	if !from.Started.Equal(to.Started) || !from.Quiet {
		return EngineCheck{}, fmt.Errorf("check engine from %s to %s: not one process, or not quiet: %w", from.At, to.At, ErrRefused)
	}
	t, err := r.Totals(from.At, to.At)
	if err != nil {
		return EngineCheck{}, err
	}
	ours, err := r.canaries(from.At, to.At)
	if err != nil {
		return EngineCheck{}, err
	}
	x, err := r.excessOf(micros(from.At), micros(to.At))
	if err != nil {
		return EngineCheck{}, err
	}
	c := EngineCheck{From: from.At, To: to.At, Requests: t.Requests(), LowerBound: t.LowerBound}
	prompt := t.Usage.PromptTokens
	if !to.WithCached {
		prompt -= t.Usage.CachedTokens
	}
	c.Prompt = EngineDiff{Engine: to.Prompt - from.Prompt - ours.PromptTokens, Ledger: prompt, Again: x.again, Rounding: rounding(from.Prompt) + rounding(to.Prompt)}
	c.Completion = EngineDiff{Engine: to.Completion - from.Completion - ours.CompletionTokens, Ledger: t.Usage.CompletionTokens, Rounding: rounding(from.Completion) + rounding(to.Completion)}
	c.Completion.Cause = cause(c.Completion, to.Quiet, t.LowerBound, Most{x.completion, t.LowerBound == x.completionBounds})
	c.Prompt.Cause = cause(c.Prompt, to.Quiet, t.LowerBound, Most{x.prompt, t.LowerBound == x.promptBounds})
	if c.Prompt.Cause != DiffDrift || c.Prompt.Difference() > 0 {
		return c, nil
	}
	if t.LowerBound > 0 { // a request that was cut in its prefill has a prompt that was not all read
		c.Prompt.Cause = DiffCut
		return c, nil
	}
	pooled, err := r.uncachedPooled(micros(from.At), micros(to.At))
	if err != nil {
		return EngineCheck{}, err
	}
	if n := c.Prompt.Difference() + pooled; !to.WithCached && n <= c.Prompt.Rounding && n >= -c.Prompt.Rounding {
		c.Prompt.Cause = DiffNone
	}
	return c, nil
}

// canaries are the tokens in (from, to] that an engine made for us, when it was asked
// after a wake whether it answers: they are no request's. The event of that wake tells.
func (r *Reader) canaries(from, to time.Time) (u Usage, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		return tx.QueryRow(`SELECT coalesce(sum(detail ->> '$.canary.prompt_tokens'), 0), coalesce(sum(detail ->> '$.canary.completion_tokens'), 0)
			FROM event WHERE kind = ? AND at > ? AND at <= ? AND json_valid(detail)`, EventEngine, micros(from), micros(to)).Scan(&u.PromptTokens, &u.CompletionTokens)
	})
	return u, err
}

// cause judges a difference, of requests of which cut are known only from below. What they,
// and those that failed, may have made unseen explains it as far as most goes. The ledger
// counts less than was made, and later: it is ahead of an engine only while that has yet to
// end a request that was cut, whose tokens llama-server adds then.
func cause(d EngineDiff, quiet bool, cut int64, most Most) string {
	switch n := d.Difference(); {
	case n <= d.Rounding && n >= -d.Rounding:
		return DiffNone
	case n < 0 && (quiet || cut == 0):
		return DiffDrift
	case !quiet:
		return DiffRunning
	case most.Known && n > most.N+d.Rounding:
		return DiffDrift
	case cut > 0:
		return DiffCut
	}
	return DiffFailed
}

// exactCount is below what llama-server's six digits print exactly.
const exactCount = 1_000_000

// rounding is how far a printed counter may be off.
func rounding(n int64) int64 {
	if n < exactCount {
		return 0
	}
	return n/100_000 + 1
}
