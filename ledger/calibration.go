package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Calibration is what a probe measured of one account's bill: until there is one,
// an adapter's own guesses of step and lag are used, and figures are flagged.
type Calibration struct {
	Provider string
	Account  string        // as in Sample; "" where the provider has none
	Step     time.Duration // the bill moves this often
	Lag      time.Duration // a running machine's bill stands still no longer than this
	At       time.Time     // when it was measured
}

// A calibration is a value in meta: the newest one counts, and the samples carry
// what they were taken under. Durations are in microseconds, as in the tables.
type calibrationRow struct {
	Step int64 `json:"step"`
	Lag  int64 `json:"lag"`
	At   int64 `json:"at"`
}

func calibrationKey(provider, account string) string {
	return "calibration:" + provider + "/" + account
}

// SetCalibration notes what was measured, in place of what was measured before.
func (l *Ledger) SetCalibration(c Calibration) error {
	switch {
	case c.Provider == "":
		return fmt.Errorf("calibration without a provider: %w", ErrRefused)
	case c.Step <= 0 || c.Lag < c.Step:
		return fmt.Errorf("calibration with step %s and lag %s: %w", c.Step, c.Lag, ErrRefused)
	case c.At.IsZero():
		return fmt.Errorf("calibration without its time: %w", ErrRefused)
	}
	text, err := json.Marshal(calibrationRow{Step: c.Step.Microseconds(), Lag: c.Lag.Microseconds(), At: micros(c.At)})
	if err != nil {
		return fmt.Errorf("calibration: %w", err)
	}
	return l.submit(context.Background(), func(w *batch) error {
		_, err := w.exec("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
			calibrationKey(c.Provider, c.Account), string(text))
		return err
	})
}

// Calibration is what was measured last of an account's bill, or false where
// nobody has.
func (r *Reader) Calibration(provider, account string) (c Calibration, ok bool, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		var text string
		err := tx.QueryRow("SELECT value FROM meta WHERE key = ?", calibrationKey(provider, account)).Scan(&text)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		var row calibrationRow
		if err := json.Unmarshal([]byte(text), &row); err != nil {
			return fmt.Errorf("calibration of %s %q: %w", provider, account, err)
		}
		c = Calibration{Provider: provider, Account: account, Step: fromDuration(row.Step), Lag: fromDuration(row.Lag), At: fromMicros(row.At)}
		if c.Step <= 0 || c.Lag < c.Step {
			return fmt.Errorf("calibration of %s %q: step %s and lag %s", provider, account, c.Step, c.Lag)
		}
		ok = true
		return nil
	})
	return c, ok, err
}
