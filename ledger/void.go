package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Void takes a sample out of every sum, by somebody's word. The sample itself, and what it
// holds, stays in the ledger.
type Void struct {
	Sample SampleRef
	At     time.Time // when it was written
	Reason string
}

// Ahead tells whether the sample lay ahead of the clock: then the gate forgets it, too.
func (v Void) Ahead() bool { return v.Sample.At.After(v.At) }

// SampleVoided is a sample that was taken out of every sum.
type SampleVoided struct{ Void }

func (v SampleVoided) eventDetail() any {
	return struct {
		Sample int64     `json:"sample"`
		Of     time.Time `json:"of"` // the sample's time
		Reason string    `json:"reason"`
	}{v.Sample.ID, v.Sample.At.UTC(), v.Reason}
}

// VoidSample takes a sample out of every sum. It never lowers what a budget has counted
// (see Spend.Voided), unless the sample lies ahead of the clock.
func (l *Ledger) VoidSample(id int64, reason string) (v Void, err error) {
	reason = strings.TrimSpace(reason)
	if err := CheckReason(reason); err != nil {
		return v, fmt.Errorf("void sample: %w", err)
	}
	err = l.submit(context.Background(), func(w *batch) error {
		var at int64
		var done bool
		err := w.scan("SELECT at, EXISTS (SELECT 1 FROM sample_void WHERE sample = id) FROM sample WHERE id = ?", []any{id}, &at, &done)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("void sample %d: there is none of that number: %w", id, ErrRefused)
		case err != nil:
			return err
		case done:
			return fmt.Errorf("void sample %d: it is void already: %w", id, ErrRefused)
		}
		v = Void{Sample: SampleRef{ID: id, At: fromMicros(at)}, At: fromMicros(micros(w.now)), Reason: reason}
		if _, _, err := w.insert(tableSampleVoid, id, micros(v.At), reason); err != nil {
			return fmt.Errorf("void sample %d: %w", id, err)
		}
		if err := w.addEvent(NewEvent(w.now, SampleVoided{v})); err != nil {
			return err
		}
		return w.rebuildBills()
	})
	return v, err
}

// rebuildBills makes the rollups of the bill anew from the samples that count: what a
// sample is subtracted from may be hours before it.
func (w *batch) rebuildBills() error {
	for _, query := range []string{
		"DELETE FROM bill_hour", "DELETE FROM sample_hour", "DELETE FROM gap",
		"UPDATE series SET first = NULL, first_at = NULL, base = NULL, created = NULL, rolled = 0",
	} {
		if _, err := w.exec(query); err != nil {
			return fmt.Errorf("sums of the bill: %w", err)
		}
	}
	err := replay(connQuerier{w.conn}, "counted", writeRollups(func(query string, args ...any) error {
		_, err := w.exec(query, args...)
		return err
	}))
	if err != nil {
		return fmt.Errorf("sums of the bill: %w", err)
	}
	return nil
}

// querier is a transaction as replay reads it.
type querier interface {
	Query(query string, args ...any) (*sql.Rows, error)
}

type connQuerier struct{ conn *sql.Conn }

func (c connQuerier) Query(query string, args ...any) (*sql.Rows, error) {
	return c.conn.QueryContext(context.Background(), query, args...)
}

// Voids returns the samples of [from, to] that are in no sum, in order.
func (r *Reader) Voids(from, to time.Time) (found []Void, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT sample.id, sample.at, sample_void.at, reason FROM sample_void JOIN sample ON sample.id = sample
			WHERE sample.at >= ? AND sample.at <= ? ORDER BY sample.at`, micros(from), micros(to))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var v Void
			var of, at int64
			if err := rows.Scan(&v.Sample.ID, &of, &at, &v.Reason); err != nil {
				return err
			}
			v.Sample.At, v.At = fromMicros(of), fromMicros(at)
			found = append(found, v)
		}
		return rows.Err()
	})
	return found, err
}

// voidLine is a bill in a sample that is void and was not ahead of the clock.
type voidLine struct {
	known
	series          int64
	resource, epoch string
	created         sql.NullInt64
}

// voidRun is what stands between two neighbouring bills of a series that count, or before
// the first one, or after the last one.
type voidRun struct {
	before, after known // id 0 where there is none
	lines         []voidLine
	rolled        bool // where before is none: another epoch of the resource had been seen
}

// addVoided gives each spend what the samples that are void would add to its gross.
func addVoided(tx *sql.Tx, windows []Window, spends []Spend) error {
	var any bool
	err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM sample_void JOIN sample ON sample.id = sample WHERE sample.at <= sample_void.at)").Scan(&any)
	if err != nil || !any {
		return err
	}
	runs, err := voidRuns(tx, micros(windows[len(windows)-1].To))
	if err != nil {
		return err
	}
	for i, w := range windows {
		// Where the window began before samples were voided.
		var start int64
		err := tx.QueryRow(`WITH had AS (SELECT sample.at FROM sample LEFT JOIN sample_void ON sample = sample.id WHERE sample_void.at IS NULL OR sample.at <= sample_void.at)
			SELECT coalesce((SELECT max(at) FROM had WHERE at <= ?), min(at)) FROM had`, micros(w.From)).Scan(&start)
		if err != nil {
			return err
		}
		if spends[i].Voided, err = bornBefore(tx, spends[i], start); err != nil {
			return err
		}
		for _, run := range runs {
			n, err := run.in(micros(w.From), micros(w.To), start, spends[i])
			if err == nil {
				spends[i].Voided, err = spends[i].Voided.Add(n)
			}
			if err != nil {
				return fmt.Errorf("samples that are void: %w", err)
			}
		}
	}
	return nil
}

// bornBefore is what stands on the bill where a spend begins, of resources that were made
// after start: with the void samples the window began there, and all of that was in it.
// Resources that were in a void sample before are left to their runs.
func bornBefore(tx *sql.Tx, sp Spend, start int64) (n Nanos, err error) {
	if sp.Count == 0 || micros(sp.From.At) <= start {
		return 0, nil
	}
	err = tx.QueryRow(`SELECT coalesce(sum(base), 0) FROM series WHERE first = ? AND created > ? AND NOT rolled AND base > 0
		AND NOT EXISTS (SELECT 1 FROM sample_void JOIN reading ON reading.sample = sample_void.sample JOIN state ON state.id = reading.state
			WHERE state.series = series.id AND bill IS NOT NULL AND sample_void.sample < series.first)`, sp.From.ID, start).Scan(&n)
	return n, err
}

// voidRuns reads the lines of void samples up to an instant.
func voidRuns(tx *sql.Tx, to int64) (runs []voidRun, err error) {
	rows, err := tx.Query(`SELECT sample.id, sample.at, bill, series.id, resource, epoch, state.created FROM sample_void
		JOIN sample ON sample.id = sample_void.sample JOIN reading ON reading.sample = sample.id
		JOIN state ON state.id = state JOIN series ON series.id = state.series
		WHERE sample.at <= sample_void.at AND sample.at <= ? AND bill IS NOT NULL ORDER BY series.id, sample.at`, to)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var lines []voidLine
	for rows.Next() {
		var ln voidLine
		if err := rows.Scan(&ln.id, &ln.at, &ln.bill, &ln.series, &ln.resource, &ln.epoch, &ln.created); err != nil {
			return nil, err
		}
		lines = append(lines, ln)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	for i, ln := range lines {
		run := voidRun{lines: []voidLine{ln}}
		if run.before, err = lastKnown(tx, ln.series, ln.at); err != nil {
			return nil, err
		}
		if i > 0 && lines[i-1].series == ln.series && runs[len(runs)-1].before.id == run.before.id {
			runs[len(runs)-1].lines = append(runs[len(runs)-1].lines, ln)
			continue
		}
		if run.after, err = nextKnown(tx, ln.series, ln.at); err != nil {
			return nil, err
		}
		if run.before.id == 0 {
			err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM series JOIN series AS other USING (resource, provider)
				WHERE series.id = ? AND other.id <> series.id AND other.seen <= ?)`, ln.series, ln.id).Scan(&run.rolled)
			if err != nil {
				return nil, err
			}
		}
		runs = append(runs, run)
	}
	return runs, nil
}

// in is what the run would add to the gross of (from, to], never less than nothing. start
// is where that window began with the void samples, sp what it spends without them.
func (v voidRun) in(from, to, start int64, sp Spend) (Nanos, error) {
	bills := make([]known, 0, len(v.lines)+1)
	for _, ln := range v.lines {
		bills = append(bills, ln.known)
	}
	if v.after.id != 0 {
		bills = append(bills, v.after)
	}
	var with Nanos
	prev := v.before
	for i, now := range bills {
		if first := v.lines[0].created; i == 0 && prev.id == 0 && !v.rolled && first.Valid && first.Int64 > start {
			prev.id = now.id // it was made in the window: all of its bill is of it
		}
		g, err := since(prev, now.bill)
		if err == nil && now.at > from && now.at <= to {
			with, err = with.Add(g.gross)
		}
		if err != nil {
			return 0, err
		}
		prev = now
	}
	without, err := v.counts(from, to, sp)
	if err != nil {
		return 0, err
	}
	d, err := with.Sub(without)
	return max(0, d), err
}

// counts is what the bill after the run has added to a spend.
func (v voidRun) counts(from, to int64, sp Spend) (Nanos, error) {
	if v.after.id == 0 || v.after.at <= from || v.after.at > to {
		return 0, nil
	}
	if v.before.id != 0 {
		g, err := since(v.before, v.after.bill)
		return g.gross, err
	}
	born := slices.ContainsFunc(sp.Resources, func(r ResourceSpend) bool {
		return r.Resource == v.lines[0].resource && r.Epoch == v.lines[0].epoch && r.First.ID == v.after.id && r.Base == 0
	})
	if born {
		return max(0, v.after.bill), nil
	}
	return 0, nil
}

// nextKnown is the first bill of a series after an instant, of a sample that counts.
func nextKnown(tx *sql.Tx, series, at int64) (k known, err error) {
	const inHour = `SELECT sample.id, at, bill FROM counted AS sample JOIN reading ON reading.sample = sample.id JOIN state ON state.id = state
		WHERE at > ? AND at <= ? AND series = ? AND bill IS NOT NULL ORDER BY at LIMIT 1`
	hour := billHour(at)
	err = tx.QueryRow(inHour, at, (hour+1)*hourMicros, series).Scan(&k.id, &k.at, &k.bill)
	if errors.Is(err, sql.ErrNoRows) {
		err = tx.QueryRow("SELECT hour FROM bill_hour WHERE series = ? AND hour > ? AND last IS NOT NULL ORDER BY hour LIMIT 1", series, hour).Scan(&hour)
		if err == nil {
			err = tx.QueryRow(inHour, hour*hourMicros, (hour+1)*hourMicros, series).Scan(&k.id, &k.at, &k.bill)
		}
	}
	if errors.Is(err, sql.ErrNoRows) {
		return known{}, nil
	}
	return k, err
}
