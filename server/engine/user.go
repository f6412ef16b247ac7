package engine

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"spotinference/internal/hint"
)

// User is the user that the engine runs as: a model's code, or a hole in the engine, can
// then do no more than that user. The guard runs as us, so that the engine cannot end it.
type User struct {
	Name, Home string
	UID, GID   uint32
	Groups     []uint32
}

// LookupUser finds a user by name or number. It refuses, with a hint, where we may not
// start a process as another user.
func LookupUser(name string) (*User, error) {
	if os.Geteuid() != 0 {
		return nil, hint.Errorf("start spotinference as root, or leave out --engine-user",
			"engine user %q: only root can start the engine as another user", name)
	}
	found, err := user.Lookup(name)
	if err != nil {
		if byID, idErr := user.LookupId(name); idErr == nil {
			found, err = byID, nil
		}
	}
	if err != nil {
		return nil, hint.Errorf("name a user of this machine: useradd --system makes one", "engine user %q: %v", name, err)
	}
	groups, err := found.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("read the groups of engine user %q: %w", name, err)
	}
	ids, err := parseIDs(append([]string{found.Uid, found.Gid}, groups...))
	if err != nil {
		return nil, fmt.Errorf("engine user %q: %w", name, err)
	}
	if ids[0] == 0 {
		return nil, hint.Errorf("name an ordinary user, or leave out --engine-user", "engine user %q is root", name)
	}
	return &User{Name: found.Username, Home: found.HomeDir, UID: ids[0], GID: ids[1], Groups: ids[2:]}, nil
}

// env is our environment as u gets it: with u's home, and without the directories of
// ours that XDG_* name.
func (u *User) env(env []string) []string {
	if u == nil {
		return env
	}
	env, _ = dropEnv(env, []string{"HOME", "USER", "LOGNAME", "MAIL", "XDG_*"})
	return append(env, "HOME="+u.Home, "USER="+u.Name, "LOGNAME="+u.Name)
}

// arg is u on the guard's command line.
func (u *User) arg() string {
	ids := []string{fmt.Sprint(u.UID), fmt.Sprint(u.GID)}
	for _, g := range u.Groups {
		ids = append(ids, fmt.Sprint(g))
	}
	return strings.Join(ids, ",")
}

// credential is the reverse of arg.
func credential(arg string) (*syscall.Credential, error) {
	ids, err := parseIDs(strings.Split(arg, ","))
	if err != nil {
		return nil, err
	}
	if len(ids) < 2 {
		return nil, errors.New("a user without a group")
	}
	return &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]}, nil
}

func parseIDs(texts []string) (ids []uint32, err error) {
	for _, text := range texts {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("id %q: not a number", text)
		}
		ids = append(ids, uint32(id))
	}
	return ids, nil
}

// checkCanEnter refuses a directory that u cannot enter.
func (u *User) checkCanEnter(dir string) error {
	for at := dir; ; at = filepath.Dir(at) {
		st, err := os.Stat(at)
		if err != nil {
			return fmt.Errorf("read the run directory's place: %w", err)
		}
		sys := st.Sys().(*syscall.Stat_t)
		enter := os.FileMode(0o001)
		switch {
		case sys.Uid == u.UID:
			enter = 0o100
		case sys.Gid == u.GID, slices.Contains(u.Groups, sys.Gid):
			enter = 0o010
		}
		if st.Mode().Perm()&enter == 0 {
			return hint.Errorf("set TMPDIR to a directory that everybody may enter",
				"engine user %q cannot enter %s, where its socket would be", u.Name, at)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}
