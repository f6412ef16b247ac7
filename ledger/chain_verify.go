package ledger

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// lookAhead bounds how many rows of one table are held while the chain has not come
// to them: those that were committed in another order than that of their keys.
const lookAhead = 1 << 16

// chain reads the links and, beside them, the tables in the order of their keys. A
// row that a link covers must be there and fit its head; a row of a table that no
// link comes to was put in by hand. noted are heads, or how they begin, that must
// be among the links'.
func (v *verifier) chain(noted []string) (err error) {
	if v.tip, err = tip(txScanner{v.tx}); err != nil {
		return err
	}
	tables := map[*chainedTable]*tableScan{}
	defer func() {
		for _, w := range tables {
			w.close()
		}
	}()
	for _, t := range chainedTables {
		w, err := newTableScan(v.tx, t, v.ahead)
		if err != nil {
			return err
		}
		tables[t] = w
	}
	missing := slices.Clone(noted)
	err = v.links(tables, func(h Head) {
		missing = slices.DeleteFunc(missing, func(noted string) bool { return strings.HasPrefix(h.String(), noted) })
	})
	if err != nil {
		return err
	}
	for _, h := range missing {
		if err := v.problem("head %s, noted before, is in no link: the chain was cut short or made anew", h); err != nil {
			return err
		}
	}
	for _, t := range chainedTables {
		w := tables[t]
		rest, more, err := w.rest(MaxProblems)
		if err != nil {
			return err
		}
		v.rows[t.table] = w.read
		for _, key := range rest {
			if err := v.problem("%s: it is in no link: put in by hand, or its link is gone", t.rowName(key)); err != nil {
				return err
			}
		}
		if more > 0 {
			if err := v.problem("%s: %d more rows are in no link", t.table, more); err != nil {
				return err
			}
		}
	}
	return nil
}

// links reads the chain and holds each link against its rows.
func (v *verifier) links(tables map[*chainedTable]*tableScan, seen func(Head)) error {
	rows, err := v.tx.Query("SELECT id, at, covers, head FROM chain ORDER BY id")
	if err != nil {
		return err
	}
	defer rows.Close()
	var before struct {
		id   int64
		head Head
	}
	var full []byte
	for rows.Next() {
		var id, at int64
		var list coverage
		var head []byte
		if err := rows.Scan(&id, &at, &list.b, &head); err != nil {
			return err
		}
		name := fmt.Sprintf("link %d of %s", id, fromMicros(at).Format(time.RFC3339Nano))
		if id != before.id+1 {
			if err := v.problem("%s: the link before it is number %d: links are gone", name, before.id); err != nil {
				return err
			}
		}
		var covered []string
		whole, n := true, 0
		full = full[:0]
		for {
			t, key, err := list.next()
			if err != nil {
				whole = false
				if err := v.problem("%s: %v", name, err); err != nil {
					return err
				}
				break
			}
			if t == nil {
				break
			}
			row, err := tables[t].row(key)
			if err != nil {
				return fmt.Errorf("%s: %w", t.table, err)
			}
			if row == nil {
				whole = false
				if err := v.problem("%s: %s is gone", name, t.rowName(key)); err != nil {
					return err
				}
				continue
			}
			if n++; n <= namedRows {
				covered = append(covered, t.rowName(key))
			}
			full = append(full, row...)
		}
		var now Head
		copy(now[:], head)
		if whole && id == before.id+1 && (len(head) != len(now) || headOf(before.head, id, at, full) != now) {
			what := "it was changed"
			if n > 0 {
				what = "it, or one of its rows, was changed: " + strings.Join(covered, ", ")
			}
			if n > namedRows {
				what += fmt.Sprintf(" and %d more", n-namedRows)
			}
			if err := v.problem("%s: %s", name, what); err != nil {
				return err
			}
		}
		seen(now)
		before.id, before.head = id, now
	}
	if before.id == 0 {
		return errors.Join(v.problem("chain: it has no link"), rows.Err())
	}
	return rows.Err()
}

// namedRows is how many rows of a link are named where one of them was changed.
const namedRows = 40

// rowName is a row for a person: its table and key; times as such.
func (t *chainedTable) rowName(key []any) string {
	var parts []string
	for i, v := range key {
		if c := t.columns[i]; c == "at" || c == "finished" {
			parts = append(parts, fromMicros(v.(int64)).Format(time.RFC3339Nano))
		} else {
			parts = append(parts, fmt.Sprint(v))
		}
	}
	return t.table + " " + strings.Join(parts, "/")
}

// tableScan reads a table once, in the order of its keys, and gives its rows in the
// order in which a chain asks for them: nearly the same. What the chain has not come
// to is held; what is too much to hold is forgotten, and read again when it is asked
// for.
type tableScan struct {
	table   *chainedTable
	ahead   int
	all     *sql.Rows
	one     *sql.Stmt
	buffer  rowValues
	read    int64
	current *tableRow            // what was read last and is neither held nor given; nil for none
	lastKey []any                // of what was read last
	ended   bool                 // all is read
	held    map[string]*tableRow // by key, as it is hashed
	order   []string             // of held, and of some that are not held any more
	dropped int64                // forgotten and not asked for yet
}

type tableRow struct {
	key  []any
	full []byte // as it is hashed
}

func newTableScan(tx *sql.Tx, t *chainedTable, ahead int) (*tableScan, error) {
	w := &tableScan{table: t, ahead: ahead, buffer: t.rowBuffer(), held: map[string]*tableRow{}}
	var err error
	if w.all, err = tx.Query(t.selectAll()); err != nil {
		return nil, err
	}
	if w.one, err = tx.Prepare(t.selectOne()); err != nil {
		w.all.Close()
		return nil, err
	}
	return w, nil
}

func (w *tableScan) close() {
	w.all.Close()
	w.one.Close()
}

// row is the row of a key as it is hashed; nil where there is none.
func (w *tableScan) row(key []any) (full []byte, err error) {
	for !w.ended && (w.lastKey == nil || compareKeys(w.lastKey, key) < 0) {
		if err := w.readNext(); err != nil {
			return nil, err
		}
	}
	if w.current != nil && compareKeys(w.current.key, key) == 0 {
		full, w.current = w.current.full, nil
		return full, nil
	}
	text := keyText(key)
	if h := w.held[text]; h != nil {
		delete(w.held, text)
		return h.full, nil
	}
	if w.dropped == 0 {
		return nil, nil
	}
	err = w.buffer.read(w.one.QueryRow(key...))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	w.dropped--
	return w.table.appendRow(nil, w.buffer.values), err
}

// readNext reads one more row, and holds the one before unless that was given.
func (w *tableScan) readNext() error {
	if w.current != nil {
		w.holdRow(w.current)
		w.current = nil
	}
	if !w.all.Next() {
		w.ended = true
		return w.all.Err()
	}
	if err := w.buffer.read(w.all); err != nil {
		return err
	}
	w.read++
	w.lastKey = slices.Clone(w.buffer.values[:w.table.keys])
	w.current = &tableRow{w.lastKey, w.table.appendRow(nil, w.buffer.values)}
	return nil
}

// holdRow keeps a row until it is asked for, and forgets the oldest half of twice as
// many as may be held.
func (w *tableScan) holdRow(r *tableRow) {
	text := keyText(r.key)
	w.held[text] = r
	if w.order = append(w.order, text); len(w.order) < 2*w.ahead {
		return
	}
	w.order = slices.DeleteFunc(w.order, func(t string) bool { return w.held[t] == nil })
	if n := len(w.order) - w.ahead; n > 0 {
		for _, t := range w.order[:n] {
			delete(w.held, t)
		}
		w.order = slices.Delete(w.order, 0, n)
		w.dropped += int64(n)
	}
}

// rest reads to the end and returns the keys of what nobody asked for, up to most of
// them, and how many more there are.
func (w *tableScan) rest(most int) (keys [][]any, more int64, err error) {
	for !w.ended {
		if err := w.readNext(); err != nil {
			return nil, 0, err
		}
	}
	all := slices.SortedFunc(maps.Values(w.held), func(a, b *tableRow) int { return compareKeys(a.key, b.key) })
	for _, h := range all[:min(most, len(all))] {
		keys = append(keys, h.key)
	}
	return keys, w.dropped + int64(len(all)-len(keys)), nil
}

// keyText is a key as it is hashed.
func keyText(key []any) string {
	var b []byte
	for _, v := range key {
		b = appendValue(b, v)
	}
	return string(b)
}

// compareKeys orders keys as SQLite does.
func compareKeys(a, b []any) int {
	for i := range a {
		var c int
		switch x := a[i].(type) {
		case int64:
			c = cmp.Compare(x, b[i].(int64))
		case string:
			c = cmp.Compare(x, b[i].(string))
		}
		if c != 0 {
			return c
		}
	}
	return 0
}
