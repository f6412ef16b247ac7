package ledger_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spotinference/internal/hint"
	"spotinference/ledger"
)

// killed is a ledger as kill -9 leaves it, after n requests: its files copied while it is
// open, less those that skip names.
func killed(t *testing.T, n int, skip ...string) (path string) {
	t.Helper()
	from, to := t.TempDir(), t.TempDir()
	led := openNew(t, filepath.Join(from, "l.db"))
	for i := range n {
		add(t, led, request(fmt.Sprint("r", i), t0.Add(time.Duration(i)*time.Second), 1))
	}
	for _, suffix := range []string{"", "-wal", ".head"} {
		b, err := os.ReadFile(filepath.Join(from, "l.db"+suffix))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, "l.db"+suffix), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, suffix := range skip {
		if err := os.Remove(filepath.Join(to, "l.db"+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(to, "l.db")
}

// wantLoss checks that the ledger at path is refused, is left as it is, and is named by
// verify; then that it goes on once the loss is accepted.
func wantLoss(t *testing.T, path, what string) {
	t.Helper()
	before, _ := os.ReadFile(path + "-wal")
	led, err := ledger.Open(config(path))
	if !errors.Is(err, ledger.ErrLost) || !strings.Contains(err.Error(), what) {
		if err == nil {
			led.Close()
		}
		t.Fatalf("Open = %v, want %v with %q", err, ledger.ErrLost, what)
	}
	if !strings.Contains(hint.Of(err), "spotinference ledger accept-loss --reason TEXT --ledger "+path) {
		t.Errorf("hint %q", hint.Of(err))
	}
	if after, _ := os.ReadFile(path + "-wal"); string(after) != string(before) {
		t.Error("the refusal changed the -wal, which may still be mended")
	}
	if r, err := ledger.OpenReader(path, false); err == nil {
		v, err := r.Verify(t.Context())
		if err != nil || len(v.Problems) == 0 || !strings.Contains(v.Problems[0], what) {
			t.Errorf("verify: %q, %v, want %q", v.Problems, err, what)
		}
		r.Close()
	}
	if _, err := ledger.AcceptLoss(config(path), "a backup was\nrestored"); !errors.Is(err, ledger.ErrBadReason) {
		t.Errorf("AcceptLoss with a reason of two lines = %v", err)
	}
	noted, err := os.ReadFile(path + ".head")
	if err != nil {
		t.Fatal(err)
	}
	if loss, err := ledger.AcceptLoss(config(path), "a backup was restored"); err != nil || !strings.Contains(loss.String(), what) {
		t.Fatalf("AcceptLoss = %q, %v", loss, err)
	}
	for _, head := range [][]byte{nil, noted} { // a power loss may bring the old head file back
		if head != nil {
			if err := os.WriteFile(path+".head", head, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		led = openNew(t, path)
		verified(t, led)
		events, err := led.Events(ledger.EventLedger, time.Unix(0, 0), t0.AddDate(1, 0, 0))
		if err != nil || len(events) != 1 || events[0].Subject != "loss_accepted" || !strings.Contains(events[0].Detail, `"reason":"a backup was restored"`) {
			t.Errorf("events %+v, %v", events, err)
		}
		led.Close()
	}
	if _, err := ledger.AcceptLoss(config(path), "again"); !errors.Is(err, ledger.ErrNothingLost) {
		t.Errorf("AcceptLoss of nothing = %v, want %v", err, ledger.ErrNothingLost)
	}
}

func TestALedgerWithoutItsNewestRowsIsRefused(t *testing.T) {
	t.Parallel()
	corrupt := func(t *testing.T, path string, at int64) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err == nil {
			_, err = f.WriteAt([]byte("nonsense nonsense nonsense"), at)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// 200 commits are more than SQLite keeps in the log without a checkpoint.
	t.Run("log removed", func(t *testing.T) {
		t.Parallel()
		wantLoss(t, killed(t, 200, "-wal"), "commits are gone")
	})
	t.Run("log's header damaged", func(t *testing.T) {
		t.Parallel()
		path := killed(t, 200)
		corrupt(t, path+"-wal", 8)
		wantLoss(t, path, "commits are gone")
	})
	t.Run("log cut short", func(t *testing.T) {
		t.Parallel()
		path := killed(t, 20)
		st, err := os.Stat(path + "-wal")
		if err == nil {
			err = os.Truncate(path+"-wal", st.Size()-5000)
		}
		if err != nil {
			t.Fatal(err)
		}
		wantLoss(t, path, "1 commit is gone")
	})
	t.Run("file removed", func(t *testing.T) {
		t.Parallel()
		wantLoss(t, killed(t, 3, "", "-wal"), "there is no link at all")
	})
	t.Run("file emptied", func(t *testing.T) {
		t.Parallel()
		path := killed(t, 3, "-wal")
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
		wantLoss(t, path, "there is no link at all")
	})
	t.Run("another ledger put there", func(t *testing.T) {
		t.Parallel()
		path := killed(t, 3, "", "-wal")
		led := openNew(t, filepath.Join(t.TempDir(), "l.db"))
		for i := range 9 {
			add(t, led, request(fmt.Sprint("other", i), t0.Add(time.Duration(i)*time.Second), 1))
		}
		if err := led.Backup(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		wantLoss(t, path, "that link is another one now")
	})
}

// The head is old after a power loss, and no backup has one.
func TestAnOldHeadOrNoneIsNoLoss(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(path string) error{
		"as it was killed": func(string) error { return nil },
		"no head":          func(path string) error { return os.Remove(path + ".head") },
		"an empty head":    func(path string) error { return os.Truncate(path+".head", 0) },
		"zeros":            func(path string) error { return os.WriteFile(path+".head", make([]byte, 120), 0o600) },
		"an older head": func(path string) error {
			return os.Rename(killed(t, 2)+".head", path+".head")
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := killed(t, 5)
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			led := openNew(t, path)
			verified(t, led)
			if got := totals(t, led.Reader, forever[0], forever[1]); got.OK != 5 {
				t.Errorf("%d rows, want 5", got.OK)
			}
		})
	}
}

// The head names what was acknowledged: at no time does an answer end before it.
func TestTheHeadIsWrittenBeforeTheAnswerEnds(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "l.db")
	led := openNew(t, path)
	for i := range 3 {
		add(t, led, request(fmt.Sprint("r", i), t0.Add(time.Duration(i)*time.Second), 1))
		b, err := os.ReadFile(path + ".head")
		if err != nil || !strings.Contains(string(b), chain(t, led.Reader).Head.String()) {
			t.Errorf("head file %q, %v", b, err)
		}
	}
	if err := os.Remove(path + ".head"); err != nil {
		t.Fatal(err)
	}
	if err := led.Probe(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path + ".head"); err != nil || !strings.Contains(string(b), chain(t, led.Reader).Head.String()) {
		t.Errorf("after it was removed: head file %q, %v", b, err)
	}
}

// After rm -rf of its directory a running ledger leaves its head there: the next start
// must not begin a new one, which asks nobody for a key.
func TestARemovedLedgerIsNotBegunAnew(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	led := openNew(t, filepath.Join(dir, "l.db"))
	add(t, led, request("a", t0, 1))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := led.Probe(); !errors.Is(err, ledger.ErrMoved) {
		t.Fatalf("Probe = %v", err)
	}
	led.Close()
	wantLoss(t, filepath.Join(dir, "l.db"), "there is no link at all")
}

// serve --demo begins its ledger afresh, whatever it had.
func TestADemoLedgerLosesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "demo.db")
	cfg := config(path)
	cfg.Demo, cfg.Afresh = true, true
	for range 2 {
		led, err := ledger.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		add(t, led, request("a", t0, 1), request("b", t0, 1))
		led.Close()
	}
}
