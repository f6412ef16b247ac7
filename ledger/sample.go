package ledger

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// maxAhead is how far a sample may be dated before our clock: clocks of two
// hosts differ by so much; a larger difference is a broken clock, and a row
// from the future would hide everything after it.
const maxAhead = time.Minute

// AddSample writes a sample with all its lines, and returns its id. It refuses
// a second currency, a sample dated ahead of the clock, and one that is not
// newer than the newest (the clock stepped back): the caller records a failure
// then, and the minute is dark.
func (l *Ledger) AddSample(ctx context.Context, s Sample) (id int64, err error) {
	err = l.submit(ctx, func(w *batch) error {
		var err error
		id, err = w.addSample(s)
		return err
	})
	return id, err
}

func (w *batch) addSample(s Sample) (int64, error) {
	if s.At.After(w.now.Add(maxAhead)) {
		return 0, fmt.Errorf("sample at %s, %s ahead of the clock: %w", s.At.UTC().Format(time.RFC3339), s.At.Sub(w.now).Round(time.Second), ErrRefused)
	}
	var newest sql.NullInt64
	if err := w.scan("SELECT max(at) FROM sample", nil, &newest); err != nil {
		return 0, err
	}
	if newest.Valid && micros(s.At) <= newest.Int64 {
		return 0, fmt.Errorf("sample at %s, the newest is at %s: the clock stepped back: %w",
			s.At.UTC().Format(time.RFC3339), fromMicros(newest.Int64).Format(time.RFC3339), ErrRefused)
	}
	if err := w.oneCurrency(s.Currency); err != nil {
		return 0, err
	}
	res, err := w.exec("INSERT INTO sample (at, provider, account, currency, truth, step, lag, calibrated, every) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		micros(s.At), s.Provider, s.Account, s.Currency, string(s.Truth),
		s.Step.Microseconds(), s.Lag.Microseconds(), s.Calibrated, s.Every.Microseconds())
	if err != nil {
		return 0, fmt.Errorf("sample: %w", err)
	}
	id, err := res.LastInsertId()
	if err != nil {
		return 0, err
	}
	for _, ln := range s.Lines {
		raw, err := w.addRaw(ln.Raw)
		if err != nil {
			return 0, err
		}
		_, err = w.exec("INSERT INTO line VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
			id, ln.Resource, ln.Epoch, string(ln.Kind), ln.Status, ln.Running,
			nullNanos(ln.Rate), nullNanos(ln.Bill), nullMicros(ln.Created), raw)
		if err != nil {
			return 0, fmt.Errorf("line %s: %w", ln.Resource, err)
		}
	}
	return id, nil
}

// oneCurrency fixes the ledger's currency at its first sample.
func (w *batch) oneCurrency(code string) error {
	if c, err := Currency(code); err != nil || c != code {
		return fmt.Errorf("currency %q is not an upper-case ISO 4217 code: %w", code, ErrRefused)
	}
	var have string
	err := w.scan("SELECT value FROM meta WHERE key = 'currency'", nil, &have)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		_, err = w.exec("INSERT INTO meta VALUES ('currency', ?)", code)
		return err
	case err != nil:
		return err
	case have != code:
		return fmt.Errorf("sample in %s, the ledger is in %s: %w", code, have, ErrRefused)
	}
	return nil
}

// addRaw keeps a billing reply once, however often it came.
func (w *batch) addRaw(body []byte) (any, error) {
	if body == nil {
		return nil, nil
	}
	hash := sha256.Sum256(body)
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(body); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if _, err := w.exec("INSERT INTO raw VALUES (?, ?) ON CONFLICT (hash) DO NOTHING", hash[:], packed.Bytes()); err != nil {
		return nil, fmt.Errorf("raw reply: %w", err)
	}
	return hash[:], nil
}

func nullNanos(n *Nanos) sql.NullInt64 {
	if n == nil {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: int64(*n), Valid: true}
}

// AddSampleFailure writes a dark minute.
func (l *Ledger) AddSampleFailure(ctx context.Context, f SampleFailure) error {
	return l.submit(ctx, func(w *batch) error {
		_, err := w.exec("INSERT INTO sample_failure (at, call, class) VALUES (?, ?, ?)", micros(f.At), f.Call, f.Class)
		return err
	})
}
