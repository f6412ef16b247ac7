package ledger

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"spotinference/internal/hint"
)

// ErrMoved is returned by a write whose row went into a file that is not at the ledger's
// path any more: it was removed, renamed or replaced, or its directory was. Nobody who
// opens the path finds that row.
var ErrMoved = hint.Errorf("stop serve, put the ledger back in its place, or a copy of it, and start serve again", "the ledger is not in its place any more")

// place is where the files of a ledger are that is open: each path must lead to the file
// that was opened. Nothing changes it after Open.
type place struct {
	files []placedFile
	wal   string // the path of the write-ahead log, "" where there is none
}

type placedFile struct {
	path     string
	dev, ino uint64
}

// placeOf notes the files of an open ledger.
func placeOf(path, journal string) (p place, err error) {
	suffixes := []string{"", ".lock"}
	if journal == "wal" {
		p.wal = path + "-wal"
		// A connection that finds no -shm makes one, with locks that we do not see.
		suffixes = append(suffixes, "-wal", "-shm")
	}
	for _, suffix := range suffixes {
		var st unix.Stat_t
		if err := unix.Lstat(path+suffix, &st); err != nil {
			return p, fmt.Errorf("%s: %w", path+suffix, err)
		}
		p.files = append(p.files, placedFile{path + suffix, uint64(st.Dev), st.Ino})
	}
	return p, nil
}

// check says which file is not in its place, nil where all are, and how long the
// write-ahead log is.
func (p place) check() (wal int64, err error) {
	for i := range p.files {
		f := &p.files[i]
		var st unix.Stat_t
		switch err := unix.Lstat(f.path, &st); {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return 0, fmt.Errorf("%w: %s was removed or renamed", ErrMoved, f.path)
		case err != nil:
			return 0, fmt.Errorf("look for %s: %w", f.path, err)
		case uint64(st.Dev) != f.dev || st.Ino != f.ino:
			return 0, fmt.Errorf("%w: %s is another file", ErrMoved, f.path)
		}
		if f.path == p.wal {
			wal = st.Size
		}
	}
	return wal, nil
}
