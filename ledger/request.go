package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// AddRequest writes a finished request. A nil error means that the row is on
// disk; after an error it may or may not be there, and writing it again is free.
// Another request under an id that is taken is an error.
func (l *Ledger) AddRequest(r Request) error {
	return l.submit(context.Background(), func(w *batch) error { return w.addRequest(r) })
}

func (w *batch) addRequest(r Request) error {
	at := micros(r.Finished)
	at, err := w.free(at)
	if err != nil {
		return err
	}
	_, added, err := w.insert(tableRequest, at, r.ID, r.Endpoint, r.Model, r.Key, r.Stream, string(r.Status), r.HTTP, micros(r.Started), nullMicros(r.First),
		r.Usage.PromptTokens, r.Usage.CachedTokens, r.Usage.CompletionTokens, r.LowerBound)
	if err != nil {
		return fmt.Errorf("request %s: %w", r.ID, err)
	}
	if added {
		if err := w.addExcess(at, r); err != nil {
			return err
		}
		w.last = max(w.last, at)
		m := floorMinute(at)
		if w.minutes[m] == nil {
			w.minutes[m] = &Totals{}
		}
		w.minutes[m].add(r)
		h := hourKey{floorDiv(at, hourMicros), r.Model, r.Key}
		if w.hours[h] == nil {
			w.hours[h] = &Totals{}
		}
		w.hours[h].add(r)
		if from := micros(r.Started); from < at { // else the clock stepped back meanwhile
			w.ran = mergeSpan(w.ran, span{from, at})
		}
	} else if err := w.same(r); err != nil {
		return err
	}
	if w.saved[r.ID] {
		if _, err := w.exec("DELETE FROM open_request WHERE id = ?", r.ID); err != nil {
			return fmt.Errorf("open request %s: %w", r.ID, err)
		}
		w.removed = append(w.removed, r.ID)
	}
	return nil
}

// same checks that the row under r's id is r, written before.
func (w *batch) same(r Request) error {
	var status Status
	var u Usage
	err := w.scan("SELECT status, prompt_tokens, cached_tokens, completion_tokens FROM request WHERE id = ?", []any{r.ID},
		&status, &u.PromptTokens, &u.CachedTokens, &u.CompletionTokens)
	if err != nil {
		return fmt.Errorf("request %s: %w", r.ID, err)
	}
	if status != r.Status || u != r.Usage {
		return fmt.Errorf("request %s: the id is taken by another row (%s, %d completion tokens)", r.ID, status, u.CompletionTokens)
	}
	return nil
}

// free returns the first microsecond from at on that no request has. Only a
// time that is not newer than all known ones needs to be looked up.
func (w *batch) free(at int64) (int64, error) {
	asked := at
	if at == w.asked {
		at = w.given + 1 // the recovery of a crash asks for one instant many times
	}
	for ; at <= w.last; at++ {
		var one int
		err := w.scan("SELECT 1 FROM request WHERE finished = ?", []any{at}, &one)
		if errors.Is(err, sql.ErrNoRows) {
			break
		}
		if err != nil {
			return 0, err
		}
	}
	w.asked, w.given = asked, at
	return at, nil
}

// SaveOpen replaces the table of open requests: one batch a second, of every
// request that runs. An empty batch over an empty table writes nothing.
func (l *Ledger) SaveOpen(open []OpenRequest) error {
	return l.submit(context.Background(), func(w *batch) error { return w.saveOpen(open) })
}

func (w *batch) saveOpen(open []OpenRequest) error {
	if len(open) == 0 && len(w.saved) == 0 {
		return nil
	}
	if _, err := w.exec("DELETE FROM open_request"); err != nil {
		return fmt.Errorf("open requests: %w", err)
	}
	for _, o := range open {
		_, err := w.exec("INSERT INTO open_request VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
			o.ID, o.Endpoint, o.Model, o.Key, o.Stream, micros(o.Started), micros(w.now),
			o.Usage.PromptTokens, o.Usage.CachedTokens, o.Usage.CompletionTokens)
		if err != nil {
			return fmt.Errorf("open request %s: %w", o.ID, err)
		}
	}
	w.replace = open
	if w.replace == nil {
		w.replace = []OpenRequest{}
	}
	// A request that finished earlier in this transaction is in the batch
	// still, if the batch was gathered before it ended. Its row stands twice
	// until the next batch; start-up lets the finished row win.
	w.removed = w.removed[:0]
	return nil
}

// recoverOpen turns the open requests of a dead process into lost rows, dated
// when they were last seen running, and empties the table. It returns how many.
func (w *batch) recoverOpen() (int, error) {
	if err := w.scan("SELECT coalesce(max(finished), 0) FROM request", nil, &w.last); err != nil {
		return 0, err
	}
	rows, err := w.conn.QueryContext(context.Background(), `SELECT id, endpoint, model, key, stream, started, saved,
		prompt_tokens, cached_tokens, completion_tokens FROM open_request WHERE id NOT IN (SELECT id FROM request)`)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var lost []Request
	for rows.Next() {
		var started, saved int64
		r := Request{Status: Lost, LowerBound: true}
		if err := rows.Scan(&r.ID, &r.Endpoint, &r.Model, &r.Key, &r.Stream, &started, &saved,
			&r.Usage.PromptTokens, &r.Usage.CachedTokens, &r.Usage.CompletionTokens); err != nil {
			return 0, err
		}
		r.Started, r.Finished = fromMicros(started), fromMicros(saved)
		lost = append(lost, r)
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	for _, r := range lost {
		if err := w.addRequest(r); err != nil {
			return 0, err
		}
	}
	_, err = w.exec("DELETE FROM open_request")
	return len(lost), err
}
