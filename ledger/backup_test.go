package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/ledger"
)

// A copy that is made while four write is a ledger as it was at one instant, and no
// write fails for it.
func TestBackupUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	led := open(t, filepath.Join(dir, "l.db"))
	everything(t, led)
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	wrote := make(chan struct{}, 4)
	for i := range 4 {
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := led.AddRequest(request(fmt.Sprintf("w%d-%d", i, n), t0.Add(time.Hour+time.Duration(n)*time.Second), 1)); err != nil {
					t.Error(err)
				}
				select {
				case wrote <- struct{}{}:
				default:
				}
			}
		})
	}
	for i := range 3 {
		<-wrote
		before := chain(t, led.Reader)
		path := filepath.Join(dir, fmt.Sprint("copy", i))
		if err := led.Backup(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		after := chain(t, led.Reader)
		st, err := os.Stat(path)
		if err != nil || st.Mode() != 0o600 {
			t.Errorf("the copy's mode is %v, %v", st.Mode(), err)
		}
		r, err := ledger.OpenReader(path, false)
		if err != nil {
			t.Fatal(err)
		}
		v, err := r.Verify(t.Context(), before.Head.String())
		if err != nil || len(v.Problems) > 0 || v.Chain.Links < before.Links || v.Chain.Links > after.Links {
			t.Errorf("copy: %+v, %v; links from %d to %d", v, err, before.Links, after.Links)
		}
		r.Close()
	}
	stop()
	writers.Wait()
	verified(t, led)
	// It serves as a ledger, too.
	copied := open(t, filepath.Join(dir, "copy2"))
	add(t, copied, request("new", t0.Add(20*time.Hour), 1))
	verified(t, copied)
}

func TestBackupRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	led := open(t, filepath.Join(dir, "l.db"))
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		there: fs.ErrExist, filepath.Join(dir, "link"): fs.ErrExist, filepath.Join(dir, "l.db"): fs.ErrExist, filepath.Join(dir, "no", "dir"): fs.ErrNotExist,
	} {
		if err := led.Backup(t.Context(), path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	if b, err := os.ReadFile(there); string(b) != "mine" {
		t.Errorf("%q, %v", b, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := led.Backup(ended, filepath.Join(dir, "late")); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.part"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// A copy that does not fit leaves nothing behind, and certainly none of the room that was
// missing.
func TestBackupToAFullDisk(t *testing.T) {
	t.Parallel()
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no small file system can be made here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	var many []ledger.Request
	for i := range 500 { // more than SQLite holds in memory before it writes
		r := request(strconv.Itoa(i), t0.Add(time.Duration(i)*time.Second), 1)
		r.Model = strings.Repeat("m", 10_000)
		many = append(many, r)
	}
	if err := led.AddRequests(many); err != nil {
		t.Fatal(err)
	}
	if err := led.Backup(t.Context(), filepath.Join(small, "copy")); err == nil {
		t.Error("it fits")
	}
	if left, err := os.ReadDir(small); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Where a reader would hold the writer up, a copy is made of a ledger only that nobody
// writes.
func TestBackupWithoutWAL(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "l.db")
	led, err := ledger.Open(config(path).OnFS(unix.NFS_SUPER_MAGIC))
	if err != nil {
		t.Fatal(err)
	}
	r, err := ledger.OpenReader(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Backup(t.Context(), filepath.Join(dir, "a")); !errors.Is(err, ledger.ErrInUse) {
		t.Errorf("beside a writer: %v", err)
	}
	led.Close()
	if err := r.Backup(t.Context(), filepath.Join(dir, "a")); err != nil {
		t.Error(err)
	}
	verified(t, open(t, filepath.Join(dir, "a")))
}
