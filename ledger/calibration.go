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
	// Unit says that what was billed agreed with the rate. False where no rate
	// was known to hold it against; a bill that contradicts the rate is no
	// calibration.
	Unit bool
	// Skew is the least difference of the two clocks that would have been
	// noticed; nil where nothing compared them.
	Skew *time.Duration
	At   time.Time // when it was measured

	// What reading the bill in two ways came to, in the probe's words: twice over a
	// closed window, without an end, to an end in the future, from before the
	// machine's birth, and the account's total against the sum of its resources.
	// "" where it was not tried.
	Reread, EndOmitted, EndFuture, EarlyStart, Total string
}

// A calibration is a value in meta: the newest one counts, and the samples carry
// what they were taken under. Durations are in microseconds, as in the tables.
type calibrationRow struct {
	Step int64  `json:"step"`
	Lag  int64  `json:"lag"`
	Unit bool   `json:"unit"`
	Skew *int64 `json:"skew"`
	At   int64  `json:"at"`

	Reread     string `json:"reread,omitempty"`
	EndOmitted string `json:"end_omitted,omitempty"`
	EndFuture  string `json:"end_future,omitempty"`
	EarlyStart string `json:"early_start,omitempty"`
	Total      string `json:"total,omitempty"`
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
	row := calibrationRow{Step: c.Step.Microseconds(), Lag: c.Lag.Microseconds(), Unit: c.Unit, At: micros(c.At),
		Reread: c.Reread, EndOmitted: c.EndOmitted, EndFuture: c.EndFuture, EarlyStart: c.EarlyStart, Total: c.Total}
	if c.Skew != nil {
		us := c.Skew.Microseconds()
		row.Skew = &us
	}
	text, err := json.Marshal(row)
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
		c = Calibration{Provider: provider, Account: account, Step: fromDuration(row.Step), Lag: fromDuration(row.Lag),
			Unit: row.Unit, At: fromMicros(row.At),
			Reread: row.Reread, EndOmitted: row.EndOmitted, EndFuture: row.EndFuture, EarlyStart: row.EarlyStart, Total: row.Total}
		if row.Skew != nil {
			d := fromDuration(*row.Skew)
			c.Skew = &d
		}
		if c.Step <= 0 || c.Lag < c.Step {
			return fmt.Errorf("calibration of %s %q: step %s and lag %s", provider, account, c.Step, c.Lag)
		}
		ok = true
		return nil
	})
	return c, ok, err
}
