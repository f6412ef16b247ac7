package ledger

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// The questions of a report beyond sums: what stands in single samples.

// Sample returns a sample with its lines (without raw replies), or false where
// there is none of that id.
func (r *Reader) Sample(id int64) (s Sample, ok bool, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		if s, err = scanSample(tx.QueryRow(selectSample+" WHERE id = ?", id)); errors.Is(err, sql.ErrNoRows) {
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

// SampleTimes returns the instants of the samples in [from, to], in order.
func (r *Reader) SampleTimes(from, to time.Time) (at []time.Time, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT at FROM counted WHERE at >= ? AND at <= ? ORDER BY at", micros(from), micros(to))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var us int64
			if err := rows.Scan(&us); err != nil {
				return err
			}
			at = append(at, fromMicros(us))
		}
		return rows.Err()
	})
	return at, err
}

// Fall is a bill that went down from one sample to the next that had it.
type Fall struct {
	From, To SampleRef
	By       Nanos // positive
}

// Falls returns where the bill of one series fell between two samples of a window,
// in order. It reads the rows of those hours only in which the bill did.
func (r *Reader) Falls(resource, epoch string, from, to time.Time) (falls []Fall, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT id, hour FROM series JOIN bill_hour ON series = id
			WHERE resource = ? AND epoch = ? AND hour >= ? AND hour <= ? AND gross <> net ORDER BY hour`,
			resource, epoch, billHour(micros(from)), billHour(micros(to)))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var series, hour int64
			if err := rows.Scan(&series, &hour); err != nil {
				return err
			}
			some, err := fallsIn(tx, series, max(hour*hourMicros+1, micros(from)), min((hour+1)*hourMicros, micros(to)), micros(from))
			if err != nil {
				return err
			}
			falls = append(falls, some...)
		}
		return rows.Err()
	})
	return falls, err
}

// fallsIn are the falls of a series at the samples in [from, to], against samples
// that are not from before first.
func fallsIn(tx *sql.Tx, series, from, to, first int64) (falls []Fall, err error) {
	prev, err := lastKnown(tx, series, from)
	if err != nil {
		return nil, err
	}
	if prev.at < first {
		prev = known{}
	}
	rows, err := tx.Query(`SELECT sample.id, at, bill FROM counted AS sample JOIN reading ON sample = sample.id JOIN state ON state.id = state
		WHERE at >= ? AND at <= ? AND series = ? AND bill IS NOT NULL ORDER BY at`, from, to, series)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var now known
		if err := rows.Scan(&now.id, &now.at, &now.bill); err != nil {
			return nil, err
		}
		if prev.id != 0 && now.bill < prev.bill {
			by, err := prev.bill.Sub(now.bill)
			if err != nil {
				return nil, err
			}
			falls = append(falls, Fall{SampleRef{prev.id, fromMicros(prev.at)}, SampleRef{now.id, fromMicros(now.at)}, by})
		}
		prev = now
	}
	return falls, rows.Err()
}
