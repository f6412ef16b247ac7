package ledger

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"
)

// When the engine was busy: the union of what the requests ran, each from its
// start to its end. A sum by the minute could not be kept up with: a request is
// written at its end, and others have filled its minutes meanwhile. So the union
// itself is kept, as spans that neither overlap nor touch, in rows of some that
// follow on each other (see schema 3). A request swallows the spans that it covers
// or touches, and each span is swallowed once, so that a request costs a row or two
// whatever its length, its lateness or its clock. A row knows how much was busy
// before it, so that a window is the difference of two instants and an instant is
// one row, in a day as in a year.

// span is a length of time: from, up to but without to.
type span struct{ from, to int64 }

// maxSpans is how many spans a row takes. Each commit writes the newest row again,
// and a question decodes a row.
const maxSpans = 64

// busyRow is a row of busy. The zero busyRow comes before all others.
type busyRow struct {
	before int64
	spans  []span
}

func (b busyRow) start() int64 {
	if len(b.spans) == 0 {
		return math.MinInt64
	}
	return b.spans[0].from
}

// upTo is how much was busy before us, where no later row starts before us.
func (b busyRow) upTo(us int64) int64 {
	sum := b.before
	for _, s := range b.spans {
		if s.from >= us {
			break
		}
		sum += min(s.to, us) - s.from
	}
	return sum
}

// total is how much was busy before the next row.
func (b busyRow) total() int64 { return b.upTo(math.MaxInt64) }

func (b busyRow) encode() []byte {
	out := make([]byte, 0, 16*len(b.spans))
	for i, s := range b.spans {
		if i > 0 {
			out = binary.AppendUvarint(out, uint64(s.from-b.spans[i-1].to))
		}
		out = binary.AppendUvarint(out, uint64(s.to-s.from))
	}
	return out
}

// decodeBusy reads a row that encode wrote.
func decodeBusy(start, before int64, packed []byte) (busyRow, error) {
	b := busyRow{before, make([]span, 0, maxSpans)}
	for at := start; ; {
		var s span
		for _, end := range []*int64{&s.from, &s.to} {
			if end == &s.from && len(b.spans) == 0 {
				s.from = at // the first one has no distance
				continue
			}
			d, n := binary.Uvarint(packed)
			if n <= 0 || d == 0 || at+int64(d) <= at {
				return b, fmt.Errorf("busy time from %s: %x is not coded as it should be", fromMicros(start).Format(time.RFC3339Nano), packed)
			}
			packed = packed[n:]
			at += int64(d)
			*end = at
		}
		if b.spans = append(b.spans, s); len(packed) == 0 {
			return b, nil
		}
	}
}

const selectBusy = "SELECT start, before, spans FROM busy"

func scanBusy(row interface{ Scan(...any) error }) (busyRow, error) {
	var start, before int64
	var packed []byte
	if err := row.Scan(&start, &before, &packed); err != nil {
		return busyRow{}, err
	}
	return decodeBusy(start, before, packed)
}

// mergeSpan adds s to spans, which rise and do not touch, and keeps them so.
func mergeSpan(spans []span, s span) []span {
	first := sort.Search(len(spans), func(i int) bool { return spans[i].to >= s.from })
	end := first
	for ; end < len(spans) && spans[end].from <= s.to; end++ {
		s.from, s.to = min(s.from, spans[end].from), max(s.to, spans[end].to)
	}
	return slices.Replace(spans, first, end, s)
}

// flushBusy adds what ran in this transaction to the table. Most of it comes after
// the start of the newest row, which the writer remembers.
func (w *batch) flushBusy() error {
	added := false
	for _, s := range w.ran { // they rise, so that what comes late comes first
		newest, err := w.newestBusy()
		if err != nil {
			return err
		}
		if s.from < newest.start() {
			if err := w.addLate(s); err != nil {
				return err
			}
			continue
		}
		was := newest.total()
		newest.spans = mergeSpan(newest.spans, s)
		added = added || newest.total() != was
	}
	if !added {
		return nil
	}
	return w.putBusy(w.newest, maxSpans)
}

// newestBusy is the newest row, the zero row where there is none.
func (w *batch) newestBusy() (*busyRow, error) {
	if w.newest == nil {
		row, err := w.busyAt(math.MaxInt64)
		if err != nil {
			return nil, err
		}
		w.newest = &row
	}
	return w.newest, nil
}

// busyAt is the last row that starts at us or before, the zero row where none does.
func (w *batch) busyAt(us int64) (busyRow, error) {
	var start, before int64
	var packed []byte
	err := w.scan(selectBusy+" WHERE start <= ? ORDER BY start DESC LIMIT 1", []any{us}, &start, &before, &packed)
	if errors.Is(err, sql.ErrNoRows) {
		return busyRow{}, nil
	}
	if err != nil {
		return busyRow{}, err
	}
	return decodeBusy(start, before, packed)
}

// addLate adds a span that begins before the newest row. Of the rows that it meets
// only the first and the last may keep something: those between are swallowed.
func (w *batch) addLate(s span) error {
	first, err := w.busyAt(s.from)
	if err != nil {
		return err
	}
	last, err := w.busyAt(s.to)
	if err != nil {
		return err
	}
	all := busyRow{before: first.before, spans: first.spans}
	if last.start() != first.start() {
		all.spans = slices.Concat(first.spans, last.spans)
	}
	was := last.total()
	all.spans = mergeSpan(all.spans, s)
	grown := all.total() - was
	if grown == 0 {
		return nil
	}
	if _, err := w.exec("DELETE FROM busy WHERE start >= ? AND start <= ?", all.start(), s.to); err != nil {
		return fmt.Errorf("busy time: %w", err)
	}
	if _, err := w.exec("UPDATE busy SET before = before + ? WHERE start > ?", grown, s.to); err != nil {
		return fmt.Errorf("busy time: %w", err)
	}
	w.newest = nil
	// Even parts: what came late once may do so again.
	parts := (len(all.spans) + maxSpans - 1) / maxSpans
	if err := w.putBusy(&all, (len(all.spans)+parts-1)/parts); err != nil {
		return err
	}
	w.newest = nil
	return nil
}

// putBusy writes a row, in several of no more than most spans where it must be, and
// leaves the last of them in b.
func (w *batch) putBusy(b *busyRow, most int) error {
	for {
		n := min(most, len(b.spans))
		part := busyRow{b.before, b.spans[:n]}
		if _, err := w.exec("INSERT OR REPLACE INTO busy VALUES (?, ?, ?)", part.start(), part.before, part.encode()); err != nil {
			return fmt.Errorf("busy time: %w", err)
		}
		if n == len(b.spans) {
			return nil
		}
		*b = busyRow{part.total(), slices.Clone(b.spans[n:])}
	}
}

// eachBusy reads all requests and yields the spans that they make together, the
// newest first. It holds one: no request that it reads later ends later.
func eachBusy(tx *sql.Tx, yield func(span) error) error {
	rows, err := tx.Query("SELECT started, finished FROM request WHERE started < finished ORDER BY finished DESC")
	if err != nil {
		return err
	}
	defer rows.Close()
	var s span
	for begun := false; rows.Next(); begun = true {
		var r span
		if err := rows.Scan(&r.from, &r.to); err != nil {
			return err
		}
		switch {
		case !begun:
			s = r
		case r.to < s.from:
			if err := yield(s); err != nil {
				return err
			}
			s = r
		default:
			s.from = min(s.from, r.from)
		}
	}
	if err := rows.Err(); err != nil || s.from == s.to {
		return err
	}
	return yield(s)
}

// fillBusy makes the table from the requests, for a ledger that had none. It is
// filled from its end, where the sum before a row is not known yet: first it counts
// down from 0, then all is lifted.
func fillBusy(tx *sql.Tx) error {
	var row busyRow // its spans fall
	put := func() error {
		slices.Reverse(row.spans)
		row.before -= row.total() - row.before
		_, err := tx.Exec("INSERT INTO busy VALUES (?, ?, ?)", row.start(), row.before, row.encode())
		row.spans = row.spans[:0]
		return err
	}
	err := eachBusy(tx, func(s span) error {
		if row.spans = append(row.spans, s); len(row.spans) < maxSpans {
			return nil
		}
		return put()
	})
	if err == nil && len(row.spans) > 0 {
		err = put()
	}
	if err == nil {
		_, err = tx.Exec("UPDATE busy SET before = before - ?", row.before)
	}
	return err
}

// Busy tells for each span between two neighbouring edges, which rise, how long
// at least one finished request was between its start and its end. A request
// that still runs has no row yet: nothing is known of it here.
func (r *Reader) Busy(edges []time.Time) (busy []time.Duration, err error) {
	if len(edges) < 2 {
		return nil, nil
	}
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		at, err := tx.Prepare(`SELECT start, before, spans, (SELECT min(start) FROM busy AS later WHERE later.start > busy.start)
			FROM busy WHERE start <= ? ORDER BY start DESC LIMIT 1`)
		if err != nil {
			return err
		}
		defer at.Close()
		var row busyRow
		next := int64(math.MinInt64) // where the row after it starts
		var last int64
		for i, e := range edges {
			us := micros(e)
			if us >= next {
				if row, next, err = scanBusyNext(at.QueryRow(us), us); err != nil {
					return err
				}
			}
			sum := row.upTo(us)
			if i > 0 {
				busy = append(busy, fromDuration(sum-last))
			}
			last = sum
		}
		return nil
	})
	return busy, err
}

// scanBusyNext is the row that holds us, and the instant up to which it does.
func scanBusyNext(found *sql.Row, us int64) (busyRow, int64, error) {
	var start, before int64
	var packed []byte
	var next sql.NullInt64
	err := found.Scan(&start, &before, &packed, &next)
	if errors.Is(err, sql.ErrNoRows) {
		return busyRow{}, us + 1, nil // before the first row
	}
	if err != nil {
		return busyRow{}, 0, err
	}
	if !next.Valid {
		next.Int64 = math.MaxInt64
	}
	row, err := decodeBusy(start, before, packed)
	return row, next.Int64, err
}
