package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"spotinference/internal/hint"
)

var (
	// ErrClosed is returned by a write after Close.
	ErrClosed = errors.New("the ledger is closed")
	// ErrRefused marks a write whose content the ledger will not take: a
	// second currency, a sample out of time. The ledger itself is well.
	ErrRefused = errors.New("refused")
	// ErrOther marks a sample that another ledger should hold: of another account,
	// or in another currency. It goes along with ErrRefused.
	ErrOther = hint.Errorf("give this account a --ledger of its own, or use the account that the ledger is of", "the ledger is another bill's")
	// ErrFull marks a write for which the disk had no room.
	ErrFull = errors.New("the disk is full")
	// ErrLocked marks a write that waited for another program's lock in vain.
	ErrLocked = hint.Errorf("end what has the ledger open (fuser -v LEDGER), such as a transaction in sqlite3", "another program keeps the ledger locked")
)

// op is one write. do runs inside the group's transaction and may run twice:
// once with the group, and once alone where the group failed.
type op struct {
	do   func(*batch) error
	done chan error
}

// maxGroup bounds how many writes share a commit, so that a flood cannot make
// the first of them wait for ever.
const maxGroup = 512

// submit queues a write and waits until it is on disk. After ctx has ended it
// waits no longer, and the write may still happen. A request is written without
// one: its client may have left, and its row is due all the same.
func (l *Ledger) submit(ctx context.Context, do func(*batch) error) error {
	o := &op{do: do, done: make(chan error, 1)}
	select {
	case <-l.closing:
		return ErrClosed
	default:
	}
	select {
	case l.ops <- o:
	case <-l.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closed:
		// run drained the queue before it ended; an op that slipped in after
		// the drain was not written.
		select {
		case err := <-o.done:
			return err
		default:
			return ErrClosed
		}
	}
}

// run is the writer: whatever queued up while the last commit synced shares
// the next one. It owns w.
func (l *Ledger) run(w *batch) {
	defer close(l.closed)
	for {
		var group []*op
		select {
		case o := <-l.ops:
			group = append(group, o)
			// Who submits wakes this goroutine at once. Others that are about to submit
			// go first: they share this commit instead of waiting for the next.
			runtime.Gosched()
		case <-l.closing:
			for {
				select {
				case o := <-l.ops:
					l.commitGroup(w, []*op{o})
				default:
					return
				}
			}
		}
	more:
		for len(group) < maxGroup {
			select {
			case o := <-l.ops:
				group = append(group, o)
			default:
				break more
			}
		}
		l.commitGroup(w, group)
		l.log.shorten(w.conn)
	}
}

// commitGroup writes the group in one transaction. Where one of the writes is
// bad, each is tried alone, so that it fails its own caller only. A transaction
// that cannot be begun or committed fails them all at once: trying again one by
// one would make each wait for the same disk, or the same lock.
func (l *Ledger) commitGroup(w *batch, group []*op) {
	err := l.inBatch(w, group)
	var bad *opError
	if errors.As(err, &bad) && len(group) > 1 {
		for i, o := range group {
			err := l.record(w, l.inBatch(w, []*op{o}))
			o.done <- err
			if err != nil && !errors.As(err, &bad) {
				failAll(group[i+1:], err)
				return
			}
		}
		return
	}
	l.record(w, err)
	failAll(group, err)
}

// failAll ends writes with one outcome, which may be good.
func failAll(group []*op, err error) {
	for _, o := range group {
		o.done <- err
	}
}

// opError is a write that is bad in itself.
type opError struct{ error }

func (e *opError) Unwrap() error { return e.error }

// record keeps the health of the ledger and returns err. A transaction that
// wrote nothing says nothing of the disk.
func (l *Ledger) record(w *batch, err error) error {
	switch {
	case err == nil && w.wrote:
		l.health.Store(nil)
	case err != nil && !errors.Is(err, ErrRefused):
		l.health.Store(&err)
	}
	return err
}

func (l *Ledger) inBatch(w *batch, group []*op) error {
	if err := w.control("BEGIN IMMEDIATE"); err != nil {
		// A transaction that an earlier error left open would be in the way for
		// ever: end it, and try once more. A lock was waited for already.
		_ = w.control("ROLLBACK")
		if !isSQLite(err, sqlite3.SQLITE_BUSY) {
			err = w.control("BEGIN IMMEDIATE")
		}
		if err != nil {
			return fmt.Errorf("write ledger: begin: %w", named(err))
		}
	}
	err := func() error {
		w.startBatch(l.now())
		for _, o := range group {
			if err := o.do(w); err != nil {
				return &opError{err}
			}
		}
		if err := w.flush(); err != nil {
			return err
		}
		commit := func() error { return w.control("COMMIT") }
		if l.commit != nil {
			return l.commit(commit)
		}
		return commit()
	}()
	if err != nil {
		// SQLite has rolled back by itself after some errors, and a commit
		// that failed may have been written: then there is nothing to undo.
		_ = w.control("ROLLBACK")
		w.newest, w.tip = nil, nil
		return fmt.Errorf("write ledger: %w", named(err))
	}
	w.committed()
	if w.tip != nil {
		l.head.put(*w.tip)
	}
	// What was written is acknowledged only where the next start will find it.
	if err := l.checkPlace(w); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

// named says what SQLite's error means for the ledger.
func named(err error) error {
	switch {
	case isSQLite(err, sqlite3.SQLITE_FULL): // what ENOSPC becomes, too
		return fmt.Errorf("%w: %w", ErrFull, err)
	case isSQLite(err, sqlite3.SQLITE_BUSY):
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	return err
}

func isSQLite(err error, code int) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == code
}

// batch is one transaction under way and what the writer remembers between
// them. Owned by run.
type batch struct {
	conn    *sql.Conn
	stmts   map[string]*sql.Stmt // prepared once, on conn
	inserts []string             // of each chained table
	now     time.Time            // one time for the whole transaction

	// saved holds the ids that stand in open_request, as of the last commit.
	saved   map[string]bool
	replace []OpenRequest // what SaveOpen wants there; nil where it was not called
	removed []string      // ids that finished in this transaction

	minutes map[int64]*Totals   // what this transaction adds to the minute rollup
	hours   map[hourKey]*Totals // and to the hour rollup
	ran     []span              // and to the busy time
	newest  *busyRow            // the newest row of busy, this transaction's changes among them; nil where not known
	last    int64               // finished of the newest request row that we know of
	wrote   bool                // this transaction has changed something

	link link   // of this transaction
	tip  *Chain // the newest link, as of the last commit; nil where not known
	next *Chain // and after this one

	// The time that was asked for last, and the free one given for it.
	asked, given int64
}

func newBatch(conn *sql.Conn) *batch {
	return &batch{conn: conn, inserts: insertsOf(), stmts: map[string]*sql.Stmt{}, saved: map[string]bool{}, minutes: map[int64]*Totals{}, hours: map[hourKey]*Totals{}}
}

func (w *batch) startBatch(now time.Time) {
	w.now, w.wrote = now, false
	w.replace, w.removed = nil, w.removed[:0]
	clear(w.minutes)
	clear(w.hours)
	w.ran = w.ran[:0]
	w.link.reset()
}

// stmt returns query prepared, the first time preparing it.
func (w *batch) stmt(query string) (*sql.Stmt, error) {
	if s := w.stmts[query]; s != nil {
		return s, nil
	}
	s, err := w.conn.PrepareContext(context.Background(), query)
	if err == nil {
		w.stmts[query] = s
	}
	return s, err
}

// exec changes something.
func (w *batch) exec(query string, args ...any) (sql.Result, error) {
	s, err := w.stmt(query)
	if err != nil {
		return nil, err
	}
	w.wrote = true
	return s.Exec(args...)
}

// control begins or ends a transaction.
func (w *batch) control(query string) error {
	s, err := w.stmt(query)
	if err != nil {
		return err
	}
	_, err = s.Exec()
	return err
}

// scan reads the one row that query has; sql.ErrNoRows where it has none.
func (w *batch) scan(query string, args []any, dest ...any) error {
	s, err := w.stmt(query)
	if err != nil {
		return err
	}
	return s.QueryRow(args...).Scan(dest...)
}

// row is scan for those who know how to read a row.
func (w *batch) row(query string, args ...any) rowScan {
	return rowScan(func(dest ...any) error { return w.scan(query, args, dest...) })
}

type rowScan func(dest ...any) error

func (s rowScan) Scan(dest ...any) error { return s(dest...) }

func (w *batch) close() error {
	var err error
	for _, s := range w.stmts {
		err = errors.Join(err, s.Close())
	}
	return errors.Join(err, w.conn.Close())
}

// flush writes what the operations of this transaction have gathered.
func (w *batch) flush() error {
	for m, t := range w.minutes {
		_, err := w.exec(`INSERT INTO minute VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (minute) DO UPDATE SET ok = ok + excluded.ok, aborted = aborted + excluded.aborted,
				failed = failed + excluded.failed, lost = lost + excluded.lost, lower_bound = lower_bound + excluded.lower_bound,
				prompt_tokens = prompt_tokens + excluded.prompt_tokens, cached_tokens = cached_tokens + excluded.cached_tokens,
				completion_tokens = completion_tokens + excluded.completion_tokens`,
			m, t.OK, t.Aborted, t.Failed, t.Lost, t.LowerBound, t.Usage.PromptTokens, t.Usage.CachedTokens, t.Usage.CompletionTokens)
		if err != nil {
			return fmt.Errorf("minute: %w", err)
		}
	}
	for h, t := range w.hours {
		_, err := w.exec(`INSERT INTO hour VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (hour, model, key) DO UPDATE SET ok = ok + excluded.ok, aborted = aborted + excluded.aborted,
				failed = failed + excluded.failed, lost = lost + excluded.lost, lower_bound = lower_bound + excluded.lower_bound,
				prompt_tokens = prompt_tokens + excluded.prompt_tokens, cached_tokens = cached_tokens + excluded.cached_tokens,
				completion_tokens = completion_tokens + excluded.completion_tokens`,
			h.hour, h.model, h.key, t.OK, t.Aborted, t.Failed, t.Lost, t.LowerBound, t.Usage.PromptTokens, t.Usage.CachedTokens, t.Usage.CompletionTokens)
		if err != nil {
			return fmt.Errorf("hour: %w", err)
		}
	}
	if err := w.flushBusy(); err != nil {
		return err
	}
	return w.flushLink()
}

// committed moves what the transaction did into what the writer remembers.
func (w *batch) committed() {
	w.tip = w.next
	if w.replace != nil {
		clear(w.saved)
		for _, o := range w.replace {
			w.saved[o.ID] = true
		}
	}
	for _, id := range w.removed {
		delete(w.saved, id)
	}
}

// NoProvider is noted as the provider where the operator chose to serve without a bill.
const NoProvider = "none"

// SetProvider notes whose bill this ledger follows from now on, NoProvider for none.
// Reports say so.
func (l *Ledger) SetProvider(name string) error {
	return l.submit(context.Background(), func(w *batch) error {
		_, err := w.exec("INSERT INTO meta VALUES ('provider', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", name)
		return err
	})
}

// Probe writes nothing of meaning and syncs it: whether the ledger can be
// written again after an error, and is in its place.
func (l *Ledger) Probe() error {
	l.misplaced.Store(true)
	return l.submit(context.Background(), func(w *batch) error {
		_, err := w.exec("INSERT INTO meta VALUES ('probed', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", w.now.UTC().Format(time.RFC3339))
		return err
	})
}
