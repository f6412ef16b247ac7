package ledger

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"spotinference/internal/hint"
)

// ErrOpenDir is returned by Open where other users can write the ledger's directory: what
// they put there in place of the lock or the control socket would be taken for ours.
var ErrOpenDir = errors.New("other users can write its directory")

// accounts are the system's tables of users and groups.
type accounts struct{ passwd, group string }

var systemAccounts = accounts{"/etc/passwd", "/etc/group"}

// checkDir refuses the directory of a ledger that others than we and root can write. Only
// this one is judged, not those above it.
func checkDir(path string) error {
	dir := filepath.Dir(path)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	acl, err := readACL(dir)
	if err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	why, err := writers{dir: st, acl: acl, uid: uint32(os.Geteuid()), accounts: systemAccounts}.others()
	if err != nil {
		return fmt.Errorf("look who can write %s: %w", dir, err)
	}
	if why == "" {
		return nil
	}
	own := filepath.Join(dir, "spotinference")
	return hint.Errorf(fmt.Sprintf("mkdir -m 700 %s, and --ledger %s", own, filepath.Join(own, filepath.Base(path))),
		"%w: %s %s", ErrOpenDir, dir, why)
}

// writers tells who can write a directory.
type writers struct {
	dir unix.Stat_t
	acl []aclEntry // none where it has no access control list
	uid uint32     // whose ledger it is
	accounts
}

// others says why others than us and root can write it, "" where none can. The sticky bit
// is no help: they can still make what is not there yet.
func (w writers) others() (why string, err error) {
	mode := w.dir.Mode & 0o777
	switch owner := w.dir.Uid; {
	case mode&0o002 != 0:
		return fmt.Sprintf("has mode %04o", w.dir.Mode&0o7777), nil
	case owner != 0 && owner != w.uid && w.uid != 0: // root may use what is another user's
		return fmt.Sprintf("belongs to user %d", owner), nil
	case mode&0o020 == 0: // with a list, this is its mask
		return "", nil
	}
	groups := []uint32{w.dir.Gid}
	if len(w.acl) > 0 {
		groups = nil
	}
	for _, e := range w.acl {
		switch {
		case e.perm&2 == 0:
		case e.tag == aclUser && e.id != 0 && e.id != w.uid:
			return fmt.Sprintf("lets user %d write, by its access control list", e.id), nil
		case e.tag == aclGroupObj:
			groups = append(groups, w.dir.Gid)
		case e.tag == aclGroup:
			groups = append(groups, e.id)
		}
	}
	for _, gid := range groups {
		member, err := w.member(gid)
		if err != nil {
			return "", err
		}
		if member != "" {
			return fmt.Sprintf("lets group %d write, and %s is in it", gid, member), nil
		}
	}
	return "", nil
}

// member is somebody in a group who is neither us nor root, "" where there is nobody. Of a
// group that the tables do not have nobody is known: so are those that a cluster gives a
// volume. Root's group is trusted as root is.
func (a writers) member(gid uint32) (name string, err error) {
	if gid == 0 {
		return "", nil
	}
	trusted := map[string]bool{"": true, "root": true}
	err = eachAccount(a.passwd, 4, func(f []string) {
		id, primary := f[2], f[3]
		if id == "0" || id == strconv.FormatUint(uint64(a.uid), 10) {
			trusted[f[0]] = true
		} else if primary == strconv.FormatUint(uint64(gid), 10) && name == "" {
			name = f[0]
		}
	})
	if err != nil || name != "" {
		return name, err
	}
	err = eachAccount(a.group, 4, func(f []string) {
		if f[2] != strconv.FormatUint(uint64(gid), 10) {
			return
		}
		members := strings.Split(f[3], ",")
		if i := slices.IndexFunc(members, func(m string) bool { return !trusted[m] }); i >= 0 && name == "" {
			name = members[i]
		}
	})
	return name, err
}

// eachAccount calls row for each line of a table that has so many fields at least. A
// system without the table has no accounts.
func eachAccount(path string, fields int, row func([]string)) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewReader(f) // a group may have a line of any length
	for {
		text, err := lines.ReadString('\n')
		if columns := strings.Split(strings.TrimSuffix(text, "\n"), ":"); len(columns) >= fields {
			row(columns)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// aclEntry is an entry of an access control list.
type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// The tags of entries that let somebody beside the owner write (acl(5)).
const (
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
)

// readACL reads the access control list of a directory, none where it has none.
func readACL(dir string) ([]aclEntry, error) {
	b := make([]byte, 64<<10) // as long as an attribute can be
	n, err := unix.Getxattr(dir, "system.posix_acl_access", b)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseACL(b[:n]), nil
}

// parseACL reads the kernel's form: a version in four bytes, then eight an entry.
func parseACL(b []byte) (entries []aclEntry) {
	for b = b[min(4, len(b)):]; len(b) >= 8; b = b[8:] {
		entries = append(entries, aclEntry{
			tag: binary.LittleEndian.Uint16(b), perm: binary.LittleEndian.Uint16(b[2:]), id: binary.LittleEndian.Uint32(b[4:]),
		})
	}
	return entries
}
