package ledger

import (
	"context"
	"database/sql"
)

// The rows themselves, one after the other, of a window (from, to] and at one state of
// the ledger. However many there are, one is in memory at a time.

// EachRequest calls row for each request that finished in the window, in that order.
func (r *Reader) EachRequest(ctx context.Context, w Window, row func(Request) error) error {
	return r.each(ctx, `SELECT finished, id, endpoint, model, key, stream, status, http, started, first, prompt_tokens, cached_tokens,
			completion_tokens, lower_bound FROM request WHERE finished > ? AND finished <= ? ORDER BY finished`, w,
		func(rows *sql.Rows) error {
			var q Request
			var finished, started int64
			var first sql.NullInt64
			if err := rows.Scan(&finished, &q.ID, &q.Endpoint, &q.Model, &q.Key, &q.Stream, &q.Status, &q.HTTP, &started, &first,
				&q.Usage.PromptTokens, &q.Usage.CachedTokens, &q.Usage.CompletionTokens, &q.LowerBound); err != nil {
				return err
			}
			q.Finished, q.Started = fromMicros(finished), fromMicros(started)
			if first.Valid {
				q.First = fromMicros(first.Int64)
			}
			return row(q)
		})
}

// EachSample calls row for each sample in the window with its lines (without raw
// replies), in order.
func (r *Reader) EachSample(ctx context.Context, w Window, row func(Sample) error) error {
	return r.snapshot(ctx, func(tx *sql.Tx) error {
		return eachOf(tx, selectSample+" WHERE at > ? AND at <= ? ORDER BY at", w, func(rows *sql.Rows) error {
			s, err := scanSample(rows)
			if err == nil {
				s.Lines, err = lines(tx, s.ID)
			}
			if err != nil {
				return err
			}
			return row(s)
		})
	})
}

// EachSampleFailure calls row for each sample that failed in the window, in the order
// of their commits.
func (r *Reader) EachSampleFailure(ctx context.Context, w Window, row func(SampleFailure) error) error {
	return r.each(ctx, "SELECT at, call, class FROM sample_failure WHERE at > ? AND at <= ? ORDER BY id", w, func(rows *sql.Rows) error {
		var f SampleFailure
		var at int64
		if err := rows.Scan(&at, &f.Call, &f.Class); err != nil {
			return err
		}
		f.At = fromMicros(at)
		return row(f)
	})
}

// EachEvent calls row for each event in the window, in the order of their commits.
func (r *Reader) EachEvent(ctx context.Context, w Window, row func(Event) error) error {
	return r.each(ctx, "SELECT at, kind, subject, detail FROM event WHERE at > ? AND at <= ? ORDER BY id", w, func(rows *sql.Rows) error {
		var e Event
		var at int64
		if err := rows.Scan(&at, &e.Kind, &e.Subject, &e.Detail); err != nil {
			return err
		}
		e.At = fromMicros(at)
		return row(e)
	})
}

// EachEngineSample calls row for each reading of an engine's counters in the window,
// in order.
func (r *Reader) EachEngineSample(ctx context.Context, w Window, row func(EngineSample) error) error {
	return r.each(ctx, `SELECT at, started, engine, prompt, completion, with_cached, quiet FROM engine_sample
			WHERE at > ? AND at <= ? ORDER BY at`, w,
		func(rows *sql.Rows) error {
			s, err := scanEngineSample(rows)
			if err != nil {
				return err
			}
			return row(s)
		})
}

func (r *Reader) each(ctx context.Context, query string, w Window, row func(*sql.Rows) error) error {
	return r.snapshot(ctx, func(tx *sql.Tx) error { return eachOf(tx, query, w, row) })
}

func eachOf(tx *sql.Tx, query string, w Window, row func(*sql.Rows) error) error {
	rows, err := tx.Query(query, micros(w.From), micros(w.To))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
