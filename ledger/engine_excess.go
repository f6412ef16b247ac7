package ledger

import (
	"context"
	"database/sql"
	"fmt"
)

// EngineExcess is what the engine's counters hold of a request beyond its row: without it a
// difference between the two could not be explained, or would explain too much.
type EngineExcess struct {
	// PromptAgain is what the engine counts again, exactly: vLLM counts a prompt once for
	// each choice of it.
	PromptAgain int64

	// The most that the engine may have made unseen.
	Prompt, Completion Most
}

// Most is a bound, where there is one.
type Most struct {
	N     int64
	Known bool
}

func (m Most) column() sql.NullInt64 { return sql.NullInt64{Int64: m.N, Valid: m.Known} }

// addExcess writes what is known of the excess of a request that finished at at.
func (w *batch) addExcess(at int64, r Request) error {
	if r.Excess == (EngineExcess{}) {
		return nil
	}
	if _, _, err := w.insert(tableEngineExcess, at, r.Excess.PromptAgain, r.Excess.Prompt.column(), r.Excess.Completion.column()); err != nil {
		return fmt.Errorf("request %s: %w", r.ID, err)
	}
	return nil
}

// excess is the sum over the requests of a span.
type excess struct {
	again              int64
	prompt, completion int64
	// Of the requests that are known only from below, how many have a bound.
	promptBounds, completionBounds int64
}

// excessOf sums the requests that finished in (from, to], in microseconds.
func (r *Reader) excessOf(from, to int64) (e excess, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		return tx.QueryRow(`SELECT coalesce(sum(prompt_again), 0), coalesce(sum(prompt_most), 0), coalesce(sum(completion_most), 0),
			coalesce(sum(lower_bound AND prompt_most IS NOT NULL), 0), coalesce(sum(lower_bound AND completion_most IS NOT NULL), 0)
			FROM engine_excess CROSS JOIN request USING (finished) WHERE engine_excess.finished > ? AND engine_excess.finished <= ?`, from, to).
			Scan(&e.again, &e.prompt, &e.completion, &e.promptBounds, &e.completionBounds)
	})
	return e, err
}

// uncachedPooled are the prompt tokens beyond the cache of embeddings and rankings: llama-server
// counts them since build 11669 or shortly before, and older ones do not.
func (r *Reader) uncachedPooled(from, to int64) (n int64, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		return tx.QueryRow(`SELECT coalesce(sum(prompt_tokens - cached_tokens), 0) FROM request
			WHERE finished > ? AND finished <= ? AND endpoint IN ('embeddings', 'rerank')`, from, to).Scan(&n)
	})
	return n, err
}
