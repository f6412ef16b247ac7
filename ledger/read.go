package ledger

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// selectFirstOwn is the first sample that is the ledger's own: those before it are Past.
const selectFirstOwn = "SELECT sample.id, at, source FROM counted AS sample JOIN source ON source.id = source WHERE every >= 0 ORDER BY at LIMIT 1"

func firstOwn(row interface{ Scan(...any) error }) (a instant, ok bool, err error) {
	err = row.Scan(&a.id, &a.at, &a.source)
	if errors.Is(err, sql.ErrNoRows) {
		return instant{}, false, nil
	}
	return a, err == nil, err
}

// Newest returns the newest sample with its lines (without raw replies), or
// false where there is none. Those of the time before the ledger do not count.
func (r *Reader) Newest() (s Sample, ok bool, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		row := tx.QueryRow(selectSample + " ORDER BY at DESC LIMIT 1")
		if s, err = scanSample(row); errors.Is(err, sql.ErrNoRows) || s.Past {
			s = Sample{}
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

// ownFrom is when the ledger's own samples begin, as SQL; null before the first.
const ownFrom = "(SELECT at FROM (" + selectFirstOwn + "))"

// SampleAfter returns the time of the first sample at or after t, or false.
func (r *Reader) SampleAfter(t time.Time) (at time.Time, ok bool, err error) {
	return r.sampleTime("SELECT min(at) FROM counted WHERE at >= ? AND at >= "+ownFrom, t)
}

// SampleBefore returns the time of the last sample at or before t, or false.
func (r *Reader) SampleBefore(t time.Time) (at time.Time, ok bool, err error) {
	return r.sampleTime("SELECT max(at) FROM counted WHERE at <= ? AND at >= "+ownFrom, t)
}

// SamplesBefore is SampleBefore of each instant, at one state of the ledger. Those
// without a sample are left out.
func (r *Reader) SamplesBefore(instants []time.Time) (at []time.Time, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		before, err := tx.Prepare("SELECT max(at) FROM counted WHERE at <= ? AND at >= " + ownFrom)
		if err != nil {
			return err
		}
		defer before.Close()
		for _, t := range instants {
			var us sql.NullInt64
			if err := before.QueryRow(micros(t)).Scan(&us); err != nil {
				return err
			}
			if us.Valid {
				at = append(at, fromMicros(us.Int64))
			}
		}
		return nil
	})
	return at, err
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
		err := tx.QueryRow(`SELECT epoch FROM series WHERE resource = ? ORDER BY
			(SELECT seen FROM bill_hour WHERE bill_hour.series = series.id ORDER BY hour DESC LIMIT 1) DESC, seen DESC, epoch DESC LIMIT 1`, resource).Scan(&epoch)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		ok = err == nil
		return err
	})
	return epoch, ok, err
}

// openFor is for how long, in samples, a resource out of sight is still looked for.
const openFor = 30 * time.Minute

// Open returns the resources of provider that stood in a sample of late and whose
// bill is not closed: what the next sample must have, or ask for once more.
func (r *Reader) Open(provider string) (resources []string, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		// SQLite takes status from the row of the maximum. A bill that moved has two
		// there, and neither is closed.
		rows, err := tx.Query(`SELECT resource FROM (SELECT resource, status, max(at) FROM counted AS sample
				JOIN reading ON reading.sample = sample.id JOIN state ON state.id = reading.state JOIN series ON series.id = state.series
				WHERE at >= (SELECT max(at) FROM counted) - ? AND provider = ? GROUP BY resource)
			WHERE status <> ? ORDER BY resource`, openFor.Microseconds(), provider, StatusClosed)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return err
			}
			resources = append(resources, name)
		}
		return rows.Err()
	})
	return resources, err
}

// NewestFailure returns the newest dark minute, or false where there is none.
func (r *Reader) NewestFailure() (f SampleFailure, ok bool, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		var us int64
		err := tx.QueryRow("SELECT id, at, call, class FROM sample_failure ORDER BY id DESC LIMIT 1").Scan(&f.ID, &us, &f.Call, &f.Class)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		f.At, ok = fromMicros(us), err == nil
		return err
	})
	return f, ok, err
}

// MaxRate returns the highest rate per hour that the lines of one sample in (from, to]
// make together, nil where none of them has a rate. Bills that have ended count no
// more, nor does what has no known rate. A rate is never spend: this is what a margin
// and a warning are made of.
func (r *Reader) MaxRate(from, to time.Time) (rate *Nanos, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		var most sql.NullInt64
		err := tx.QueryRow(`SELECT max(total) FROM (SELECT sum(rate) AS total FROM counted AS sample
				JOIN reading ON reading.sample = sample.id JOIN state ON state.id = reading.state
				WHERE at > ? AND at <= ? AND status NOT IN (?, ?, ?) GROUP BY sample.id)`,
			micros(from), micros(to), StatusMoved, StatusGone, StatusClosed).Scan(&most)
		rate = nanosOrNil(most)
		return err
	})
	return rate, err
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

// OlderThanLag reports whether the resource of a line of s is older than the sample's lag,
// by the provider's word for its birth, or by our own sight of it.
func (r *Reader) OlderThanLag(s Sample, ln Line) (old bool, err error) {
	if !ln.Created.IsZero() {
		return s.At.Sub(ln.Created) > s.Lag, nil
	}
	// No search through a year of samples: what was not seen for so long may be new again.
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		return tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM counted AS sample JOIN line ON line.sample = sample.id
			WHERE at < ? AND at >= ? AND resource = ?)`,
			micros(s.At)-s.Lag.Microseconds(), micros(s.At)-2*s.Lag.Microseconds(), ln.Resource).Scan(&old)
	})
	return old, err
}

// stillSince goes back from s for as long as ln's resource ran with the same
// bill, until that was for longer than the lag.
func stillSince(tx *sql.Tx, s Sample, ln Line) (time.Time, error) {
	since := s.At
	// A sight from before twice the lag is of no use, and the search must not run
	// through a year of samples that lack the resource.
	rows, err := tx.Query(`SELECT at, bill, running FROM counted AS sample JOIN line ON line.sample = sample.id
		WHERE at < ? AND at >= ? AND resource = ? AND epoch = ? ORDER BY at DESC`,
		micros(s.At), micros(s.At)-2*s.Lag.Microseconds(), ln.Resource, ln.Epoch)
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

const selectSample = "SELECT id, at, provider, account, currency, truth, step, lag, calibrated, every FROM full_sample"

func scanSample(row interface{ Scan(...any) error }) (Sample, error) {
	var s Sample
	var at, step, lag, every int64
	err := row.Scan(&s.ID, &at, &s.Provider, &s.Account, &s.Currency, &s.Truth, &step, &lag, &s.Calibrated, &every)
	s.At = fromMicros(at)
	s.Step, s.Lag, s.Every = fromDuration(step), fromDuration(lag), fromDuration(every)
	if every == pastEvery {
		s.Every, s.Past = 0, true
	}
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

// Latest is the newest time that anything in the ledger carries, false where it is
// empty. The clock was set back since, where that is still to come.
func (r *Reader) Latest() (at time.Time, ok bool, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		var us sql.NullInt64
		err := tx.QueryRow(`SELECT max(at) FROM (SELECT max(at) AS at FROM counted UNION ALL SELECT max(at) FROM sample_failure
			UNION ALL SELECT max(at) FROM event UNION ALL SELECT max(finished) FROM request)`).Scan(&us)
		at, ok = fromMicros(us.Int64), us.Valid
		return err
	})
	return at, ok, err
}
