package ledger

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"spotinference/internal/hint"
)

// takeLock makes this process the ledger's one writer until the file is
// closed. The kernel drops the lock with the process, so none is ever stale.
func takeLock(path string) (*os.File, error) {
	f, err := openOwn(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := lockWhole(f); err != nil {
		holder := readHolder(f)
		f.Close()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return nil, fmt.Errorf("%w%s", ErrInUse, holder)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// The number is for people only; the lock is what counts.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return f, nil
}

// openOwn opens a file that stands beside the ledger, in mode 0600 where it makes it. It
// follows no link and opens no name of a file elsewhere: what is written there must not
// reach another file.
func openOwn(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if errors.Is(err, unix.ELOOP) {
		return nil, hint.Errorf(notOwn, "%w: %s is a link", ErrPlace, path)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1 {
		f.Close()
		return nil, hint.Errorf(notOwn, "%w: %s is no file, or has other names, too", ErrPlace, path)
	}
	return f, nil
}

const notOwn = "remove it: the program makes its own"

// lockWhole takes an open-file-description lock: the kind that SQLite's own
// fcntl locks go through, but held per open file, so that two opens inside one
// process conflict too.
func lockWhole(f *os.File) error {
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
}

func readHolder(f *os.File) string {
	buf := make([]byte, 16)
	n, _ := f.ReadAt(buf, 0)
	if pid := strings.TrimSpace(string(buf[:n])); pid != "" {
		return " (pid " + pid + ")"
	}
	return ""
}

// sharedFS names the file systems on which the shared memory of SQLite's WAL
// cannot be trusted, by the magic number of statfs(2): another host may have
// the file open, or the mapping is not coherent.
var sharedFS = map[int64]string{
	unix.NFS_SUPER_MAGIC:   "nfs",
	unix.FUSE_SUPER_MAGIC:  "fuse",
	unix.V9FS_MAGIC:        "9p",
	unix.SMB_SUPER_MAGIC:   "smb",
	unix.SMB2_SUPER_MAGIC:  "smb2",
	unix.CIFS_SUPER_MAGIC:  "cifs",
	unix.CEPH_SUPER_MAGIC:  "ceph",
	unix.AFS_SUPER_MAGIC:   "afs",
	unix.CODA_SUPER_MAGIC:  "coda",
	unix.OCFS2_SUPER_MAGIC: "ocfs2",
	0x0bd00bd0:             "lustre",
	0x47504653:             "gpfs",
	0x01161970:             "gfs2",
	0x19830326:             "beegfs",
}

// journalFor chooses the journal: WAL on a local file system; a rollback
// journal on one that is shared, once its locks were seen to hold.
func journalFor(path string, statfs func(string, *unix.Statfs_t) error, log *slog.Logger) (string, error) {
	var st unix.Statfs_t
	dir := filepath.Dir(path)
	if err := statfs(dir, &st); err != nil {
		return "", fmt.Errorf("ask for the file system of %s: %w", dir, err)
	}
	name, shared := sharedFS[int64(st.Type)]
	if !shared {
		return "wal", nil
	}
	if err := probeLocks(path + ".lock"); err != nil {
		return "", err
	}
	log.Info("ledger is on a shared file system: using a rollback journal", "filesystem", name, "path", path)
	return "delete", nil
}

// probeLocks asks for the lock that takeLock holds through a second open file.
// It must be refused; anything else means that locks are not kept here.
func probeLocks(path string) error {
	f, err := openOwn(path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	switch err := lockWhole(f); {
	case err == nil:
		return fmt.Errorf("a second lock on %s was granted: %w", path, ErrLocks)
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES):
		return nil
	default:
		return fmt.Errorf("lock %s: %w: %w", path, err, ErrLocks)
	}
}
