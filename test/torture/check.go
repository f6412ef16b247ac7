package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"spotinference/ledger"
)

// check holds a round against the books, everything being well again.
func (r *rig) check(ctx context.Context, all []*attempt) error {
	if err := r.alone(); err != nil {
		return err
	}
	if err := r.lean(ctx); err != nil {
		return err
	}
	err := r.reading(func(led *ledger.Reader, db *sql.DB) error {
		found, err := r.newRows(db)
		if err != nil {
			return err
		}
		if err := r.tokens(all, found); err != nil {
			return err
		}
		if err := r.gate(led, all); err != nil {
			return err
		}
		return r.verify(ctx, led)
	})
	return errors.Join(err, r.cost(ctx))
}

// savedWithin is how far back the last count of a running request may lie in the
// ledger: it is saved once a second, and a second of grace for a busy machine.
const savedWithin = 2 * time.Second

// tokens holds what clients have against the rows. It takes the rows that it can
// explain out of found.
func (r *rig) tokens(all []*attempt, found map[string]row) error {
	for _, a := range all {
		if a.ID == "" {
			if a.Keyed && a.Status == 0 {
				r.nameless[a.Dialect]++
			}
			continue
		}
		w, ok := found[a.ID]
		if ok {
			delete(found, a.ID)
			r.rows[a.ID] = true
		}
		if err := r.answer(a, w, ok); err != nil {
			return fmt.Errorf("%w: the client has %s, the row is %+v", err, a, w)
		}
		r.tally.answer(a, w, ok)
	}
	for id, w := range found {
		r.rows[id] = true
		if r.nameless[w.Dialect]--; r.nameless[w.Dialect] < 0 {
			return fmt.Errorf("a row that no client asked for: %+v", w)
		}
		r.tally.unnamed(w)
	}
	return nil
}

// answer holds one against its row.
func (r *rig) answer(a *attempt, w row, ok bool) error {
	died, killed := r.gateway.died(a.Sent, a.End.Add(time.Second))
	switch {
	case !a.Keyed && (a.Status == 200 || ok || a.Received > 0):
		return errors.New("served without the key")
	case a.Status != 200:
		if ok && w.Status == string(ledger.OK) && a.Code != "ledger_unwritable" {
			return errors.New("an answer that is counted and was refused")
		}
		return nil
	case ok && (w.Dialect != a.Dialect || w.Stream != a.Stream):
		return errors.New("a row of another request")
	case ok && w.Completion > a.Want:
		return errors.New("more tokens than the engine was asked for")
	case a.Whole && !ok:
		return errors.New("an acknowledged answer without a row")
	case a.Whole:
		if w.Status != string(ledger.OK) || w.LowerBound || w.Completion != a.Want || a.Received != a.Want || w.Prompt != a.Prompt {
			return errors.New("an acknowledged answer whose row is wrong")
		}
	case !ok && killed && !a.First.Before(died.Add(-savedWithin)): // nobody saw it finished
	case !ok && killed && a.First.IsZero():
	case !ok && r.diskWasFull(a.Sent, a.End): // said to its client, and the gate closed
	case !ok && a.Waited && a.Received == 0: // it never reached the engine
	case !ok:
		return errors.New("an answer without a row")
	case w.Status == string(ledger.OK) && w.LowerBound:
		return errors.New("a finished answer whose row is a lower bound")
	case !w.LowerBound: // the engine had ended it, whatever its client saw
		if w.Completion != a.Want {
			return errors.New("a row that is said to be exact and is not")
		}
	case w.Status == string(ledger.Lost):
		least := a.Received
		if killed {
			least = a.had(died.Add(-savedWithin))
		}
		if w.Completion < least && !r.diskWasFull(a.Sent, a.End) {
			return fmt.Errorf("a lost answer of which %d tokens had been there for %s", least, savedWithin)
		}
	case w.Completion < a.Received:
		return errors.New("fewer tokens than the client received")
	}
	return nil
}

func (r *rig) diskWasFull(from, to time.Time) bool {
	for _, s := range r.full {
		if s.touches(from, to) {
			return true
		}
	}
	return false
}
