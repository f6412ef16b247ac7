package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Backup writes a copy of the ledger, as it is at one instant, to path, where nothing
// may be yet. The copy is one file, synced before it gets its name.
//
// It is made by VACUUM INTO, which reads in one transaction: under WAL that holds no
// writer up, however long it takes, and sees no commit of meanwhile. SQLite's other
// way, by pages, begins anew with each commit of another process. Without WAL a
// reader does hold the writer up, so that there must be none.
func (r *Reader) Backup(ctx context.Context, path string) (err error) {
	wrap := func(err error) error { return fmt.Errorf("copy the ledger to %s: %w", path, err) }
	if _, err := os.Lstat(path); err == nil {
		return wrap(fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return wrap(err)
	}
	var journal string
	if err := r.db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&journal); err != nil {
		return wrap(err)
	}
	if !strings.EqualFold(journal, "wal") {
		real, err := realPath(r.path)
		if err != nil {
			return wrap(err)
		}
		lock, err := takeLock(real + ".lock")
		if err != nil {
			return wrap(fmt.Errorf("its file system allows no copy beside a writer: %w", err))
		}
		defer lock.Close()
	}
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".*.part") // of mode 0600
	if err != nil {
		return wrap(err)
	}
	defer tmp.Close()
	defer func() {
		os.Remove(tmp.Name())              // which is not there in the good case
		os.Remove(tmp.Name() + "-journal") // SQLite leaves it where the disk is full
	}()
	db, err := openDB(r.path, patience, "mode=ro") // not query_only: that would be in force for the copy too
	if err != nil {
		return wrap(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", tmp.Name()); err != nil {
		return wrap(err)
	}
	if err := tmp.Sync(); err != nil {
		return wrap(err)
	}
	if err := rename(tmp.Name(), path); err != nil {
		return wrap(err)
	}
	return syncDir(dir)
}

// rename gives the file its name where that is free, also at this instant.
func rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	if _, err := os.Lstat(to); err == nil { // the file system cannot tell: what Backup saw is as good as it gets
		return fs.ErrExist
	}
	return os.Rename(from, to)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
