package ledger

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"
)

// The questions of a report beyond sums: in which state the engine was, and what
// stands in single samples.

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
		rows, err := tx.Query("SELECT at FROM sample WHERE at >= ? AND at <= ? ORDER BY at", micros(from), micros(to))
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
	rows, err := tx.Query(`SELECT sample.id, at, bill FROM sample JOIN reading ON sample = sample.id JOIN state ON state.id = state
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

// GatewayDown is the state of an engine without a gateway: it does not run.
const GatewayDown = "down"

// EngineState is what the engine was in from At on: "" where nothing tells,
// GatewayDown, or the engine's own word ("starting", "ready", ...).
type EngineState struct {
	At    time.Time
	State string
}

// EngineStates returns the engine's states in [from, to]; the first is the one
// at from. Where a gateway started and the one before never said that it
// stopped, it was down from the last trace of it on.
func (r *Reader) EngineStates(from, to time.Time) (states []EngineState, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		events, err := stateEvents(tx, micros(from), micros(to))
		if err != nil {
			return err
		}
		states = append(states, EngineState{At: from})
		if len(events) > 0 && events[0].At.After(from) && events[0].Kind == "gateway" {
			states[0].State = GatewayDown // before it first started, nothing of ours ran
		}
		enter := func(at time.Time, state string) {
			last := &states[len(states)-1]
			switch {
			case last.State == state:
			case !at.After(last.At): // before the window, or in the same microsecond
				last.State = state
			default:
				states = append(states, EngineState{at, state})
			}
		}
		for i, e := range events {
			if e.Kind == "gateway" && e.Subject == "started" && i > 0 && events[i-1].Subject != "stopped" {
				trace, err := lastTrace(tx, micros(events[i-1].At), micros(e.At))
				if err != nil {
					return err
				}
				enter(fromMicros(trace), GatewayDown)
			}
			enter(e.At, e.state())
		}
		return nil
	})
	return states, err
}

// state is what an event of the engine's life left it in.
func (e Event) state() string {
	if e.Kind == "gateway" {
		return GatewayDown // started: its engine is still to come
	}
	_, to, _ := strings.Cut(e.Subject, "→")
	return to
}

// stateEvents returns the events of engine and gateway up to to, in order, from
// the last one at or before from on. It reads them from the newest back.
func stateEvents(tx *sql.Tx, from, to int64) (events []Event, err error) {
	rows, err := tx.Query("SELECT at, kind, subject FROM event WHERE kind IN ('engine', 'gateway') ORDER BY id DESC")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var at int64
		var e Event
		if err := rows.Scan(&at, &e.Kind, &e.Subject); err != nil {
			return nil, err
		}
		e.At = fromMicros(at)
		if at <= to {
			events = append(events, e)
		}
		if at <= from {
			break
		}
	}
	slices.Reverse(events)
	slices.SortStableFunc(events, func(x, y Event) int { return x.At.Compare(y.At) })
	return events, rows.Err()
}

// lastTrace is the last instant in [after, before) at which something was
// written by a gateway that died: a sample, a finished request, an event.
func lastTrace(tx *sql.Tx, after, before int64) (int64, error) {
	trace := after
	for _, query := range []string{"SELECT max(at) FROM sample WHERE at < ?", "SELECT max(finished) FROM request WHERE finished < ?"} {
		var us sql.NullInt64
		if err := tx.QueryRow(query, before).Scan(&us); err != nil {
			return 0, err
		}
		if us.Valid {
			trace = max(trace, us.Int64)
		}
	}
	return trace, nil
}
