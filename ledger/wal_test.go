package ledger_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"spotinference/ledger"
)

// walSize is how long the write-ahead log is.
func walSize(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// write adds requests in commits of a hundred until the log has grown by so much, or so
// many commits were made.
func write(t *testing.T, led *ledger.Ledger, from, commits int) {
	t.Helper()
	for c := range commits {
		batch := make([]ledger.Request, 100)
		for i := range batch {
			n := from + c*len(batch) + i
			batch[i] = request(fmt.Sprint("r", n), t0.Add(time.Duration(n)*time.Millisecond), 1)
		}
		if err := led.AddRequests(batch); err != nil {
			t.Fatal(err)
		}
	}
}

// A pager that pauses keeps its export waiting for ever, and with it the log must not
// grow without bound. (3 to 176 MiB in 18,595 requests were seen.)
func TestAReaderThatPausesHoldsNoLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "l.db")
	led := openNew(t, path)
	everything(t, led)
	write(t, led, 0, 40)
	r, err := ledger.OpenReader(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all := ledger.Window{From: time.Unix(0, 0), To: t0.AddDate(1, 0, 0)}
	enough := errors.New("enough")
	for name, each := range map[string]func(row func() error) error{
		"requests": func(row func() error) error {
			return r.EachRequest(t.Context(), all, func(ledger.Request) error { return row() })
		},
		"samples": func(row func() error) error {
			return r.EachSample(t.Context(), all, func(ledger.Sample) error { return row() })
		},
		"failures": func(row func() error) error {
			return r.EachSampleFailure(t.Context(), all, func(ledger.SampleFailure) error { return row() })
		},
		"events": func(row func() error) error {
			return r.EachEvent(t.Context(), all, func(ledger.Event) error { return row() })
		},
		"engine samples": func(row func() error) error {
			return r.EachEngineSample(t.Context(), all, func(ledger.EngineSample) error { return row() })
		},
		"gpu minutes": func(row func() error) error {
			return r.GPUMinutes(all.From, all.To, func(ledger.GPUMinute) error { return row() })
		},
	} {
		paused := false
		err := each(func() error {
			paused = true
			// While nobody else reads, all of the log can be taken over: nothing holds it.
			if busy, err := led.Checkpoint(); err != nil || busy {
				t.Errorf("%s: a row's reader holds the log: %v", name, err)
			}
			return enough
		})
		if !paused || !errors.Is(err, enough) {
			t.Errorf("%s: no row, %v", name, err)
		}
	}
}

// Pages miss no row and give none twice, wherever they end.
func TestRowsInPages(t *testing.T) {
	t.Parallel()
	led := openNew(t, filepath.Join(t.TempDir(), "l.db"))
	write(t, led, 0, 31)
	n := 0
	err := led.EachRequest(t.Context(), ledger.Window{From: t0.Add(99 * time.Millisecond), To: t0.Add(3 * time.Second)}, func(q ledger.Request) error {
		n++
		if want := fmt.Sprint("r", 99+n); q.ID != want {
			return fmt.Errorf("row %d is %s, want %s", n, q.ID, want)
		}
		if n == 1500 { // what comes meanwhile, ahead of all, is not waited for
			write(t, led, 100_000, 1)
		}
		return nil
	})
	if err != nil || n != 2901 {
		t.Errorf("%d rows, %v, want 2901", n, err)
	}
}

// What holds the log makes it grow, and there is no help; when that is over it must shrink,
// although others read all the time.
func TestALogThatHasGrownShrinks(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "l.db")
	led := openNew(t, path)
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro&_pragma=query_only(1)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	read := func(ctx context.Context) (*sql.Tx, error) {
		tx, err := db.BeginTx(ctx, nil)
		if err == nil {
			var n int
			err = tx.QueryRow("SELECT count(*) FROM sample").Scan(&n)
		}
		return tx, err
	}
	stopped, err := read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	from := 0
	for ; walSize(t, path) < 24<<20; from += 2000 {
		write(t, led, from, 20)
	}
	if err := stopped.Rollback(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	defer readers.Wait()
	defer stop()
	for range 3 { // there is no instant without a reader
		readers.Go(func() {
			for ctx.Err() == nil {
				tx, err := read(ctx)
				if err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
				tx.Rollback()
			}
		})
	}
	deadline := time.Now().Add(30 * time.Second)
	for ; walSize(t, path) > 9<<20; from += 100 {
		if time.Now().After(deadline) {
			t.Fatalf("the log has %d bytes, and none holds it", walSize(t, path))
		}
		write(t, led, from, 1)
		time.Sleep(5 * time.Millisecond)
	}
}

// An outsider that holds the write lock: answers must not hang on it, for longer than
// seconds, nor one after the other.
func TestAnOutsidersLockFailsWritesSoon(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		magic int64
		lock  string
	}{
		"wal":                         {0xEF53, "BEGIN IMMEDIATE"},
		"rollback":                    {0x6969, "BEGIN IMMEDIATE"},
		"a reader on a shared volume": {0x6969, "BEGIN; SELECT count(*) FROM sample"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "l.db")
			led, err := ledger.Open(config(path).OnFS(c.magic))
			if err != nil {
				t.Fatal(err)
			}
			defer led.Close()
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			db.SetMaxOpenConns(1)
			if _, err := db.Exec(c.lock); err != nil {
				t.Fatal(err)
			}
			var writers sync.WaitGroup
			for i := range 20 {
				writers.Go(func() {
					time.Sleep(time.Duration(i) * 250 * time.Millisecond) // into each group's wait
					began := time.Now()
					r := request(fmt.Sprint("r", i), t0.Add(time.Duration(i)*time.Second), 1)
					if i%5 == 0 {
						r.Usage.PromptTokens = -1 // bad in itself: then each is tried alone
					}
					if err := led.AddRequest(r); err == nil {
						t.Errorf("request %d was written beside a lock", i)
					}
					if took := time.Since(began); took > 5*time.Second {
						t.Errorf("request %d failed after %s", i, took.Round(time.Millisecond))
					}
				})
			}
			writers.Wait()
			if _, err := db.Exec("ROLLBACK"); err != nil {
				t.Fatal(err)
			}
			if err := led.Probe(); err != nil || led.Err() != nil {
				t.Errorf("after the lock: Probe = %v, Err = %v", err, led.Err())
			}
		})
	}
}
