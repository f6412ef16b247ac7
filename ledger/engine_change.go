package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// EngineChange is a change of the engine's state, which an event keeps: From and To as
// its subject, the rest as its detail.
type EngineChange struct {
	At       time.Time   `json:"-"`
	From, To EngineState `json:"-"`

	Engine  string `json:"engine,omitempty"` // which one: the same for the same command
	Cause   string `json:"cause"`
	PID     int    `json:"pid,omitempty"`
	Method  string `json:"method,omitempty"` // by which it is suspended or comes back
	Waiters int64  `json:"waiters,omitempty" unit:"requests"`
	Left    int64  `json:"left,omitempty" unit:"requests"` // waiters that left before
	Late    int64  `json:"late,omitempty" unit:"requests"` // and those for whom it took too long
	// Phases are what the time since the last change was spent on, by name; of a wake
	// that begins, how long the first waiter had waited: "queue".
	Phases map[string]Seconds `json:"phases_seconds,omitempty"`
	Canary *CanaryTokens      `json:"canary,omitempty"` // what the engine made to prove that it woke
}

// CanaryTokens are tokens that are no request's.
type CanaryTokens struct {
	Prompt     int64 `json:"prompt_tokens" unit:"tokens"`
	Completion int64 `json:"completion_tokens" unit:"tokens"`
}

// Seconds is a length of time that is written as a decimal number of seconds.
type Seconds time.Duration

// MarshalJSON writes microseconds: no clock of ours is better.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return []byte(DecimalText(big.NewInt(time.Duration(s).Microseconds()), 6)), nil
}

// UnmarshalJSON reads any number of seconds, to the nanosecond.
func (s *Seconds) UnmarshalJSON(b []byte) error {
	r, ok := new(big.Rat).SetString(string(b))
	if !ok {
		return fmt.Errorf("seconds %q: not a number", b)
	}
	r.Mul(r, big.NewRat(int64(time.Second), 1))
	ns := new(big.Int).Quo(r.Num(), r.Denom())
	if !ns.IsInt64() {
		return fmt.Errorf("seconds %q: out of range", b)
	}
	*s = Seconds(ns.Int64())
	return nil
}

// stateArrow stands between the two states of a change.
const stateArrow = "→"

func (c EngineChange) eventDetail() any     { return c }
func (c EngineChange) eventSubject() string { return string(c.From + stateArrow + c.To) }

// engineChange reads an event of a change.
func engineChange(e Event) (c EngineChange, err error) {
	if e.Detail != "" {
		err = json.Unmarshal([]byte(e.Detail), &c)
	}
	from, to, ok := strings.Cut(e.Subject, stateArrow)
	if c.From, c.To = EngineState(from), EngineState(to); !ok && err == nil {
		err = errors.New("no change of state")
	}
	if c.At = e.At; err != nil {
		return EngineChange{}, fmt.Errorf("engine event %q at %s: %w", e.Subject, e.At.Format(time.RFC3339Nano), err)
	}
	return c, nil
}

// EngineChanges returns the changes of the engine's state in (from, to], in order.
func (r *Reader) EngineChanges(from, to time.Time) (changes []EngineChange, err error) {
	events, err := r.Events(EventEngine, from, to)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		c, err := engineChange(e)
		if err != nil {
			return nil, err
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// wakesLooked bounds how far back EngineWakes looks, in wakes of whatever engine.
const wakesLooked = 200

// EngineWakes returns how an engine got ready lately, the oldest first: all that is
// among the newest of the ledger.
func (r *Reader) EngineWakes(engine string) (wakes []EngineChange, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT at, subject, detail FROM (SELECT * FROM event
			WHERE kind = ? AND subject LIKE ? ORDER BY id DESC LIMIT ?) ORDER BY id`, EventEngine, "%"+stateArrow+Ready, wakesLooked)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			e := Event{Kind: EventEngine}
			var at int64
			if err := rows.Scan(&at, &e.Subject, &e.Detail); err != nil {
				return err
			}
			e.At = fromMicros(at)
			c, err := engineChange(e)
			if err != nil {
				return err
			}
			if c.Engine == engine {
				wakes = append(wakes, c)
			}
		}
		return rows.Err()
	})
	return wakes, err
}

// FirstAnswer is when the first byte of an answer came to a request that was let into
// the engine at from or later, of those that finished before to; false where none did.
func (r *Reader) FirstAnswer(from, to time.Time) (at time.Time, ok bool, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		var us sql.NullInt64
		err := tx.QueryRow("SELECT min(first) FROM request WHERE finished >= ? AND finished < ? AND started >= ?",
			micros(from), micros(to), micros(from)).Scan(&us)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		at, ok = fromMicros(us.Int64), us.Valid
		return nil
	})
	return at, ok, err
}
