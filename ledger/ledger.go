// Package ledger keeps what happened: requests with their tokens, samples of
// the provider's bill, and events, in one SQLite file. It knows integers and
// times; it knows no engine, no provider and no HTTP.
//
// One process writes (see Open), any number read (see OpenReader). A write returns
// nil only after its transaction is committed and synced, so a caller may acknowledge
// it. Finished requests, samples and events are never changed; only the table of open
// requests is.
package ledger

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite" // the "sqlite" driver: pure Go, so that the binary is static
	sqlite3 "modernc.org/sqlite/lib"

	"spotinference/internal/hint"
)

// applicationID marks the file as a ledger ("SPIF"), so that another program's
// database is refused rather than migrated.
const applicationID = 0x53504946

//go:embed schema/*.sql
var schema embed.FS

var (
	// ErrInUse is returned by Open while another process writes the ledger.
	ErrInUse = hint.Errorf("stop the other serve, or give this one its own --ledger", "another spotinference is writing it")
	// ErrNewer is returned for a ledger whose schema this binary does not know.
	ErrNewer = hint.Errorf("use the newer binary, or another --ledger", "written by a newer spotinference")
	// ErrForeign is returned for a database that is not a ledger.
	ErrForeign = hint.Errorf("give --ledger a path of its own", "not a spotinference ledger")
	// ErrDemo is returned where a demo ledger and a real one would be mixed up.
	ErrDemo = hint.Errorf("--demo reads and writes the demo's ledger only, and no other command does", "demo and real ledgers do not mix")
	// ErrMissing is returned by OpenReader where there is no ledger.
	ErrMissing = hint.Errorf("start spotinference serve first, or name the ledger with --ledger", "no such ledger")
	// ErrAccess is returned by OpenReader where this user may not read the ledger, or
	// may not write what SQLite keeps beside it (-wal, -shm), without which it reads
	// no ledger that another process may be writing (sqlite.org/wal.html, 5).
	ErrAccess = hint.Errorf("ask as the user that runs serve: to read a ledger that may be in use, SQLite writes beside it", "this user may not read it")
	// ErrPlace is returned where no ledger can be kept at the path.
	ErrPlace = hint.Errorf("name another place with --ledger", "no ledger can be kept there")
	// ErrLocks is returned where the file system does not keep its locks.
	ErrLocks = hint.Errorf("put the ledger on a volume whose file system keeps locks", "the file system does not keep file locks")
)

// Config says which ledger to write.
type Config struct {
	Path string
	// Demo marks a ledger of simulated figures. A real ledger is refused
	// under Demo, and a demo ledger without it.
	Demo bool
	// Afresh removes a demo ledger that stands at Path first. Only with Demo.
	Afresh bool
	Now    func() time.Time // time.Now where nil
	Log    *slog.Logger     // slog.Default() where nil

	// acceptLoss, where set, says what is written of a loss (nil: none was found), or why
	// the ledger may not be opened for that.
	acceptLoss func(*Loss) (EventDetail, error)

	// statfs is unix.Statfs; tests stand in for a network volume.
	statfs func(string, *unix.Statfs_t) error
}

// Ledger is the one writer. It reads too: its Reader sees every commit.
type Ledger struct {
	*Reader
	write  *sql.DB
	writer *batch // on write's one connection; owned by run
	now    func() time.Time
	lock   *os.File
	place  place
	placed time.Time // when its paths were checked last; owned by run
	// misplaced asks the writer to check them at its next commit.
	misplaced atomic.Bool
	head      headFile  // owned by run
	log       logKeeper // owned by run
	ops       chan *op
	closing   chan struct{}
	closed    chan struct{} // closed when run has ended
	down      atomic.Bool
	health    atomic.Pointer[error] // the last write's error; nil after a good one

	// commit stands around the commit of a transaction where a test sets it, to
	// fail in both ways: failed and not written, failed but written.
	commit func(commit func() error) error

	// lost counts the requests that the last process left open.
	lost int
}

// Open takes the ledger's lock, creates or migrates the file, turns the open
// requests that a dead process left into lost ones, and starts the writer.
// The lock is held until Close.
func Open(cfg Config) (led *Ledger, err error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.statfs == nil {
		cfg.statfs = unix.Statfs
	}
	wrap := func(err error) error { return fmt.Errorf("open ledger %s: %w", cfg.Path, err) }
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700); err != nil {
		return nil, wrap(fmt.Errorf("%w: %w", ErrPlace, err))
	}
	// One file has one lock, whatever name it goes by.
	if cfg.Path, err = realPath(cfg.Path); err != nil {
		return nil, wrap(err)
	}
	if err := checkDir(cfg.Path); err != nil {
		return nil, wrap(err)
	}
	// To set the journal mode alone would change another program's database.
	if err := inspectFile(cfg.Path, func(db *sql.DB) error { _, _, err := identify(db); return err }); err != nil {
		return nil, wrap(err)
	}
	lock, err := takeLock(cfg.Path + ".lock")
	if err != nil {
		return nil, wrap(err)
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if cfg.Demo && cfg.Afresh {
		if err := removeDemo(cfg.Path); err != nil {
			return nil, wrap(err)
		}
	}
	accepted, err := checkLoss(cfg)
	if err != nil {
		return nil, wrap(err)
	}
	w, journal, err := openWriter(cfg)
	if err != nil {
		return nil, wrap(err)
	}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	r, err := openReader(cfg.Path, cfg.Demo, patienceOf(journal))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	conn, err := w.Conn(context.Background())
	if err != nil {
		return nil, wrap(err)
	}
	led = &Ledger{
		Reader: r, write: w, writer: newBatch(conn), now: cfg.Now, lock: lock,
		place: place{db: -1, wal: -1},
		head:  headFile{path: cfg.Path + headSuffix, log: cfg.Log}, log: logKeeper{log: cfg.Log},
		ops: make(chan *op, 4096), closing: make(chan struct{}), closed: make(chan struct{}),
	}
	recovery := &op{do: func(w *batch) (err error) {
		if led.lost, err = w.recoverOpen(); err != nil {
			return err
		}
		t, err := tip(w)
		if w.tip = &t; err != nil || accepted == nil {
			return err
		}
		return w.addEvent(NewEvent(w.now, accepted))
	}}
	if err := led.inBatch(led.writer, []*op{recovery}); err != nil {
		led.writer.close()
		return nil, wrap(fmt.Errorf("recover open requests: %w", err))
	}
	if led.place, err = placeOf(cfg.Path, journal); err != nil {
		led.writer.close()
		return nil, wrap(err)
	}
	go led.run(led.writer)
	return led, nil
}

// openWriter opens the file for writing, on one connection, and brings its schema to ours.
func openWriter(cfg Config) (w *sql.DB, journal string, err error) {
	if journal, err = journalFor(cfg.Path, cfg.statfs, cfg.Log); err != nil {
		return nil, "", err
	}
	// The file holds what a business used and paid: it is its owner's alone.
	f, err := os.OpenFile(cfg.Path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return nil, "", err
	}
	w, err = openDB(cfg.Path, patienceOf(journal), "_txlock=immediate", "_pragma=journal_mode("+journal+")", "_pragma=synchronous(FULL)",
		fmt.Sprintf("_pragma=journal_size_limit(%d)", maxWAL))
	if err != nil {
		return nil, "", err
	}
	w.SetMaxOpenConns(1)
	if err := migrate(w, cfg); err != nil {
		return nil, "", errors.Join(err, w.Close())
	}
	return w, journal, nil
}

func patienceOf(journal string) time.Duration {
	if journal == "wal" {
		return writerPatience
	}
	return rollbackPatience
}

// checkLoss refuses a ledger that has lost what its head file names, unless cfg accepts
// that: then accepted is the event that says so.
func checkLoss(cfg Config) (accepted EventDetail, err error) {
	loss, err := findLoss(cfg.Path)
	switch {
	case err != nil:
		return nil, err
	case cfg.acceptLoss != nil:
		return cfg.acceptLoss(loss)
	case loss != nil:
		return nil, loss.err(cfg.Path)
	}
	return nil, nil
}

// realPath resolves the links on the way to path; the file itself may be missing.
func realPath(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		if target, err := os.Readlink(path); err == nil {
			return "", fmt.Errorf("a link to %s, which is not there: %w", target, fs.ErrNotExist)
		}
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		return filepath.Join(dir, filepath.Base(path)), err
	}
	return real, err
}

// Lost is the number of requests that the last process left open, now lost rows.
func (l *Ledger) Lost() int { return l.lost }

// Err is the error of the last write, nil after a good one whose file is still in its
// place. A ledger that cannot be written closes the gate.
func (l *Ledger) Err() error {
	if p := l.health.Load(); p != nil {
		return *p
	}
	if l.down.Load() {
		return nil // its files may go
	}
	err := l.place.check()
	if err != nil {
		l.misplaced.Store(true) // the writer looks for itself
	}
	return err
}

// Close waits for the writes under way, then closes the file and releases its lock.
// A write after Close is refused. Safe twice.
func (l *Ledger) Close() error {
	if l.down.Swap(true) {
		<-l.closed
		return nil
	}
	close(l.closing)
	<-l.closed
	err := errors.Join(l.Reader.Close(), l.writer.close(), l.write.Close(), l.head.close())
	l.place.close()
	return errors.Join(err, l.lock.Close())
}

// inspectFile opens what is at path for f and changes nothing. Where nothing is there,
// or an empty file, f is not called.
func inspectFile(path string, f func(*sql.DB) error) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("%w: it is no plain file", ErrPlace)
	case st.Size() == 0:
		return nil
	}
	db, err := openDB(path, patience, "mode=ro", "_pragma=query_only(1)")
	if err != nil {
		return err
	}
	return errors.Join(f(db), db.Close())
}

// How long a connection waits for a lock. A report can wait; an answer is held up by its
// group of writes and by the one before, and in a rollback journal each waits at its
// begin and at its commit: together that must stay below five seconds.
const (
	patience         = 10 * time.Second
	writerPatience   = 1500 * time.Millisecond
	rollbackPatience = time.Second
)

// openDB opens path with what every connection needs, in the DSN, so that no
// connection of the pool can miss a pragma.
func openDB(path string, patience time.Duration, params ...string) (*sql.DB, error) {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() + "?" +
		strings.Join(append(params, fmt.Sprintf("_pragma=busy_timeout(%d)", patience.Milliseconds()), "_pragma=foreign_keys(1)"), "&")
	return sql.Open("sqlite", dsn)
}

// migrate brings the schema to this binary's version, each step in one
// transaction with the version that it leaves.
func migrate(db *sql.DB, cfg Config) error {
	files, err := fs.Glob(schema, "schema/*.sql")
	if err != nil {
		return err
	}
	version, isNew, err := identify(db)
	if err != nil {
		return err
	}
	if version > len(files) {
		return fmt.Errorf("schema %d, this binary knows %d: %w", version, len(files), ErrNewer)
	}
	for n := version; n < len(files); n++ {
		text, err := schema.ReadFile(files[n])
		if err != nil {
			return err
		}
		stmts := []string{string(text), "PRAGMA user_version = " + strconv.Itoa(n+1)}
		if n == 0 {
			stmts = append(stmts, fmt.Sprintf("PRAGMA application_id = %d", applicationID),
				"INSERT INTO meta VALUES ('demo', '"+map[bool]string{false: "0", true: "1"}[cfg.Demo]+"')")
		}
		var then func(*sql.Tx) error
		if f := fill[n]; f != nil {
			then = func(tx *sql.Tx) error { return f(tx, cfg) }
		}
		if err := inTx(db, stmts, then); err != nil {
			return fmt.Errorf("migrate %s: %w", filepath.Base(files[n]), err)
		}
	}
	if isNew {
		return nil
	}
	return checkDemo(db, cfg.Demo)
}

// fill is what a step does beyond its SQL.
var fill = map[int]func(*sql.Tx, Config) error{
	1: func(tx *sql.Tx, _ Config) error { return fillRollups(tx) },
	2: func(tx *sql.Tx, _ Config) error { return fillBusy(tx) },
	7: func(tx *sql.Tx, cfg Config) error { return fillChain(tx, cfg.Now(), cfg.Log) },
}

func inTx(db *sql.DB, stmts []string, then func(*sql.Tx) error) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, s := range stmts {
		if _, err := tx.Exec(s); err != nil {
			return err
		}
	}
	if then != nil {
		if err := then(tx); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// identify tells a ledger from an empty file and from everything else.
func identify(db *sql.DB) (version int, isNew bool, err error) {
	var app, tables int
	if err := db.QueryRow("PRAGMA application_id").Scan(&app); err != nil {
		var e *sqlite.Error
		if errors.As(err, &e) && e.Code() == sqlite3.SQLITE_NOTADB {
			return 0, false, ErrForeign
		}
		return 0, false, err
	}
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return 0, false, err
	}
	if err := db.QueryRow("SELECT count(*) FROM sqlite_master").Scan(&tables); err != nil {
		return 0, false, err
	}
	if app == 0 && version == 0 && tables == 0 {
		return 0, true, nil
	}
	if app != applicationID || version < 1 {
		return 0, false, ErrForeign
	}
	return version, false, nil
}

func checkDemo(db *sql.DB, demo bool) error {
	var is string
	if err := db.QueryRow("SELECT value FROM meta WHERE key = 'demo'").Scan(&is); err != nil {
		return fmt.Errorf("read the demo mark: %w", err)
	}
	switch {
	case is == "1" && !demo:
		return fmt.Errorf("this is a demo ledger: %w", ErrDemo)
	case is != "1" && demo:
		return fmt.Errorf("this is a real ledger: %w", ErrDemo)
	}
	return nil
}

// removeDemo deletes a demo ledger of any version, or the empty file that a
// killed start left, and its companions; anything else at path is left alone
// and refused.
func removeDemo(path string) error {
	err := inspectFile(path, func(db *sql.DB) error {
		if _, isNew, err := identify(db); err != nil || isNew {
			return err
		}
		return checkDemo(db, true)
	})
	if err != nil {
		return err
	}
	for _, suffix := range []string{headSuffix, "-wal", "-shm", "-journal", ""} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Reader answers questions about a ledger that this or another process writes.
type Reader struct {
	db   *sql.DB
	path string
}

// OpenReader opens a ledger for reading only; it works beside a writer. It
// refuses what Open refuses, and a path where no ledger is.
func OpenReader(path string, demo bool) (*Reader, error) { return openReader(path, demo, patience) }

func openReader(path string, demo bool, patience time.Duration) (*Reader, error) {
	wrap := func(err error) error {
		if denied(err) {
			err = fmt.Errorf("%w: %w", ErrAccess, err)
		}
		return fmt.Errorf("read ledger %s: %w", path, err)
	}
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, wrap(ErrMissing)
	case err != nil:
		return nil, wrap(err)
	case !st.Mode().IsRegular():
		return nil, wrap(ErrForeign)
	}
	db, err := openDB(path, patience, "mode=ro", "_pragma=query_only(1)")
	if err != nil {
		return nil, wrap(err)
	}
	files, err := fs.Glob(schema, "schema/*.sql")
	if err == nil {
		err = checkReadable(db, len(files), demo)
	}
	if err != nil {
		db.Close()
		return nil, wrap(err)
	}
	return &Reader{db: db, path: path}, nil
}

// denied tells whether a file that is there could not be opened for reading, or what
// SQLite keeps beside it for writing.
func denied(err error) bool {
	var e *sqlite.Error
	if errors.As(err, &e) {
		code := e.Code() & 0xff
		return code == sqlite3.SQLITE_CANTOPEN || code == sqlite3.SQLITE_READONLY
	}
	return errors.Is(err, fs.ErrPermission)
}

func checkReadable(db *sql.DB, known int, demo bool) error {
	version, isNew, err := identify(db)
	switch {
	case err != nil:
		return err
	case isNew:
		return ErrForeign
	case version > known:
		return fmt.Errorf("schema %d, this binary knows %d: %w", version, known, ErrNewer)
	case version < known:
		return fmt.Errorf("schema %d, this binary reads %d: start serve once to migrate it", version, known)
	}
	return checkDemo(db, demo)
}

// Close closes the file. Safe twice.
func (r *Reader) Close() error { return r.db.Close() }

// snapshot runs f on one read transaction, so that all its queries see the
// same state.
func (r *Reader) snapshot(ctx context.Context, f func(tx *sql.Tx) error) error {
	tx, err := r.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	return nil
}

func micros(t time.Time) int64 { return t.UnixMicro() }

func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

// nullMicros keeps the zero time as NULL.
func nullMicros(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMicro(), Valid: !t.IsZero()}
}
