package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Override lifts the budget for a while, by somebody's word. It is written before it
// counts, and never changed: to end one early is a row of its own.
type Override struct {
	ID     int64
	At     time.Time // when it was written; in force from then on
	Until  time.Time // and up to here, or to Ended
	Ended  time.Time // zero where it was not ended early
	Amount *Nanos    // how much more may be spent from At on; nil: as much as comes
	Reason string
}

// MaxOverride is the longest time for which a budget can be lifted at once.
const MaxOverride = 24 * time.Hour

// maxReason is how many characters a reason may have: reports print it on one line.
const maxReason = 500

// ErrOverridden is returned where an override is in force already.
var ErrOverridden = fmt.Errorf("one at a time: %w", ErrRefused)

// ErrBadReason is returned for a reason that cannot be shown.
var ErrBadReason = fmt.Errorf("want one line of %d printable characters at most: %w", maxReason, ErrRefused)

// CheckReason says why text is no reason for an override, nil where it is one.
func CheckReason(text string) error {
	if text == "" || !utf8.ValidString(text) || utf8.RuneCountInString(text) > maxReason ||
		strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("reason %.40q: %w", text, ErrBadReason)
	}
	return nil
}

// End is when o is or was over.
func (o Override) End() time.Time {
	if !o.Ended.IsZero() && o.Ended.Before(o.Until) {
		return o.Ended
	}
	return o.Until
}

// overrideDetail is an override as an event's detail.
type overrideDetail struct {
	ID     int64     `json:"id"`
	Until  time.Time `json:"until"`
	Amount *amount   `json:"amount"` // null: as much as comes
	Reason string    `json:"reason"`
}

func (o Override) detail() any {
	return overrideDetail{ID: o.ID, Until: o.Until, Amount: (*amount)(o.Amount), Reason: o.Reason}
}

type overrideSet Override

func (o overrideSet) eventDetail() any { return Override(o).detail() }

type overrideEnded Override

func (o overrideEnded) eventDetail() any { return Override(o).detail() }

// AddOverride lifts the budget from now on, and tells of it as an event in the same
// transaction. One is in force at a time: a second one is refused.
func (l *Ledger) AddOverride(length time.Duration, amount *Nanos, reason string) (o Override, err error) {
	reason = strings.TrimSpace(reason)
	if err := CheckReason(reason); err != nil {
		return o, fmt.Errorf("override: %w", err)
	}
	switch {
	case length < time.Microsecond || length > MaxOverride:
		return o, fmt.Errorf("override for %s: must be more than nothing and %s at most: %w", length, MaxOverride, ErrRefused)
	case amount != nil && *amount <= 0:
		return o, fmt.Errorf("override of %s: must be more than nothing: %w", *amount, ErrRefused)
	}
	err = l.submit(context.Background(), func(w *batch) error {
		switch old, err := scanOverride(w.row(overrideAt, micros(w.now))); {
		case err == nil:
			return fmt.Errorf("override: one is in force until %s (%s): %w", old.Until.Format(time.RFC3339), old.Reason, ErrOverridden)
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		o = Override{At: fromMicros(micros(w.now)), Until: fromMicros(micros(w.now.Add(length))), Amount: amount, Reason: reason}
		id, _, err := w.insert(tableOverride, nil, micros(o.At), micros(o.Until), nullNanos(amount), reason)
		if err != nil {
			return fmt.Errorf("override: %w", err)
		}
		o.ID = id
		return w.addEvent(NewEvent(w.now, overrideSet(o)))
	})
	return o, err
}

// EndOverride ends the override that is in force. Where none is, that is refused.
func (l *Ledger) EndOverride() (o Override, err error) {
	err = l.submit(context.Background(), func(w *batch) error {
		if o, err = scanOverride(w.row(overrideAt, micros(w.now))); errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("end the override: none is in force: %w", ErrRefused)
		} else if err != nil {
			return err
		}
		o.Ended = fromMicros(micros(w.now))
		if _, _, err := w.insert(tableOverrideEnd, o.ID, micros(o.Ended)); err != nil {
			return fmt.Errorf("end the override: %w", err)
		}
		return w.addEvent(NewEvent(w.now, overrideEnded(o)))
	})
	return o, err
}

const (
	selectOverride = `SELECT id, override.at, until, amount, reason, override_end.at FROM override LEFT JOIN override_end ON override = id `
	overrideAt     = selectOverride + `WHERE override.at <= ?1 AND until > ?1 AND (override_end.at IS NULL OR override_end.at > ?1) ORDER BY id DESC LIMIT 1`
)

func scanOverride(row interface{ Scan(...any) error }) (o Override, err error) {
	var at, until int64
	var amount, ended sql.NullInt64
	if err := row.Scan(&o.ID, &at, &until, &amount, &o.Reason, &ended); err != nil {
		return Override{}, err
	}
	o.At, o.Until, o.Amount = fromMicros(at), fromMicros(until), nanosOrNil(amount)
	if ended.Valid {
		o.Ended = fromMicros(ended.Int64)
	}
	return o, nil
}

// Override returns the override that is in force at t, or false.
func (r *Reader) Override(t time.Time) (o Override, ok bool, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		if o, err = scanOverride(tx.QueryRow(overrideAt, micros(t))); errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		ok = err == nil
		return err
	})
	return o, ok, err
}

// Overrides returns those that were in force at some time in (from, to], in order.
func (r *Reader) Overrides(from, to time.Time) (found []Override, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		rows, err := tx.Query(selectOverride+`WHERE override.at <= ?2 AND until > ?1 AND (override_end.at IS NULL OR override_end.at > ?1) ORDER BY id`,
			micros(from), micros(to))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			o, err := scanOverride(rows)
			if err != nil {
				return err
			}
			found = append(found, o)
		}
		return rows.Err()
	})
	return found, err
}
