package ledger

import (
	"errors"
	"fmt"
	"time"

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
	// db and wal are handles of the file and of its write-ahead log, with O_PATH: to close
	// another kind would take SQLite's locks away. wal is -1 where there is no log.
	db, wal int
}

type placedFile struct {
	path     string
	dev, ino uint64
}

// placeOf notes the files of an open ledger.
func placeOf(path, journal string) (p place, err error) {
	p.db, p.wal = -1, -1
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	open := func(path string) (int, error) {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("%s: %w", path, err)
		}
		return fd, nil
	}
	suffixes := []string{"", ".lock"}
	if p.db, err = open(path); err != nil {
		return p, err
	}
	if journal == "wal" {
		// A connection that finds no -shm makes one, with locks that we do not see.
		suffixes = append(suffixes, "-wal", "-shm")
		if p.wal, err = open(path + "-wal"); err != nil {
			return p, err
		}
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

func (p *place) close() {
	for _, fd := range []*int{&p.db, &p.wal} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}

// check says which file is not in its place, nil where all are.
func (p place) check() error {
	for i := range p.files {
		f := &p.files[i]
		var st unix.Stat_t
		switch err := unix.Lstat(f.path, &st); {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return fmt.Errorf("%w: %s was removed or renamed", ErrMoved, f.path)
		case err != nil:
			return fmt.Errorf("look for %s: %w", f.path, err)
		case uint64(st.Dev) != f.dev || st.Ino != f.ino:
			return fmt.Errorf("%w: %s is another file", ErrMoved, f.path)
		}
	}
	return nil
}

// checkNames is what check costs a tenth of: it fails where the file or its log has no
// name at all any more. wal is how long the log is.
func (p place) checkNames() (wal int64, err error) {
	for _, fd := range [...]int{p.db, p.wal} {
		if fd < 0 {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return 0, fmt.Errorf("look at the ledger's file: %w", err)
		}
		if st.Nlink == 0 {
			return 0, fmt.Errorf("%w: it was removed", ErrMoved)
		}
		wal = st.Size
	}
	if p.wal < 0 {
		wal = 0
	}
	return wal, nil
}

// placeEvery is how often the writer checks all paths. A row that was written into a file
// that was renamed meanwhile is in that file; one that was removed, or replaced, has none.
const placeEvery = time.Second

// checkPlace says whether the rows of the last commit are where the next start will find
// them. Called by the writer.
func (l *Ledger) checkPlace(w *batch) error {
	wal, err := l.place.checkNames()
	l.log.size = wal
	due := time.Since(l.placed) >= placeEvery
	if err == nil && !due && !l.misplaced.Load() {
		return nil
	}
	l.head.look()
	if w.tip != nil {
		l.head.put(*w.tip)
	}
	if err == nil {
		err = l.place.check()
	}
	l.misplaced.Store(err != nil)
	if err == nil {
		l.placed = time.Now()
	}
	return err
}
