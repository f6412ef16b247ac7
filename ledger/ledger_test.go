package ledger_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/ledger"
	"spotinference/ledger/ledgertest"
)

func TestMain(m *testing.M) { ledgertest.Main(m) }

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// open opens a ledger whose clock stands a day after t0.
func open(t *testing.T, path string) *ledger.Ledger {
	t.Helper()
	return ledgertest.Open(t, config(path))
}

// openNew makes a ledger where none is, as a first start does; open begins with a copy.
func openNew(t *testing.T, path string) *ledger.Ledger {
	t.Helper()
	led, err := ledger.Open(config(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { led.Close() })
	return led
}

func config(path string) ledger.Config {
	return ledger.Config{Path: path, Log: quiet(), Now: func() time.Time { return t0.Add(24 * time.Hour) }}
}

func request(id string, at time.Time, completion int64) ledger.Request {
	return ledger.Request{ID: id, Endpoint: "chat", Status: ledger.OK, HTTP: 200, Started: at.Add(-time.Second), Finished: at,
		Usage: ledger.Usage{PromptTokens: 10, CachedTokens: 4, CompletionTokens: completion}}
}

func add(t *testing.T, led *ledger.Ledger, rs ...ledger.Request) {
	t.Helper()
	for _, r := range rs {
		if err := led.AddRequest(r); err != nil {
			t.Fatal(err)
		}
	}
}

func totals(t *testing.T, r *ledger.Reader, from, to time.Time) ledger.Totals {
	t.Helper()
	got, err := r.Totals(from, to)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

var forever = [2]time.Time{time.Unix(0, 0), time.Unix(1<<33, 0)}

func TestTotalsOfAnyWindowEqualTheRows(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	// Awkward instants: minute edges and one microsecond beside them.
	var at []time.Time
	for m := range 5 {
		edge := t0.Add(time.Duration(m) * time.Minute)
		at = append(at, edge.Add(-time.Microsecond), edge, edge.Add(time.Microsecond), edge.Add(31*time.Second))
	}
	for i, a := range at {
		r := request(fmt.Sprint("r", i), a, int64(1)<<i)
		r.Status = []ledger.Status{ledger.OK, ledger.Aborted, ledger.Failed, ledger.Lost}[i%4]
		r.LowerBound = i%3 == 0
		add(t, led, r)
	}
	bounds := append([]time.Time{t0.Add(-time.Hour), t0.Add(time.Hour)}, at...)
	for _, from := range bounds {
		for _, to := range bounds {
			var want int64
			for i, a := range at {
				if a.After(from) && !a.After(to) {
					want |= int64(1) << i
				}
			}
			if got := totals(t, led.Reader, from, to); got.Usage.CompletionTokens != want {
				t.Errorf("(%v, %v]: rows %b, want %b", from, to, got.Usage.CompletionTokens, want)
			}
		}
	}
	all := totals(t, led.Reader, forever[0], forever[1])
	if all.OK != 5 || all.Aborted != 5 || all.Failed != 5 || all.Lost != 5 || all.LowerBound != 7 || all.Usage.CachedTokens != 80 {
		t.Errorf("totals = %+v", all)
	}
}

func TestRequestsThatFinishTogetherEachHaveARow(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if err := led.AddRequest(request(fmt.Sprint("r", i), t0, 1)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	add(t, led, request("r7", t0.Add(time.Minute), 1)) // written again: once is enough
	if got := totals(t, led.Reader, forever[0], forever[1]); got.OK != 200 || got.Usage.CompletionTokens != 200 {
		t.Errorf("totals = %+v, want 200 rows", got)
	}
}

func TestACrashTurnsOpenRequestsIntoLostRows(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "l.db")
	led := open(t, path)
	running := []ledger.OpenRequest{
		{ID: "a", Endpoint: "chat", Started: t0, Stream: true, Usage: ledger.Usage{PromptTokens: 5, CompletionTokens: 7}},
		{ID: "b", Endpoint: "chat", Started: t0},
		{ID: "c", Endpoint: "chat", Started: t0},
	}
	if err := led.SaveOpen(running); err != nil {
		t.Fatal(err)
	}
	add(t, led, request("b", t0.Add(time.Second), 3))
	// c finishes, and a batch gathered before that puts it back.
	add(t, led, request("c", t0.Add(time.Second), 4))
	if err := led.SaveOpen([]ledger.OpenRequest{running[0], running[2]}); err != nil {
		t.Fatal(err)
	}
	if err := led.Close(); err != nil {
		t.Fatal(err)
	}

	led = open(t, path)
	if led.Lost() != 1 {
		t.Errorf("lost = %d, want 1", led.Lost())
	}
	got := totals(t, led.Reader, forever[0], forever[1])
	if got.OK != 2 || got.Lost != 1 || got.LowerBound != 1 || got.Usage.CompletionTokens != 14 {
		t.Errorf("totals = %+v", got)
	}
	led.Close()
	if led = open(t, path); led.Lost() != 0 {
		t.Errorf("lost again: %d", led.Lost())
	}
}

func TestACommitThatFailsIsAnErrorAndIllHealth(t *testing.T) {
	t.Parallel()
	for _, written := range []bool{false, true} {
		t.Run(fmt.Sprintf("written=%v", written), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "l.db")
			led := open(t, path)
			add(t, led, request("before", t0, 1))
			led.FailCommit(written)
			if err := led.AddRequest(request("x", t0.Add(time.Second), 2)); !errors.Is(err, ledger.ErrInjected) {
				t.Fatalf("AddRequest = %v, want the injected error", err)
			}
			if led.Err() == nil {
				t.Error("Err() = nil after a failed commit")
			}
			led.HealCommit()
			if err := led.Probe(); err != nil || led.Err() != nil {
				t.Errorf("after healing: Probe = %v, Err = %v", err, led.Err())
			}
			led.Close()
			led = open(t, path)
			want := int64(1)
			if written {
				want = 3
			}
			if got := totals(t, led.Reader, forever[0], forever[1]); got.Usage.CompletionTokens != want {
				t.Errorf("tokens on disk = %d, want %d", got.Usage.CompletionTokens, want)
			}
			// Trying again is free either way.
			add(t, led, request("x", t0.Add(time.Second), 2))
			if got := totals(t, led.Reader, forever[0], forever[1]); got.Usage.CompletionTokens != 3 {
				t.Errorf("tokens after the retry = %d, want 3", got.Usage.CompletionTokens)
			}
		})
	}
}

func TestOneBadWriteFailsAlone(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			r := request(fmt.Sprint("r", i), t0.Add(time.Duration(i)*time.Second), 1)
			if i%10 == 0 {
				r.Usage.PromptTokens = -1 // breaks a CHECK
			}
			if err := led.AddRequest(r); (err != nil) != (i%10 == 0) {
				t.Errorf("AddRequest %d = %v", i, err)
			}
		})
	}
	wg.Wait()
	if got := totals(t, led.Reader, forever[0], forever[1]); got.OK != 90 {
		t.Errorf("rows = %d, want 90", got.OK)
	}
}

func TestAnEmptyWriteDoesNotHeal(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	led.FailCommit(false)
	if err := led.AddRequest(request("x", t0, 1)); err == nil {
		t.Fatal("no error")
	}
	led.HealCommit()
	if err := led.SaveOpen(nil); err != nil || led.Err() == nil {
		t.Errorf("SaveOpen of nothing = %v, Err = %v: nothing was written, so nothing is known", err, led.Err())
	}
}

func TestATransactionLeftOpenHeals(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	if err := led.Exec("BEGIN"); err != nil {
		t.Fatal(err)
	}
	add(t, led, request("x", t0, 1))
	if got := totals(t, led.Reader, forever[0], forever[1]); got.OK != 1 {
		t.Errorf("totals = %+v", got)
	}
}

func TestAnIDThatIsTaken(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	add(t, led, request("x", t0, 1), request("x", t0.Add(time.Second), 1))
	if err := led.AddRequest(request("x", t0, 2)); err == nil {
		t.Error("another request under the same id was acknowledged")
	}
	if got := totals(t, led.Reader, forever[0], forever[1]); got.OK != 1 || got.Usage.CompletionTokens != 1 {
		t.Errorf("totals = %+v", got)
	}
}

func TestOneFileHasOneWriter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real.db"), filepath.Join(dir, "link.db")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if led, err := ledger.Open(config(link)); err == nil {
		led.Close()
		t.Error("a link to nothing was followed")
	}
	led := open(t, real)
	if _, err := ledger.Open(config(link)); !errors.Is(err, ledger.ErrInUse) {
		t.Errorf("Open by another name = %v", err)
	}
	led.Close()
	open(t, link)
}

func TestManyLostRequestsShareAnInstant(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "l.db")
	led := open(t, path)
	var running []ledger.OpenRequest
	for i := range 3000 {
		running = append(running, ledger.OpenRequest{ID: fmt.Sprint("r", i), Started: t0, Usage: ledger.Usage{CompletionTokens: 1}})
	}
	if err := led.SaveOpen(running); err != nil {
		t.Fatal(err)
	}
	led.Close()
	led = open(t, path)
	if got := totals(t, led.Reader, forever[0], forever[1]); led.Lost() != 3000 || got.Lost != 3000 || got.Usage.CompletionTokens != 3000 {
		t.Errorf("lost %d, totals %+v", led.Lost(), got)
	}
}

func TestHistoryIsAppendOnly(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	add(t, led, request("a", t0, 1))
	addSample(t, led, sample(t0, bill("vm-1", 5)))
	if err := led.AddSampleFailure(context.Background(), ledger.SampleFailure{At: t0, Call: "GET /x", Class: "timeout"}); err != nil {
		t.Fatal(err)
	}
	if err := led.AddRawEvent(ledger.Event{At: t0, Kind: "engine", Subject: "starting→ready"}); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"request", "sample", "source", "series", "state", "reading", "raw", "sample_failure", "event"} {
		if err := led.Exec("DELETE FROM " + table); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("delete from %s: %v", table, err)
		}
	}
	if err := led.Exec("UPDATE request SET completion_tokens = 0"); err == nil {
		t.Error("a request row was changed")
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := func(name string, make func(path string), cfg func(ledger.Config) ledger.Config, want error) {
		t.Helper()
		path := filepath.Join(dir, name+".db")
		make(path)
		led, err := ledger.Open(cfg(config(path)))
		if err == nil {
			led.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: Open = %v, want %v", name, err, want)
		}
	}
	same := func(c ledger.Config) ledger.Config { return c }
	demo := func(c ledger.Config) ledger.Config { c.Demo = true; return c }
	afresh := func(c ledger.Config) ledger.Config { c.Demo, c.Afresh = true, true; return c }
	ledgerAt := func(cfg func(ledger.Config) ledger.Config) func(string) {
		return func(path string) {
			led, err := ledger.Open(cfg(config(path)))
			if err != nil {
				t.Fatal(err)
			}
			led.Close()
		}
	}
	raw := func(stmts string) func(string) {
		return func(path string) {
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(stmts); err != nil {
				t.Fatal(err)
			}
		}
	}
	f("foreign", raw("CREATE TABLE users (id)"), same, ledger.ErrForeign)
	f("newer", func(p string) { ledgerAt(same)(p); raw("PRAGMA user_version = 999")(p) }, same, ledger.ErrNewer)
	f("real-under-demo", ledgerAt(same), demo, ledger.ErrDemo)
	f("real-afresh", ledgerAt(same), afresh, ledger.ErrDemo)
	f("demo-as-real", ledgerAt(demo), same, ledger.ErrDemo)
	f("in-use", func(p string) { open(t, p) }, same, ledger.ErrInUse)

	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("not a database", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if led, err := ledger.Open(config(garbage)); err == nil {
		led.Close()
		t.Error("a file of garbage was opened")
	}
	if b, err := os.ReadFile(garbage); err != nil || !strings.HasPrefix(string(b), "not a database") {
		t.Errorf("the refused file was changed: %.20q, %v", b, err)
	}
	if _, err := ledger.OpenReader(filepath.Join(dir, "none.db"), false); !errors.Is(err, ledger.ErrMissing) {
		t.Errorf("OpenReader of nothing = %v", err)
	}
}

// TestAnotherUsersLedger is told from one that is broken, whichever of its files
// this user may not open.
func TestAnotherUsersLedger(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]struct{ dir, file fs.FileMode }{
		"the directory": {0o000, 0o444},
		"the file":      {0o777, 0o000},
		"beside it":     {0o555, 0o444},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "l.db")
			if err := open(t, path).Close(); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Chmod(path, mode.file), os.Chmod(dir, mode.dir)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Chmod(dir, 0o700) })
			if err := asNobody(t, path); !errors.Is(err, ledger.ErrAccess) {
				t.Errorf("OpenReader = %v", err)
			}
		})
	}
}

// asNobody opens a ledger on a thread that file modes bind, as they do not bind root.
func asNobody(t *testing.T, path string) error {
	above := filepath.Dir(filepath.Dir(path)) // t.TempDir's, and the one above it, are ours alone
	for range 2 {
		if err := os.Chmod(above, 0o755); err != nil {
			t.Fatal(err)
		}
		above = filepath.Dir(above)
	}
	got := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with this goroutine
		if os.Getuid() == 0 {
			if err := unix.Setfsuid(65534); err != nil {
				got <- err
				return
			}
		}
		r, err := ledger.OpenReader(path, false)
		if err == nil {
			r.Close()
		}
		got <- err
	}()
	return <-got
}

func TestDemoAfreshForgetsOnlyDemo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "demo.db")
	cfg := config(path)
	cfg.Demo, cfg.Afresh = true, true
	if err := os.WriteFile(path, nil, 0o600); err != nil { // a start that was killed
		t.Fatal(err)
	}
	for range 2 {
		led, err := ledger.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := totals(t, led.Reader, forever[0], forever[1]); got.OK != 0 {
			t.Errorf("a fresh demo ledger has %d requests", got.OK)
		}
		add(t, led, request("a", t0, 1))
		led.Close()
	}
}

func TestReaderBesideWriter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a b?#%.db") // a path that a careless DSN would break
	led := openNew(t, path)
	add(t, led, request("a", t0, 1))
	r, err := ledger.OpenReader(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	add(t, led, request("b", t0.Add(time.Second), 2))
	if got := totals(t, r, forever[0], forever[1]); got.Usage.CompletionTokens != 3 {
		t.Errorf("reader sees %d tokens, want 3", got.Usage.CompletionTokens)
	}
	led.Close()
	if r, err = ledger.OpenReader(path, false); err != nil {
		t.Fatalf("reading a ledger that nobody writes: %v", err)
	}
	r.Close()
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v, want 0600", st.Mode(), err)
	}
	if err := led.AddRequest(request("c", t0, 1)); !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("write after Close = %v", err)
	}
	if err := led.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

func TestASharedFileSystemGetsARollbackJournal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := func(name string, magic int64, want string) {
		t.Helper()
		path := filepath.Join(dir, name)
		led, err := ledger.Open(config(path).OnFS(magic))
		if err != nil {
			t.Fatal(err)
		}
		defer led.Close()
		if mode, err := led.Journal(); err != nil || mode != want {
			t.Errorf("%s: journal = %q, %v, want %q", name, mode, err, want)
		}
		add(t, led, request("a", t0, 1))
		r, err := ledger.OpenReader(path, false)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got := totals(t, r, forever[0], forever[1]); got.OK != 1 {
			t.Errorf("%s: reader sees %d rows", name, got.OK)
		}
	}
	f("ext4.db", unix.EXT4_SUPER_MAGIC, "wal")
	f("nfs.db", unix.NFS_SUPER_MAGIC, "delete")
	f("fuse.db", unix.FUSE_SUPER_MAGIC, "delete")
	f("9p.db", unix.V9FS_MAGIC, "delete")
}
