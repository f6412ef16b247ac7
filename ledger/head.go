package ledger

import (
	"bytes"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/internal/hint"
)

// The head file, beside the ledger, names the newest link of the chain. It is written
// after each commit and never synced, so that it may be old after a power loss; but what
// it names was committed. A ledger without that link has lost it: its write-ahead log was
// removed or damaged, or an older copy was put in its place.

const headSuffix = ".head"

// ErrLost is returned by Open for a ledger that lacks what its head file names.
var ErrLost = errors.New("the ledger has lost what was committed")

// ErrNothingLost is returned by AcceptLoss where nothing is.
var ErrNothingLost = errors.New("the ledger holds what its head file names: nothing is lost")

// Loss is what a ledger lacks.
type Loss struct {
	Noted Chain // the link that the head file names
	Found Chain // the newest one that the ledger has; none where there is no ledger
}

// Links is how many links are gone, 0 where the ledger has as many, but other ones.
func (l Loss) Links() int64 { return max(0, l.Noted.Links-l.Found.Links) }

func (l Loss) String() string {
	noted := fmt.Sprintf("its head file names link %d, of %s", l.Noted.Links, l.Noted.At.Format(time.RFC3339))
	switch n := l.Links(); {
	case l.Found.Links == 0:
		return noted + ", and there is no link at all"
	case n > 0:
		gone := "1 commit is"
		if n > 1 {
			gone = fmt.Sprintf("%d commits are", n)
		}
		return fmt.Sprintf("%s, and the last one is link %d, of %s: %s gone", noted, l.Found.Links, l.Found.At.Format(time.RFC3339), gone)
	}
	return noted + ", and that link is another one now"
}

func (l Loss) err(path string) error {
	return hint.Errorf("put back the file and its -wal as they were, or go on without what is lost: spotinference ledger accept-loss --reason TEXT --ledger "+path,
		"%w: %s", ErrLost, l)
}

// headFile writes the head file. Owned by the writer.
type headFile struct {
	path   string
	log    *slog.Logger
	f      *os.File
	at     placedFile // of f
	line   []byte
	names  Chain // what stands there
	failed bool  // and it was said
}

// put makes the file name a link. That it cannot be written is no reason to refuse a row
// that is on disk: it is said once.
func (h *headFile) put(c Chain) {
	err := h.write(c)
	if err != nil && !h.failed {
		h.log.Warn("the head file cannot be written: a loss of the newest rows would not be seen", "err", err)
	}
	h.failed = err != nil
}

func (h *headFile) write(c Chain) error {
	if err := h.open(); err != nil {
		return err
	}
	if c == h.names {
		return nil
	}
	h.line = appendHead(h.line[:0], c)
	if _, err := h.f.WriteAt(h.line, 0); err != nil {
		return err
	}
	h.names = c
	return nil
}

// look lets go of a file that does not lie at the path any more. What is put next makes a
// new one, also where the directory was removed: it tells the next start of what is lost.
func (h *headFile) look() {
	var st unix.Stat_t
	if h.f != nil && unix.Lstat(h.path, &st) == nil && st.Ino == h.at.ino && uint64(st.Dev) == h.at.dev {
		return
	}
	h.close()
}

func (h *headFile) open() error {
	if h.f != nil {
		return nil
	}
	var st unix.Stat_t
	if err := os.MkdirAll(filepath.Dir(h.path), 0o700); err != nil {
		return err
	}
	f, err := openOwn(h.path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return err
	}
	h.f, h.at, h.names = f, placedFile{h.path, uint64(st.Dev), st.Ino}, Chain{}
	return nil
}

func (h *headFile) close() error {
	if h.f == nil {
		return nil
	}
	f := h.f
	h.f = nil
	return f.Close()
}

// headTime is as long for every time, so that a line covers the one before.
const headTime = "2006-01-02T15:04:05.000000Z"

func appendHead(b []byte, c Chain) []byte {
	b = fmt.Appendf(b, "link %020d of ", c.Links)
	b = c.At.UTC().AppendFormat(b, headTime)
	b = append(b, ", head "...)
	b = hex.AppendEncode(b, c.Head[:])
	return append(b, '\n')
}

// readHead is the link that the head file at path names, false where it names none: it is
// not there, or a power loss has left it empty.
func readHead(path string) (c Chain, ok bool, err error) {
	var text, before []byte
	// A writer may be in the middle of it: what was read twice is whole.
	for range 10 {
		if text, err = readHeadFile(path); err != nil || bytes.Equal(text, before) {
			break
		}
		before = text
	}
	if errors.Is(err, fs.ErrNotExist) {
		return c, false, nil
	}
	if err != nil {
		return c, false, err
	}
	var at, head string
	if n, err := fmt.Sscanf(string(text), "link %d of %s head %s\n", &c.Links, &at, &head); err != nil || n != 3 {
		return Chain{}, false, nil
	}
	sum, err := hex.DecodeString(head)
	if err != nil || len(sum) != len(c.Head) {
		return Chain{}, false, nil
	}
	copy(c.Head[:], sum)
	if c.At, err = time.Parse(headTime+",", at); err != nil {
		return Chain{}, false, nil
	}
	return c, c.Links > 0, nil
}

func readHeadFile(path string) ([]byte, error) {
	f, err := openOwn(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 4096))
}

// lossOf is what a ledger lacks of what its head file names, nil where that is nothing, or
// was accepted.
func lossOf(from scanner, noted Chain) (*Loss, error) {
	var tables int
	if err := from.scan("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'chain'", nil, &tables); err != nil {
		return nil, err
	}
	loss := &Loss{Noted: noted}
	if tables == 0 {
		return loss, nil
	}
	var head []byte
	err := from.scan("SELECT head FROM chain WHERE id = ?", []any{noted.Links}, &head)
	switch {
	case err == nil && bytes.Equal(head, noted.Head[:]):
		return nil, nil
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return nil, err
	}
	var accepted bool
	err = from.scan("SELECT EXISTS (SELECT 1 FROM event WHERE kind = ? AND subject = ? AND json_valid(detail) AND detail ->> '$.head' = ?)",
		[]any{string(EventLedger), subjectLossAccepted, noted.Head.String()}, &accepted)
	if err != nil || accepted {
		return nil, err
	}
	loss.Found, err = tip(from)
	return loss, err
}

// findLoss is lossOf of the ledger at path, by its own head file. It changes nothing:
// what is left of a ledger may still be mended.
func findLoss(path string) (loss *Loss, err error) {
	noted, ok, err := readHead(path + headSuffix)
	if err != nil || !ok {
		return nil, err
	}
	loss = &Loss{Noted: noted} // where no ledger is
	err = inspectFile(path, func(db *sql.DB) error {
		loss, err = lossOf(dbScanner{db}, noted)
		return err
	})
	return loss, err
}

type dbScanner struct{ db *sql.DB }

func (s dbScanner) scan(query string, args []any, dest ...any) error {
	return s.db.QueryRow(query, args...).Scan(dest...)
}

// LossAccepted is somebody's word that a ledger goes on without what it has lost.
type LossAccepted struct {
	Loss
	Reason string
}

func (a LossAccepted) eventDetail() any {
	return struct {
		Head   string    `json:"head"` // that is lost
		Link   int64     `json:"link"` // its number
		At     time.Time `json:"at"`   // when it was written
		Last   int64     `json:"last"` // the link that the ledger still had
		Reason string    `json:"reason"`
	}{a.Noted.Head.String(), a.Noted.Links, a.Noted.At.UTC(), a.Found.Links, a.Reason}
}

// AcceptLoss lets a ledger go on without what it has lost: an event in the chain says so,
// before the ledger can be opened again. Where there is no ledger, it begins one.
func AcceptLoss(cfg Config, reason string) (loss Loss, err error) {
	if err := CheckReason(reason); err != nil {
		return loss, fmt.Errorf("accept the loss: %w", err)
	}
	cfg.acceptLoss = func(found *Loss) (EventDetail, error) {
		if found == nil {
			return nil, ErrNothingLost
		}
		loss = *found
		return LossAccepted{*found, reason}, nil
	}
	led, err := Open(cfg)
	if err != nil {
		return loss, err
	}
	return loss, led.Close()
}

// headLoss says what a ledger that is verified lacks of what its head file names. noted
// was read before the transaction began: a writer may have gone on since.
func (v *verifier) headLoss(noted Chain) error {
	loss, err := lossOf(txScanner{v.tx}, noted)
	if err != nil || loss == nil {
		return err
	}
	return v.problem("%v", loss)
}

// notedHead is what the head file of a ledger names, false where it names nothing.
func (r *Reader) notedHead() (Chain, bool, error) {
	real, err := realPath(r.path)
	if err != nil {
		return Chain{}, false, err
	}
	return readHead(real + headSuffix)
}
