package engine_test

import (
	"os"
	"os/user"
	"strconv"
	"testing"

	"spotinference/server/engine"
)

// Who may enter a directory is told as the kernel tells it: as its owner, by any of
// their groups, or as anybody else.
func TestWhoMayEnter(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "enter") // everybody comes as far as this
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(me.Uid)
	gid, _ := strconv.Atoi(me.Gid)
	owner, member := uint32(uid), uint32(gid)
	f := func(mode os.FileMode, u engine.User, may bool) {
		t.Helper()
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := u.CanEnter(dir); (err == nil) != may {
			t.Errorf("mode %v, %+v: %v", mode, u, err)
		}
	}
	other := owner + 1
	f(0o700, engine.User{UID: owner, GID: other}, true)
	f(0o070, engine.User{UID: owner, GID: member}, false)
	f(0o710, engine.User{UID: other, GID: member}, true)
	f(0o710, engine.User{UID: other, GID: member + 1, Groups: []uint32{member + 1, member}}, true)
	f(0o701, engine.User{UID: other, GID: member + 1, Groups: []uint32{member}}, false)
	f(0o701, engine.User{UID: other, GID: member + 1}, true)
	f(0o710, engine.User{UID: other, GID: member + 1}, false)
}
