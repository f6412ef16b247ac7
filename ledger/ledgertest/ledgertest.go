// Package ledgertest makes ledgers for tests, real ones and quickly: from a copy of an
// empty one, and in memory where the machine has a place for files there.
//
//	func TestMain(m *testing.M) { ledgertest.Main(m) }
//
//	led := ledgertest.Open(t, ledger.Config{Path: filepath.Join(t.TempDir(), "ledger.db")})
package ledgertest

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/ledger"
)

// Open opens a ledger until the test ends. Where none is at the path, it begins as a copy
// of an empty one, which is a tenth of the work of making one.
func Open(t testing.TB, cfg ledger.Config) *ledger.Ledger {
	t.Helper()
	if _, err := os.Lstat(cfg.Path); errors.Is(err, fs.ErrNotExist) && !cfg.Demo {
		empty, err := emptyLedger()
		if err == nil {
			err = os.WriteFile(cfg.Path, empty, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	led, err := ledger.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := led.Close(); err != nil {
			t.Error(err)
		}
	})
	return led
}

// emptyLedger is the file of a ledger that was opened and closed, of 1970: it is older
// than all that a test writes.
var emptyLedger = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "ledgertest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "ledger.db")
	led, err := ledger.Open(ledger.Config{Path: path, Now: func() time.Time { return time.Unix(0, 0) }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	if err := led.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// inMemory is where Linux keeps files in memory, and leastFree what must be free there:
// a container may have next to nothing.
const (
	inMemory  = "/dev/shm"
	leastFree = 1 << 30
)

// Main runs a package's tests with its temporary files in memory, for each commit waits
// for the disk, and the tests are about what was written. Benchmarks are about that, too:
// their files stay on the disk, as those of who sets TMPDIR do.
func Main(m *testing.M) {
	flag.Parse()
	var st unix.Statfs_t
	bench := flag.Lookup("test.bench").Value.String()
	if os.Getenv("TMPDIR") != "" || bench != "" || unix.Statfs(inMemory, &st) != nil || st.Bavail*uint64(st.Bsize) < leastFree {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp(inMemory, "ledgertest")
	if err == nil {
		err = os.Chmod(dir, 0o755) // a test may ask as another user
	}
	if err == nil {
		err = os.Setenv("TMPDIR", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}
