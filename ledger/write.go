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

var (
	// ErrClosed is returned by a write after Close.
	ErrClosed = errors.New("the ledger is closed")
	// ErrRefused marks a write whose content the ledger will not take: a
	// second currency, a sample out of time. The ledger itself is well.
	ErrRefused = errors.New("refused")
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
		for _, o := range group {
			o.done <- l.record(w, l.inBatch(w, []*op{o}))
		}
		return
	}
	l.record(w, err)
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
		// ever: end it, and try once more.
		_ = w.control("ROLLBACK")
		if err := w.control("BEGIN IMMEDIATE"); err != nil {
			return fmt.Errorf("write ledger: begin: %w", err)
		}
	}
	err := func() error {
		w.begin(l.now())
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
		return fmt.Errorf("write ledger: %w", err)
	}
	w.committed()
	return nil
}

// batch is one transaction under way and what the writer remembers between
// them. Owned by run.
type batch struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt // prepared once, on conn
	now   time.Time            // one time for the whole transaction

	// saved holds the ids that stand in open_request, as of the last commit.
	saved   map[string]bool
	replace []OpenRequest // what SaveOpen wants there; nil where it was not called
	removed []string      // ids that finished in this transaction

	minutes map[int64]*Totals // what this transaction adds to the minute rollup
	last    int64             // finished of the newest request row that we know of
	wrote   bool              // this transaction has changed something

	// The time that was asked for last, and the free one given for it.
	asked, given int64
}

func newBatch(conn *sql.Conn) *batch {
	return &batch{conn: conn, stmts: map[string]*sql.Stmt{}, saved: map[string]bool{}, minutes: map[int64]*Totals{}}
}

func (w *batch) begin(now time.Time) {
	w.now, w.wrote = now, false
	w.replace, w.removed = nil, w.removed[:0]
	clear(w.minutes)
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
	return nil
}

// committed moves what the transaction did into what the writer remembers.
func (w *batch) committed() {
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

// AddRequest writes a finished request. A nil error means that the row is on
// disk; after an error it may or may not be there, and writing it again is free.
// Another request under an id that is taken is an error.
func (l *Ledger) AddRequest(r Request) error {
	return l.submit(context.Background(), func(w *batch) error { return w.addRequest(r) })
}

func (w *batch) addRequest(r Request) error {
	at := micros(r.Finished)
	at, err := w.free(at)
	if err != nil {
		return err
	}
	res, err := w.exec(`INSERT INTO request VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
		at, r.ID, r.Endpoint, r.Model, r.Key, r.Stream, string(r.Status), r.HTTP, micros(r.Started), nullMicros(r.First),
		r.Usage.PromptTokens, r.Usage.CachedTokens, r.Usage.CompletionTokens, r.LowerBound)
	if err != nil {
		return fmt.Errorf("request %s: %w", r.ID, err)
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 1 {
		w.last = max(w.last, at)
		m := floorMinute(at)
		if w.minutes[m] == nil {
			w.minutes[m] = &Totals{}
		}
		w.minutes[m].add(r)
	} else if err := w.same(r); err != nil {
		return err
	}
	if w.saved[r.ID] {
		if _, err := w.exec("DELETE FROM open_request WHERE id = ?", r.ID); err != nil {
			return fmt.Errorf("open request %s: %w", r.ID, err)
		}
		w.removed = append(w.removed, r.ID)
	}
	return nil
}

// same checks that the row under r's id is r, written before.
func (w *batch) same(r Request) error {
	var status Status
	var u Usage
	err := w.scan("SELECT status, prompt_tokens, cached_tokens, completion_tokens FROM request WHERE id = ?", []any{r.ID},
		&status, &u.PromptTokens, &u.CachedTokens, &u.CompletionTokens)
	if err != nil {
		return fmt.Errorf("request %s: %w", r.ID, err)
	}
	if status != r.Status || u != r.Usage {
		return fmt.Errorf("request %s: the id is taken by another row (%s, %d completion tokens)", r.ID, status, u.CompletionTokens)
	}
	return nil
}

// free returns the first microsecond from at on that no request has. Only a
// time that is not newer than all known ones needs to be looked up.
func (w *batch) free(at int64) (int64, error) {
	asked := at
	if at == w.asked {
		at = w.given + 1 // the recovery of a crash asks for one instant many times
	}
	for ; at <= w.last; at++ {
		var one int
		err := w.scan("SELECT 1 FROM request WHERE finished = ?", []any{at}, &one)
		if errors.Is(err, sql.ErrNoRows) {
			break
		}
		if err != nil {
			return 0, err
		}
	}
	w.asked, w.given = asked, at
	return at, nil
}

// SaveOpen replaces the table of open requests: one batch a second, of every
// request that runs. An empty batch over an empty table writes nothing.
func (l *Ledger) SaveOpen(open []OpenRequest) error {
	return l.submit(context.Background(), func(w *batch) error { return w.saveOpen(open) })
}

func (w *batch) saveOpen(open []OpenRequest) error {
	if len(open) == 0 && len(w.saved) == 0 {
		return nil
	}
	if _, err := w.exec("DELETE FROM open_request"); err != nil {
		return fmt.Errorf("open requests: %w", err)
	}
	for _, o := range open {
		_, err := w.exec("INSERT INTO open_request VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
			o.ID, o.Endpoint, o.Model, o.Key, o.Stream, micros(o.Started), micros(w.now),
			o.Usage.PromptTokens, o.Usage.CachedTokens, o.Usage.CompletionTokens)
		if err != nil {
			return fmt.Errorf("open request %s: %w", o.ID, err)
		}
	}
	w.replace = open
	if w.replace == nil {
		w.replace = []OpenRequest{}
	}
	// A request that finished earlier in this transaction is in the batch
	// still, if the batch was gathered before it ended. Its row stands twice
	// until the next batch; start-up lets the finished row win.
	w.removed = w.removed[:0]
	return nil
}

// recoverOpen turns the open requests of a dead process into lost rows, dated
// when they were last seen running, and empties the table. It returns how many.
func (w *batch) recoverOpen() (int, error) {
	if err := w.scan("SELECT coalesce(max(finished), 0) FROM request", nil, &w.last); err != nil {
		return 0, err
	}
	rows, err := w.conn.QueryContext(context.Background(), `SELECT id, endpoint, model, key, stream, started, saved,
		prompt_tokens, cached_tokens, completion_tokens FROM open_request WHERE id NOT IN (SELECT id FROM request)`)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var lost []Request
	for rows.Next() {
		var started, saved int64
		r := Request{Status: Lost, LowerBound: true}
		if err := rows.Scan(&r.ID, &r.Endpoint, &r.Model, &r.Key, &r.Stream, &started, &saved,
			&r.Usage.PromptTokens, &r.Usage.CachedTokens, &r.Usage.CompletionTokens); err != nil {
			return 0, err
		}
		r.Started, r.Finished = fromMicros(started), fromMicros(saved)
		lost = append(lost, r)
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	for _, r := range lost {
		if err := w.addRequest(r); err != nil {
			return 0, err
		}
	}
	_, err = w.exec("DELETE FROM open_request")
	return len(lost), err
}

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

// AddEvent writes an event.
func (l *Ledger) AddEvent(e Event) error {
	return l.submit(context.Background(), func(w *batch) error {
		_, err := w.exec("INSERT INTO event (at, kind, subject, detail) VALUES (?, ?, ?, ?)", micros(e.At), e.Kind, e.Subject, e.Detail)
		return err
	})
}

// SetProvider notes whose bill this ledger follows from now on; "none" where
// the operator chose to serve without one. Reports say so.
func (l *Ledger) SetProvider(name string) error {
	return l.submit(context.Background(), func(w *batch) error {
		_, err := w.exec("INSERT INTO meta VALUES ('provider', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", name)
		return err
	})
}

// Probe writes nothing of meaning and syncs it: whether the ledger can be
// written again after an error.
func (l *Ledger) Probe() error {
	return l.submit(context.Background(), func(w *batch) error {
		_, err := w.exec("INSERT INTO meta VALUES ('probed', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", w.now.UTC().Format(time.RFC3339))
		return err
	})
}
