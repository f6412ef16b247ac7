package ledger

import (
	"context"
	"database/sql"
	"time"
)

// The rows themselves, one after the other, of a window (from, to]. They are read in
// pages, each in a transaction of its own that has ended before the first of its rows is
// given: who takes them may pause for ever, as a pager does, and a read transaction that
// is open keeps SQLite from reusing its write-ahead log. What is written meanwhile may be
// among them.

// pageRows is how many rows are in memory at a time.
const pageRows = 1000

// inPages calls row for each of what read returns: the rows after one, nil for the first
// ones, and no more than pageRows.
func inPages[T any](ctx context.Context, r *Reader, read func(tx *sql.Tx, after *T) ([]T, error), row func(T) error) error {
	var after *T
	for {
		var page []T
		err := r.snapshot(ctx, func(tx *sql.Tx) (err error) {
			page, err = read(tx, after)
			return err
		})
		if err != nil {
			return err
		}
		for _, v := range page {
			if err := row(v); err != nil {
				return err
			}
		}
		if len(page) < pageRows {
			return nil
		}
		after = &page[len(page)-1]
	}
}

// keyedRow is a row with the integer that its table is read by.
type keyedRow[T any] struct {
	key int64
	row T
}

// keyedRows is how the rows of a table are read by a key that grows.
type keyedRows[T any] struct {
	newest string // asks for the highest key; what comes later is not read
	query  string // of (key, highest key), then args, in the order of the key
	after  int64
	args   []any
	scan   func(*sql.Tx, *sql.Rows) (key int64, row T, err error)
}

func (k keyedRows[T]) each(ctx context.Context, r *Reader, row func(T) error) error {
	var newest sql.NullInt64
	read := func(tx *sql.Tx, after *keyedRow[T]) (page []keyedRow[T], err error) {
		from := k.after
		if after != nil {
			from = after.key
		} else if err := tx.QueryRow(k.newest).Scan(&newest); err != nil || !newest.Valid {
			return nil, err
		}
		rows, err := tx.Query(k.query+" LIMIT ?", append(append([]any{from, newest.Int64}, k.args...), pageRows)...)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		for rows.Next() {
			var v keyedRow[T]
			if v.key, v.row, err = k.scan(tx, rows); err != nil {
				return nil, err
			}
			page = append(page, v)
		}
		return page, rows.Err()
	}
	return inPages(ctx, r, read, func(v keyedRow[T]) error { return row(v.row) })
}

// EachRequest calls row for each request that finished in the window, in that order.
func (r *Reader) EachRequest(ctx context.Context, w Window, row func(Request) error) error {
	return keyedRows[Request]{
		newest: "SELECT max(finished) FROM request",
		query: `SELECT finished, id, endpoint, model, key, stream, status, http, started, first, prompt_tokens, cached_tokens,
			completion_tokens, lower_bound FROM request WHERE finished > ? AND finished <= ? AND finished <= ? ORDER BY finished`,
		after: micros(w.From), args: []any{micros(w.To)},
		scan: func(_ *sql.Tx, rows *sql.Rows) (finished int64, q Request, err error) {
			var started int64
			var first sql.NullInt64
			err = rows.Scan(&finished, &q.ID, &q.Endpoint, &q.Model, &q.Key, &q.Stream, &q.Status, &q.HTTP, &started, &first,
				&q.Usage.PromptTokens, &q.Usage.CachedTokens, &q.Usage.CompletionTokens, &q.LowerBound)
			q.Finished, q.Started = fromMicros(finished), fromMicros(started)
			if first.Valid {
				q.First = fromMicros(first.Int64)
			}
			return finished, q, err
		},
	}.each(ctx, r, row)
}

// EachSample calls row for each sample in the window with its lines (without raw
// replies), in order.
func (r *Reader) EachSample(ctx context.Context, w Window, row func(Sample) error) error {
	return keyedRows[Sample]{
		newest: "SELECT max(at) FROM sample",
		query:  selectSample + " WHERE at > ? AND at <= ? AND at <= ? ORDER BY at",
		after:  micros(w.From), args: []any{micros(w.To)},
		scan: func(tx *sql.Tx, rows *sql.Rows) (int64, Sample, error) {
			s, err := scanSample(rows)
			if err == nil {
				s.Lines, err = lines(tx, s.ID)
			}
			return micros(s.At), s, err
		},
	}.each(ctx, r, row)
}

// EachSampleFailure calls row for each sample that failed in the window, in the order
// of their commits.
func (r *Reader) EachSampleFailure(ctx context.Context, w Window, row func(SampleFailure) error) error {
	return keyedRows[SampleFailure]{
		newest: "SELECT max(id) FROM sample_failure",
		query:  "SELECT id, at, call, class FROM sample_failure WHERE id > ? AND id <= ? AND at > ? AND at <= ? ORDER BY id",
		args:   []any{micros(w.From), micros(w.To)},
		scan: func(_ *sql.Tx, rows *sql.Rows) (id int64, f SampleFailure, err error) {
			var at int64
			err = rows.Scan(&id, &at, &f.Call, &f.Class)
			f.At = fromMicros(at)
			return id, f, err
		},
	}.each(ctx, r, row)
}

// EachEvent calls row for each event in the window, in the order of their commits.
func (r *Reader) EachEvent(ctx context.Context, w Window, row func(Event) error) error {
	return keyedRows[Event]{
		newest: "SELECT max(id) FROM event",
		query:  "SELECT id, at, kind, subject, detail FROM event WHERE id > ? AND id <= ? AND at > ? AND at <= ? ORDER BY id",
		args:   []any{micros(w.From), micros(w.To)},
		scan: func(_ *sql.Tx, rows *sql.Rows) (id int64, e Event, err error) {
			var at int64
			err = rows.Scan(&id, &at, &e.Kind, &e.Subject, &e.Detail)
			e.At = fromMicros(at)
			return id, e, err
		},
	}.each(ctx, r, row)
}

// EachEngineSample calls row for each reading of an engine's counters in the window,
// in order.
func (r *Reader) EachEngineSample(ctx context.Context, w Window, row func(EngineSample) error) error {
	return keyedRows[EngineSample]{
		newest: "SELECT max(at) FROM engine_sample",
		query: `SELECT at, started, engine, prompt, completion, with_cached, quiet FROM engine_sample
			WHERE at > ? AND at <= ? AND at <= ? ORDER BY at`,
		after: micros(w.From), args: []any{micros(w.To)},
		scan: func(_ *sql.Tx, rows *sql.Rows) (int64, EngineSample, error) {
			s, err := scanEngineSample(rows)
			return micros(s.At), s, err
		},
	}.each(ctx, r, row)
}

// gpuMinuteRow is a minute of a GPU with its key.
type gpuMinuteRow struct {
	at, gpu int64
	GPUMinute
}

// GPUMinutes calls row for each minute of a GPU that ended in (from, to], in
// order of time, until it returns an error.
func (r *Reader) GPUMinutes(from, to time.Time, row func(GPUMinute) error) error {
	read := func(tx *sql.Tx, after *gpuMinuteRow) (page []gpuMinuteRow, err error) {
		if after == nil {
			after = &gpuMinuteRow{at: micros(from) + 1}
		}
		rows, err := tx.Query(`SELECT at, gpu, uuid, name, source, since, readings, utilisation_avg, utilisation_max, memory_avg, memory_max,
				power_avg, power_max, temperature_max, energy
			FROM gpu_minute JOIN gpu ON gpu.id = gpu_minute.gpu WHERE (at, gpu) > (?, ?) AND at <= ? ORDER BY at, gpu LIMIT ?`,
			after.at, after.gpu, micros(to), pageRows)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		for rows.Next() {
			var m gpuMinuteRow
			var since int64
			if err := rows.Scan(&m.at, &m.gpu, &m.UUID, &m.Name, &m.Source, &since, &m.Readings, &m.UtilisationAvg, &m.UtilisationMax,
				&m.MemoryAvg, &m.MemoryMax, &m.PowerAvg, &m.PowerMax, &m.TemperatureMax, &m.Energy); err != nil {
				return nil, err
			}
			m.Since, m.At = fromMicros(since), fromMicros(m.at)
			page = append(page, m)
		}
		return page, rows.Err()
	}
	return inPages(context.Background(), r, read, func(m gpuMinuteRow) error { return row(m.GPUMinute) })
}
