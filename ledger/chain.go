package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// The chain: a link for each transaction that added rows to what is never changed,
// written in that transaction. A link's head is a hash of the head before it and of
// the rows, so that the newest head stands for all that was ever written; who notes
// it elsewhere can tell later whether anything before it was changed, removed or put
// in. Anybody who can write the file can also make links that fit: only such a note
// shows that, or a tail that was cut. docs/ledger.md has the encoding.

// Head is the SHA-256 that a link ends in.
type Head [sha256.Size]byte

func (h Head) String() string { return hex.EncodeToString(h[:]) }

// Short is as much of a head as a person wants to note.
func (h Head) Short() string { return h.String()[:shortHead] }

const shortHead = 16

// Chain is the newest link.
type Chain struct {
	Links int64
	Head  Head
	At    time.Time // when it was written
}

// Chain is the newest link of the ledger, and with it all that was written before.
func (r *Reader) Chain() (c Chain, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		c, err = tip(txScanner{tx})
		return err
	})
	return c, err
}

// tip is the newest link; no link at all is none of number 0, with a head of zeros.
func tip(from scanner) (c Chain, err error) {
	var at int64
	var head []byte
	err = from.scan("SELECT id, at, head FROM chain ORDER BY id DESC LIMIT 1", nil, &c.Links, &at, &head)
	if errors.Is(err, sql.ErrNoRows) {
		return Chain{}, nil
	}
	if err == nil && len(head) != len(c.Head) {
		err = fmt.Errorf("link %d has a head of %d bytes", c.Links, len(head))
	}
	copy(c.Head[:], head)
	c.At = fromMicros(at)
	return c, err
}

// link is the next link while its rows are gathered.
type link struct {
	coverage
	rows []byte // in full
}

func (l *link) reset() {
	if l.b == nil {
		l.b = make([]byte, 0, 256) // nil would be NULL
	}
	l.b, l.rows = l.b[:0], l.rows[:0]
	clear(l.last[:])
}

func (l *link) add(t *chainedTable, row []any) {
	l.coverage.add(t, row[:t.keys])
	l.rows = t.appendRow(l.rows, row)
}

// headOf is the head of link id, written at, over rows in full.
func headOf(before Head, id, at int64, rows []byte) (h Head) {
	d := sha256.New()
	d.Write(before[:])
	d.Write(appendInteger(appendInteger(nil, id), at))
	d.Write(rows)
	d.Sum(h[:0])
	return h
}

const insertLink = "INSERT INTO chain VALUES (?, ?, ?, ?)"

// seal makes the link that follows before, and the arguments of insertLink.
func (l *link) seal(before Chain, now time.Time) (next Chain, args []any) {
	at := micros(now)
	next = Chain{Links: before.Links + 1, Head: headOf(before.Head, before.Links+1, at, l.rows), At: fromMicros(at)}
	return next, []any{next.Links, at, l.b, next.Head[:]}
}

// insert adds a row to a table that only grows, and to the link of this transaction.
// A first column of nil is numbered: id is its number. added is false where the row
// was there already and the table takes that.
func (w *batch) insert(t *chainedTable, row ...any) (id int64, added bool, err error) {
	res, err := w.exec(w.inserts[t.number], row...)
	if err != nil {
		return 0, false, err
	}
	if t.onConflict != "" {
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return 0, false, err
		}
	}
	if t.autoID && row[0] == nil {
		if id, err = res.LastInsertId(); err != nil {
			return 0, false, err
		}
		row[0] = id
	}
	w.link.add(t, row)
	return id, true, nil
}

// flushLink ends the link of this transaction, where that added a row.
func (w *batch) flushLink() error {
	w.next = w.tip
	if len(w.link.b) == 0 {
		return nil
	}
	if w.tip == nil {
		t, err := tip(w)
		if err != nil {
			return fmt.Errorf("chain: %w", err)
		}
		w.tip = &t
	}
	next, args := w.link.seal(*w.tip, w.now)
	if _, err := w.exec(insertLink, args...); err != nil {
		return fmt.Errorf("chain: %w", err)
	}
	w.next = &next
	return nil
}

// maxLink bounds the rows of a link that is made afterwards, and so the memory that
// this takes.
const maxLink = 4096

// loggedRows is how many rows take long enough to link that it must be said.
const loggedRows = 200_000

// fillChain links the rows of a ledger that had no chain, in the order of their
// keys: when they were committed is not known any more. The first link covers
// nothing: a chain is never empty.
func fillChain(tx *sql.Tx, now time.Time, log *slog.Logger) error {
	var total, done int64
	var there []*chainedTable // a table that comes with a later step has no row yet
	for _, t := range chainedTables {
		var tables, n int64
		if err := tx.QueryRow("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?", t.table).Scan(&tables); err != nil {
			return err
		}
		if tables == 0 {
			continue
		}
		if err := tx.QueryRow("SELECT count(*) FROM " + t.table).Scan(&n); err != nil {
			return err
		}
		there, total = append(there, t), total+n
	}
	began := time.Now()
	if total >= loggedRows {
		log.Warn("the ledger gets its hash chain; this happens once, and serve starts after it", "rows", total)
	}
	last, err := tip(txScanner{tx})
	if err != nil {
		return err
	}
	put, err := tx.Prepare(insertLink)
	if err != nil {
		return err
	}
	defer put.Close()
	var l link
	l.reset()
	n := 0
	seal := func() error {
		var args []any
		last, args = l.seal(last, now)
		l.reset()
		n = 0
		_, err := put.Exec(args...)
		return err
	}
	if last.Links == 0 {
		if err := seal(); err != nil {
			return err
		}
	}
	for _, t := range there {
		err := eachRow(tx, t, func(row []any) error {
			l.add(t, row)
			done++
			if n++; n < maxLink {
				return nil
			}
			return seal()
		})
		if err != nil {
			return fmt.Errorf("%s: %w", t.table, err)
		}
	}
	if n > 0 {
		if err := seal(); err != nil {
			return err
		}
	}
	if total >= loggedRows {
		log.Info("the ledger has its hash chain", "rows", done, "links", last.Links, "took", time.Since(began).Round(time.Second))
	}
	return nil
}

// eachRow calls row for each row of a table, in the order of its keys. It may not
// keep what it is given.
func eachRow(tx *sql.Tx, t *chainedTable, row func([]any) error) error {
	rows, err := tx.Query(t.selectAll())
	if err != nil {
		return err
	}
	defer rows.Close()
	s := t.rowBuffer()
	for rows.Next() {
		if err := s.read(rows); err != nil {
			return err
		}
		if err := row(s.values); err != nil {
			return err
		}
	}
	return rows.Err()
}

// rowValues takes a row as its table has it.
type rowValues struct {
	values, dest []any
}

func (t *chainedTable) rowBuffer() rowValues {
	s := rowValues{values: make([]any, len(t.columns))}
	for i := range s.values {
		s.dest = append(s.dest, &s.values[i])
	}
	return s
}

func (s rowValues) read(row interface{ Scan(...any) error }) error {
	if err := row.Scan(s.dest...); err != nil {
		return err
	}
	for i, v := range s.values {
		switch v.(type) {
		case nil, int64, string, []byte:
		default: // no table of ours can hold one; and it fits no link
			s.values[i] = fmt.Sprintf("%T", v)
		}
	}
	return nil
}

// insertsOf are the statements of insert, by the tables' numbers.
func insertsOf() []string {
	all := make([]string, len(chainedTables)+1)
	for _, t := range chainedTables {
		all[t.number] = t.insert()
	}
	return all
}
