package ledger_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"spotinference/ledger"
)

// A row that is written into a file without a name is lost at the next start: it must
// not be acknowledged, and the gate must hear of it although nobody writes.
func TestALedgerThatLosesItsPlaceFails(t *testing.T) {
	t.Parallel()
	move := func(from, to string) func(string) error {
		return func(dir string) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
	}
	replace := func(name string) func(string) error {
		return func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, "new"), b, 0o600)
			}
			return errors.Join(err, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, name)))
		}
	}
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
	}
	for name, do := range map[string]func(dir string) error{
		"directory removed":     os.RemoveAll,
		"directory renamed":     func(dir string) error { return os.Rename(dir, dir+".away") },
		"file removed":          remove("l.db"),
		"file renamed":          move("l.db", "away.db"),
		"file replaced":         replace("l.db"),
		"log removed":           remove("l.db-wal"),
		"log replaced":          replace("l.db-wal"),
		"shared memory removed": remove("l.db-shm"),
		"lock removed":          remove("l.db.lock"),
		"lock replaced":         replace("l.db.lock"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "state")
			led := openNew(t, filepath.Join(dir, "l.db"))
			add(t, led, request("before", t0, 1))
			if err := led.Err(); err != nil {
				t.Fatalf("Err() = %v before anything happened", err)
			}
			if err := do(dir); err != nil {
				t.Fatal(err)
			}
			if err := led.Err(); !errors.Is(err, ledger.ErrMoved) {
				t.Errorf("Err() = %v, want %v", err, ledger.ErrMoved)
			}
			if err := led.AddRequest(request("after", t0.Add(time.Second), 1)); !errors.Is(err, ledger.ErrMoved) {
				t.Errorf("AddRequest = %v, want %v", err, ledger.ErrMoved)
			}
			if err := led.Probe(); !errors.Is(err, ledger.ErrMoved) {
				t.Errorf("Probe = %v, want %v", err, ledger.ErrMoved)
			}
		})
	}
}

func TestALedgerThatIsPutBackIsWellAgain(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	led := openNew(t, filepath.Join(dir, "l.db"))
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := led.Probe(); !errors.Is(err, ledger.ErrMoved) {
		t.Fatalf("Probe = %v, want %v", err, ledger.ErrMoved)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if err := led.Probe(); err != nil || led.Err() != nil {
		t.Errorf("put back: Probe = %v, Err = %v", err, led.Err())
	}
}

func TestALedgerOnASharedVolumeLosesItsPlaceToo(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	led, err := ledger.Open(config(filepath.Join(dir, "l.db")).OnFS(0x6969))
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	add(t, led, request("before", t0, 1))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	// Here SQLite itself may refuse first: its journal has no directory.
	if err := led.AddRequest(request("after", t0.Add(time.Second), 1)); err == nil {
		t.Error("a row was acknowledged into a file without a name")
	}
	if err := led.Err(); err == nil {
		t.Error("Err() = nil")
	}
}
