package ledger

import (
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// The bill by the hour. A long window is two edges of rows and the whole hours
// between them; each hour knows what its bills grew by, so that a sum of hours is
// the sum of their samples, to the nano.

const hourMicros = int64(time.Hour / time.Microsecond)

// billHour is the hour of a sample: windows are (from, to], so an instant on the
// hour belongs to the hour that ends there.
func billHour(us int64) int64 { return floorDiv(us-1, hourMicros) }

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// noise is the least fall that counts as one. Providers compute in floats; what
// changes below a millionth is theirs, not a refund. Net follows it all the same.
const noise Nanos = 1000

// known is a bill as it was read in one sample; id is 0 where none was.
type known struct {
	id, at int64
	bill   Nanos
}

// growth is what a bill, or an hour of it, did since what was known before.
type growth struct {
	net, gross Nanos
	fell       int64
}

// since is the growth from prev to bill; a first sight is none.
func since(prev known, bill Nanos) (growth, error) {
	if prev.id == 0 {
		return growth{}, nil
	}
	d, err := bill.Sub(prev.bill)
	if err != nil {
		return growth{}, err
	}
	g := growth{net: d}
	if d > 0 {
		g.gross = d
	}
	if d <= -noise {
		g.fell = 1
	}
	return g, nil
}

func (g growth) plus(o growth) (sum growth, err error) {
	var errNet, errGross error
	sum.net, errNet = g.net.Add(o.net)
	sum.gross, errGross = g.gross.Add(o.gross)
	sum.fell = g.fell + o.fell
	return sum, errors.Join(errNet, errGross)
}

// seriesHour is one row of bill_hour.
type seriesHour struct {
	hour, series int64
	seen         int64
	unknown      int64
	last         known
	growth
}

// add takes a line in; prev is the series' last known bill before it.
func (h *seriesHour) add(sample, at int64, prev known, bill sql.NullInt64) error {
	h.seen = sample
	if !bill.Valid {
		h.unknown++
		return nil
	}
	g, err := since(prev, Nanos(bill.Int64))
	if err == nil {
		h.growth, err = h.plus(g)
	}
	h.last = known{sample, at, Nanos(bill.Int64)}
	return err
}

const selectSeriesHour = "SELECT hour, series, seen, unknown, last, last_at, bill, net, gross, fell FROM bill_hour"

func scanSeriesHour(row interface{ Scan(...any) error }) (h seriesHour, err error) {
	var last, at, bill sql.NullInt64
	err = row.Scan(&h.hour, &h.series, &h.seen, &h.unknown, &last, &at, &bill, &h.net, &h.gross, &h.fell)
	h.last = known{last.Int64, at.Int64, Nanos(bill.Int64)}
	return h, err
}

const insertSeriesHour = "INSERT OR REPLACE INTO bill_hour VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

func (h seriesHour) args() []any {
	valid := h.last.id != 0
	return []any{h.hour, h.series, h.seen, h.unknown, sql.NullInt64{Int64: h.last.id, Valid: valid}, sql.NullInt64{Int64: h.last.at, Valid: valid},
		sql.NullInt64{Int64: int64(h.last.bill), Valid: valid}, int64(h.net), int64(h.gross), h.fell}
}

// sampleHour is one row of sample_hour.
type sampleHour struct {
	hour                  int64
	last                  known // its bill is not used
	source                int64
	samples               int64
	uncalibrated, account int64
}

func (h *sampleHour) add(id, at, source int64, src sourceRow) {
	h.last, h.source = known{id: id, at: at}, source
	h.samples++
	if !src.calibrated {
		h.uncalibrated++
	}
	if src.truth == TruthAccount {
		h.account++
	}
}

const selectSampleHour = "SELECT hour, last, last_at, source, samples, uncalibrated, account FROM sample_hour"

func scanSampleHour(row interface{ Scan(...any) error }) (h sampleHour, err error) {
	err = row.Scan(&h.hour, &h.last.id, &h.last.at, &h.source, &h.samples, &h.uncalibrated, &h.account)
	return h, err
}

const insertSampleHour = "INSERT OR REPLACE INTO sample_hour VALUES (?, ?, ?, ?, ?, ?, ?)"

func (h sampleHour) args() []any {
	return []any{h.hour, h.last.id, h.last.at, h.source, h.samples, h.uncalibrated, h.account}
}

// sourceRow is what a sample says of itself, as far as sums need it.
type sourceRow struct {
	provider, currency string
	truth              Truth
	calibrated         bool
	every              int64
}

// late tells whether a sample is missing before the one at at: a step of more
// than two and a half intervals. One sample may come late, two do not.
func (s sourceRow) late(prev, at int64) bool {
	return s.every > 0 && at-prev > s.every*5/2
}

// rollSample adds a sample without its lines to its hour.
func (w *batch) rollSample(id, at, source int64, src sourceRow, prev sql.NullInt64) error {
	h, err := w.sampleHour(billHour(at))
	if err != nil {
		return err
	}
	h.add(id, at, source, src)
	if _, err := w.exec(insertSampleHour, h.args()...); err != nil {
		return fmt.Errorf("hour of samples: %w", err)
	}
	if prev.Valid && src.late(prev.Int64, at) {
		if _, err := w.exec("INSERT INTO gap VALUES (?, ?, ?)", id, prev.Int64, at); err != nil {
			return fmt.Errorf("gap: %w", err)
		}
	}
	return nil
}

func (w *batch) sampleHour(hour int64) (h sampleHour, err error) {
	s, err := w.stmt(selectSampleHour + " WHERE hour = ?")
	if err != nil {
		return h, err
	}
	h, err = scanSampleHour(s.QueryRow(hour))
	if errors.Is(err, sql.ErrNoRows) {
		return sampleHour{hour: hour}, nil
	}
	return h, err
}

// rollLine adds a line to its hour, and to its series where it is the first with
// a bill.
func (w *batch) rollLine(series, sample, at int64, bill, created sql.NullInt64) error {
	s, err := w.stmt(selectSeriesHour + " WHERE hour = ? AND series = ?")
	if err != nil {
		return err
	}
	h, err := scanSeriesHour(s.QueryRow(billHour(at), series))
	if errors.Is(err, sql.ErrNoRows) {
		h = seriesHour{hour: billHour(at), series: series}
	} else if err != nil {
		return err
	}
	prev := h.last
	if prev.id == 0 {
		err := w.scan("SELECT last, last_at, bill FROM bill_hour WHERE series = ? AND last IS NOT NULL ORDER BY hour DESC LIMIT 1",
			[]any{series}, &prev.id, &prev.at, &prev.bill)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	if bill.Valid && prev.id == 0 {
		_, err := w.exec(`UPDATE series SET first = ?1, first_at = ?2, base = ?3, created = ?4, rolled = EXISTS (SELECT 1 FROM series AS other
			WHERE other.resource = series.resource AND other.provider = series.provider AND other.id <> series.id
			AND (other.seen NOT IN (SELECT sample FROM sample_void) OR EXISTS (SELECT 1 FROM reading JOIN state ON state.id = reading.state
				WHERE state.series = other.id AND reading.sample NOT IN (SELECT sample FROM sample_void)))) WHERE id = ?5`,
			sample, at, bill, created, series)
		if err != nil {
			return fmt.Errorf("series: %w", err)
		}
	}
	if err := h.add(sample, at, prev, bill); err != nil {
		// A bill that no ledger can sum is no bill: the minute is dark.
		return fmt.Errorf("%w: %w", err, ErrRefused)
	}
	if _, err := w.exec(insertSeriesHour, h.args()...); err != nil {
		return fmt.Errorf("hour of a bill: %w", err)
	}
	return nil
}
