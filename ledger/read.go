package ledger

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"errors"
	"io"
	"time"
)

// Totals is a sum over requests.
type Totals struct {
	OK, Aborted, Failed, Lost int64
	LowerBound                int64 // how many of them are known only from below
	Usage                     Usage
}

// Requests is the number of requests, however they ended.
func (t Totals) Requests() int64 { return t.OK + t.Aborted + t.Failed + t.Lost }

func (t *Totals) add(r Request) {
	switch r.Status {
	case OK:
		t.OK++
	case Aborted:
		t.Aborted++
	case Failed:
		t.Failed++
	case Lost:
		t.Lost++
	}
	if r.LowerBound {
		t.LowerBound++
	}
	t.Usage.PromptTokens += r.Usage.PromptTokens
	t.Usage.CachedTokens += r.Usage.CachedTokens
	t.Usage.CompletionTokens += r.Usage.CompletionTokens
}

const minuteMicros = int64(time.Minute / time.Microsecond)

// floorMinute is the minute of us since 1970, rounding down also before it.
func floorMinute(us int64) int64 {
	m := us / minuteMicros
	if us%minuteMicros < 0 {
		m--
	}
	return m
}

// Totals sums the requests that finished in (from, to]. Whole minutes come
// from the rollup, the window's edges from the rows.
func (r *Reader) Totals(from, to time.Time) (Totals, error) {
	var t Totals
	err := r.snapshot(context.Background(), func(tx *sql.Tx) error {
		var err error
		t, err = totals(tx, micros(from), micros(to))
		return err
	})
	return t, err
}

func totals(tx *sql.Tx, from, to int64) (Totals, error) {
	var t Totals
	if to <= from {
		return t, nil
	}
	first, end := floorMinute(from)+1, floorMinute(to+1) // whole minutes: [first, end)
	if first >= end {
		return t, sumRows(tx, &t, from, to)
	}
	if err := sumRows(tx, &t, from, first*minuteMicros-1); err != nil {
		return t, err
	}
	if err := sumInto(tx, &t, `SELECT coalesce(sum(ok), 0), coalesce(sum(aborted), 0), coalesce(sum(failed), 0), coalesce(sum(lost), 0),
		coalesce(sum(lower_bound), 0), coalesce(sum(prompt_tokens), 0), coalesce(sum(cached_tokens), 0), coalesce(sum(completion_tokens), 0)
		FROM minute WHERE minute >= ? AND minute < ?`, first, end); err != nil {
		return t, err
	}
	return t, sumRows(tx, &t, end*minuteMicros-1, to)
}

// sumRows adds the rows of (from, to].
func sumRows(tx *sql.Tx, t *Totals, from, to int64) error {
	if to <= from {
		return nil
	}
	return sumInto(tx, t, `SELECT coalesce(sum(status = 'ok'), 0), coalesce(sum(status = 'aborted'), 0), coalesce(sum(status = 'failed'), 0),
		coalesce(sum(status = 'lost'), 0), coalesce(sum(lower_bound), 0), coalesce(sum(prompt_tokens), 0), coalesce(sum(cached_tokens), 0),
		coalesce(sum(completion_tokens), 0) FROM request WHERE finished > ? AND finished <= ?`, from, to)
}

func sumInto(tx *sql.Tx, t *Totals, query string, args ...any) error {
	var s Totals
	if err := tx.QueryRow(query, args...).Scan(&s.OK, &s.Aborted, &s.Failed, &s.Lost, &s.LowerBound,
		&s.Usage.PromptTokens, &s.Usage.CachedTokens, &s.Usage.CompletionTokens); err != nil {
		return err
	}
	t.OK += s.OK
	t.Aborted += s.Aborted
	t.Failed += s.Failed
	t.Lost += s.Lost
	t.LowerBound += s.LowerBound
	t.Usage.PromptTokens += s.Usage.PromptTokens
	t.Usage.CachedTokens += s.Usage.CachedTokens
	t.Usage.CompletionTokens += s.Usage.CompletionTokens
	return nil
}

// Newest returns the newest sample with its lines (without raw replies), or
// false where there is none.
func (r *Reader) Newest() (s Sample, ok bool, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		row := tx.QueryRow(selectSample + " ORDER BY at DESC LIMIT 1")
		if s, err = scanSample(row); errors.Is(err, sql.ErrNoRows) {
			return nil
		} else if err != nil {
			return err
		}
		ok = true
		s.Lines, err = lines(tx, s.ID)
		return err
	})
	return s, ok, err
}

// Provider is the name that SetProvider noted last, "" before the first.
func (r *Reader) Provider() (name string, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		err := tx.QueryRow("SELECT value FROM meta WHERE key = 'provider'").Scan(&name)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return name, err
}

// SampleAfter returns the time of the first sample at or after t, or false.
func (r *Reader) SampleAfter(t time.Time) (at time.Time, ok bool, err error) {
	return r.sampleTime("SELECT min(at) FROM sample WHERE at >= ?", t)
}

// SampleBefore returns the time of the last sample at or before t, or false.
func (r *Reader) SampleBefore(t time.Time) (at time.Time, ok bool, err error) {
	return r.sampleTime("SELECT max(at) FROM sample WHERE at <= ?", t)
}

func (r *Reader) sampleTime(query string, t time.Time) (at time.Time, ok bool, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		var us sql.NullInt64
		if err := tx.QueryRow(query, micros(t)).Scan(&us); err != nil {
			return err
		}
		at, ok = fromMicros(us.Int64), us.Valid
		return nil
	})
	return at, ok, err
}

// Epoch returns the epoch of the newest line of a resource, or false. An
// adapter that pins the start of a bill finds it here again after a restart.
func (r *Reader) Epoch(resource string) (epoch string, ok bool, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		err := tx.QueryRow(`SELECT epoch FROM line WHERE resource = ? ORDER BY sample DESC LIMIT 1`, resource).Scan(&epoch)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		ok = err == nil
		return err
	})
	return epoch, ok, err
}

// Frozen reports a running instance in the newest sample whose bill has not
// moved for longer than the sample's lag: the replies come, and the figures in
// them are dead. since is a sample from which on it stood still: the bill may
// have moved last before that. A span without samples that is longer than the
// lag is no evidence, for the machine may have been away in it.
func (r *Reader) Frozen() (resource string, since time.Time, frozen bool, err error) {
	s, ok, err := r.Newest()
	if err != nil || !ok {
		return "", time.Time{}, false, err
	}
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		for _, ln := range s.Lines {
			free := ln.Rate != nil && *ln.Rate == 0
			if ln.Kind != Instance && ln.Kind != AccountKind || !ln.Running || ln.Bill == nil || free {
				continue
			}
			since, err = stillSince(tx, s, ln)
			if err != nil {
				return err
			}
			if frozen = s.At.Sub(since) > s.Lag; frozen {
				resource = ln.Resource
				return nil
			}
		}
		return nil
	})
	return resource, since, frozen, err
}

// stillSince walks back from s for as long as ln's resource ran with the same
// bill, until that was for longer than the lag.
func stillSince(tx *sql.Tx, s Sample, ln Line) (time.Time, error) {
	since := s.At
	rows, err := tx.Query(`SELECT at, bill, running FROM sample JOIN line ON line.sample = sample.id
		WHERE at < ? AND resource = ? AND epoch = ? ORDER BY at DESC`, micros(s.At), ln.Resource, ln.Epoch)
	if err != nil {
		return since, err
	}
	defer rows.Close()
	for s.At.Sub(since) <= s.Lag && rows.Next() {
		var us int64
		var bill sql.NullInt64
		var running bool
		if err := rows.Scan(&us, &bill, &running); err != nil {
			return since, err
		}
		at := fromMicros(us)
		if !bill.Valid || Nanos(bill.Int64) != *ln.Bill || !running || since.Sub(at) > s.Lag {
			break
		}
		since = at
	}
	return since, rows.Err()
}

// Raw returns the billing reply behind a line of a sample, nil where none was kept.
func (r *Reader) Raw(sample int64, resource, epoch string) (body []byte, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		var packed []byte
		err := tx.QueryRow("SELECT body FROM line JOIN raw ON hash = raw WHERE sample = ? AND resource = ? AND epoch = ?",
			sample, resource, epoch).Scan(&packed)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			return err
		}
		body, err = io.ReadAll(z)
		return err
	})
	return body, err
}

const selectSample = "SELECT id, at, provider, account, currency, truth, step, lag, calibrated, every FROM sample"

func scanSample(row interface{ Scan(...any) error }) (Sample, error) {
	var s Sample
	var at, step, lag, every int64
	err := row.Scan(&s.ID, &at, &s.Provider, &s.Account, &s.Currency, &s.Truth, &step, &lag, &s.Calibrated, &every)
	s.At = fromMicros(at)
	s.Step, s.Lag, s.Every = fromDuration(step), fromDuration(lag), fromDuration(every)
	return s, err
}

func fromDuration(us int64) time.Duration { return time.Duration(us) * time.Microsecond }

func lines(tx *sql.Tx, sample int64) ([]Line, error) {
	rows, err := tx.Query("SELECT resource, epoch, kind, status, running, rate, bill, created FROM line WHERE sample = ? ORDER BY resource, epoch", sample)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Line
	for rows.Next() {
		var ln Line
		var rate, bill, created sql.NullInt64
		if err := rows.Scan(&ln.Resource, &ln.Epoch, &ln.Kind, &ln.Status, &ln.Running, &rate, &bill, &created); err != nil {
			return nil, err
		}
		ln.Rate, ln.Bill = nanosOrNil(rate), nanosOrNil(bill)
		if created.Valid {
			ln.Created = fromMicros(created.Int64)
		}
		out = append(out, ln)
	}
	return out, rows.Err()
}

func nanosOrNil(v sql.NullInt64) *Nanos {
	if !v.Valid {
		return nil
	}
	n := Nanos(v.Int64)
	return &n
}
