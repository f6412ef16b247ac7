package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"
)

// maxAhead is how far a sample may be dated before our clock: clocks of two
// hosts differ by so much; a larger difference is a broken clock, and a row
// from the future would hide everything after it.
const maxAhead = time.Minute

// AddSample writes a sample with all its lines, and returns its id. It refuses
// a second currency, a second account of the provider's, a sample dated ahead of the clock, and one that is not
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
	if err := w.scan("SELECT max(at) FROM counted", nil, &newest); err != nil {
		return 0, err
	}
	if newest.Valid && micros(s.At) == newest.Int64 {
		return 0, fmt.Errorf("sample at %s: there is one of that instant: %w", s.At.UTC().Format(time.RFC3339), ErrRefused)
	}
	if newest.Valid && micros(s.At) < newest.Int64 {
		return 0, fmt.Errorf("sample at %s, the newest is at %s: the clock stepped back: %w",
			s.At.UTC().Format(time.RFC3339), fromMicros(newest.Int64).Format(time.RFC3339), ErrRefused)
	}
	if s.Past {
		switch _, own, err := firstOwn(w.row(selectFirstOwn)); {
		case err != nil:
			return 0, err
		case own:
			return 0, fmt.Errorf("sample of the time before this ledger, which has begun: %w", ErrRefused)
		}
	}
	if err := w.oneCurrency(s.Currency); err != nil {
		return 0, err
	}
	if err := w.oneAccount(s.Provider, s.Account); err != nil {
		return 0, err
	}
	if s.Truth == TruthNone && slices.ContainsFunc(s.Lines, func(ln Line) bool { return ln.Bill != nil }) {
		return 0, fmt.Errorf("sample with a bill, of a provider that knows rates only: %w", ErrRefused)
	}
	source, err := w.source(s)
	if err != nil {
		return 0, err
	}
	at := micros(s.At)
	id, _, err := w.insert(tableSample, nil, at, source)
	if err != nil {
		return 0, fmt.Errorf("sample: %w", err)
	}
	src := sourceRow{truth: s.Truth, calibrated: s.Calibrated, every: everyMicros(s)}
	if err := w.rollSample(id, at, source, src, newest); err != nil {
		return 0, err
	}
	if s.ClockUnchecked {
		d := ClockUnchecked{Sample: id}
		if newest.Valid {
			before := fromMicros(newest.Int64)
			d.Before = &before
		}
		if err := w.addEvent(NewEvent(s.At, d)); err != nil {
			return 0, err
		}
	}
	// All series first: a bill that begins asks whether another one of its
	// resource is there.
	series := make([]int64, len(s.Lines))
	for i, ln := range s.Lines {
		if series[i], err = w.series(id, s.Provider, ln); err != nil {
			return 0, fmt.Errorf("line %s: %w", ln.Resource, err)
		}
		if slices.Contains(series[:i], series[i]) {
			return 0, fmt.Errorf("line %s: epoch %q twice in one sample: %w", ln.Resource, ln.Epoch, ErrRefused)
		}
	}
	kept := map[string]int64{}
	for i, ln := range s.Lines {
		if err := w.addLine(id, at, series[i], ln, kept); err != nil {
			return 0, fmt.Errorf("line %s: %w", ln.Resource, err)
		}
	}
	return id, nil
}

func (w *batch) addLine(sample, at, series int64, ln Line, kept map[string]int64) error {
	state, err := w.state(series, ln)
	if err != nil {
		return err
	}
	raw, err := w.addRaw(series, billHour(at), ln.Raw, kept)
	if err != nil {
		return err
	}
	bill := nullNanos(ln.Bill)
	if _, _, err := w.insert(tableReading, sample, state, bill, raw); err != nil {
		return err
	}
	return w.rollLine(series, sample, at, bill, nullMicros(ln.Created))
}

// source is the id of what s says of itself, which seldom changes.
func (w *batch) source(s Sample) (int64, error) {
	return w.intern("SELECT id FROM source WHERE provider = ? AND account = ? AND currency = ? AND truth = ? AND step = ? AND lag = ? AND calibrated = ? AND every = ?",
		tableSource, s.Provider, s.Account, s.Currency, string(s.Truth), s.Step.Microseconds(), s.Lag.Microseconds(), s.Calibrated, everyMicros(s))
}

// pastEvery is the interval of a sample that is Past, which has none.
const pastEvery = -1

func everyMicros(s Sample) int64 {
	if s.Past {
		return pastEvery
	}
	return s.Every.Microseconds()
}

// series is the id of the bill that ln continues, or begins in sample.
func (w *batch) series(sample int64, provider string, ln Line) (id int64, err error) {
	err = w.scan("SELECT id FROM series WHERE resource = ? AND epoch = ? AND provider = ?", []any{ln.Resource, ln.Epoch, provider}, &id)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, err
	}
	id, _, err = w.insert(tableSeries, nil, ln.Resource, ln.Epoch, provider, string(ln.Kind), sample)
	return id, err
}

// state is the id of what ln says beside its bill, which seldom changes.
func (w *batch) state(series int64, ln Line) (int64, error) {
	return w.intern("SELECT id FROM state WHERE series = ? AND kind = ? AND status = ? AND running = ? AND rate IS ? AND created IS ?",
		tableState, series, string(ln.Kind), ln.Status, ln.Running, nullNanos(ln.Rate), nullMicros(ln.Created))
}

// intern finds the row that holds args, or makes it.
func (w *batch) intern(find string, table *chainedTable, args ...any) (id int64, err error) {
	if err = w.scan(find, args, &id); !errors.Is(err, sql.ErrNoRows) {
		return id, err
	}
	id, _, err = w.insert(table, append([]any{nil}, args...)...)
	return id, err
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
		return fmt.Errorf("sample in %s, the ledger is in %s: %w (%w)", code, have, ErrOther, ErrRefused)
	}
	return nil
}

// oneAccount refuses what another account of the provider's was billed: its bills
// would look like the end of all that are here.
func (w *batch) oneAccount(provider, account string) error {
	if account == "" {
		return nil
	}
	var have string
	err := w.scan("SELECT account FROM source WHERE provider = ? AND account <> ? AND account <> '' ORDER BY id DESC LIMIT 1", []any{provider, account}, &have)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("sample of the %s account %q, the ledger is of %q: %w (%w)", provider, account, have, ErrOther, ErrRefused)
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
		_, _, err := w.insert(tableSampleFailure, nil, micros(f.At), f.Call, f.Class)
		return err
	})
}
