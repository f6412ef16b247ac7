package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// Residual is a span in which an account paid more than the resources that are
// sampled were billed: something else on it costs money. It is an event and no
// part of any spend.
type Residual struct {
	From, To time.Time // when the account's balance was read
	Paid     Nanos     // by how much that fell
	Billed   Nanos     // what the resources' bills grew by, the time by which they may be late included
	Currency string
}

// residualDetail is a residual as an event's detail.
type residualDetail struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Paid     amount    `json:"paid"`
	Billed   amount    `json:"billed"`
	Currency string    `json:"currency"`
}

func (r Residual) eventDetail() any {
	return residualDetail{r.From.UTC(), r.To.UTC(), amount(r.Paid), amount(r.Billed), r.Currency}
}

// Residuals are those whose span has a part in (from, to], the newest first.
func (r *Reader) Residuals(from, to time.Time) (found []Residual, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		// One is written after the end of its span: no event from before from is it.
		rows, err := tx.Query(`SELECT detail FROM event
			WHERE id > coalesce((SELECT id FROM event WHERE at <= ? ORDER BY id DESC LIMIT 1), 0) AND kind = ? AND subject = ?
			ORDER BY id DESC`, micros(from), EventBilling, subjectResidual)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var detail string
			if err := rows.Scan(&detail); err != nil {
				return err
			}
			res, err := parseResidual(detail)
			if err != nil {
				return fmt.Errorf("event residual: %w", err)
			}
			if res.From.Before(to) && res.To.After(from) {
				found = append(found, res)
			}
		}
		return rows.Err()
	})
	return found, err
}

func parseResidual(detail string) (Residual, error) {
	var d residualDetail
	if err := json.Unmarshal([]byte(detail), &d); err != nil {
		return Residual{}, err
	}
	return Residual{d.From, d.To, Nanos(d.Paid), Nanos(d.Billed), d.Currency}, nil
}
