package ledger_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spotinference/internal/hint"
	"spotinference/ledger"
)

func TestADirectoryThatOthersCanWriteIsRefused(t *testing.T) {
	t.Parallel()
	for mode, ok := range map[os.FileMode]bool{
		0o700: true, 0o755: true, 0o750: true,
		0o777: false, 0o757: false, os.ModeSticky | 0o777: false,
	} {
		dir := filepath.Join(t.TempDir(), "d")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		led, err := ledger.Open(config(filepath.Join(dir, "l.db")))
		if ok {
			if err != nil {
				t.Errorf("mode %v: %v", mode, err)
				continue
			}
			led.Close()
			continue
		}
		want := "mkdir -m 700 " + dir + "/spotinference, and --ledger " + dir + "/spotinference/l.db"
		if !errors.Is(err, ledger.ErrOpenDir) || hint.Of(err) != want {
			t.Errorf("mode %v: %v, hint %q", mode, err, hint.Of(err))
			continue
		}
		// The hint works, and nothing was made beside it.
		if err := os.Mkdir(filepath.Join(dir, "spotinference"), 0o700); err != nil {
			t.Fatal(err)
		}
		if led, err = ledger.Open(config(filepath.Join(dir, "spotinference", "l.db"))); err != nil {
			t.Errorf("after the hint: %v", err)
			continue
		}
		led.Close()
		if names, _ := filepath.Glob(filepath.Join(dir, "l.db*")); len(names) > 0 {
			t.Errorf("the refusal left %q", names)
		}
	}
}

func TestWhoCanWriteTheDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	passwd, group := filepath.Join(dir, "passwd"), filepath.Join(dir, "group")
	if err := os.WriteFile(passwd, []byte("root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\neve:x:1002:50::/:/bin/sh\nnot a user\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(group, []byte("root:x:0:bob\nann:x:1000:\nbob:x:1001:ann,root\nstaff:x:50:\nteam:x:60:ann,bob\nmine:x:61:ann\nfar:x:62:somebody\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const ann = 1000
	type acl = ledger.ACLEntry
	f := func(mode, owner, gid uint32, list []acl, want string) {
		t.Helper()
		got, err := ledger.OthersWho(mode, owner, gid, ann, list, passwd, group)
		if err != nil || (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("mode %04o of %d:%d: %q, %v, want %q", mode, owner, gid, got, err, want)
		}
	}
	f(0o700, ann, 60, nil, "")
	f(0o755, 0, 0, nil, "")
	f(0o775, ann, 1000, nil, "")             // a umask of 002
	f(0o2775, 0, 2000, nil, "")              // what a cluster makes of a volume: a group without a name
	f(0o775, 0, 0, nil, "")                  // root's group
	f(0o775, ann, 61, nil, "")               // a group of her own
	f(0o775, ann, 60, nil, "bob is in it")   // a group with another member
	f(0o775, ann, 1001, nil, "bob is in it") // bob's own
	f(0o775, ann, 50, nil, "eve is in it")   // eve's first group, which names nobody
	f(0o775, ann, 62, nil, "somebody is in it")
	f(0o755, ann, 60, nil, "")
	f(0o777, ann, 1000, nil, "mode 0777")
	f(0o1777, 0, 0, nil, "mode 1777")
	f(0o700, 1001, 1001, nil, "user 1001")
	// With an access control list the group's bits are its mask.
	f(0o770, ann, 60, []acl{{Tag: 4, Perm: 5}, {Tag: 2, Perm: 7, ID: ann}}, "")
	f(0o770, ann, 1000, []acl{{Tag: 4, Perm: 5}, {Tag: 2, Perm: 7, ID: 1001}}, "user 1001")
	f(0o750, ann, 1000, []acl{{Tag: 4, Perm: 5}, {Tag: 2, Perm: 7, ID: 1001}}, "")
	f(0o770, ann, 1000, []acl{{Tag: 4, Perm: 5}, {Tag: 8, Perm: 7, ID: 60}}, "bob is in it")
	f(0o770, ann, 60, []acl{{Tag: 4, Perm: 7}}, "bob is in it")

	if got, err := ledger.OthersWho(0o775, ann, 60, ann, nil, passwd+"none", group+"none"); got != "" || err != nil {
		t.Errorf("without tables: %q, %v", got, err)
	}
	if got := ledger.ParseACL([]byte("\x02\x00\x00\x00\x02\x00\x07\x00\xe9\x03\x00\x00\x04\x00")); len(got) != 1 || got[0] != (acl{Tag: 2, Perm: 7, ID: 1001}) {
		t.Errorf("parseACL = %v", got)
	}
}

// What another user has put where our lock or our head goes must not be written, nor be
// taken for ours.
func TestALinkInPlaceOfOurFilesIsRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"l.db.lock", "l.db.head"} {
		for kind, link := range map[string]func(from, to string) error{"symbolic": os.Symlink, "hard": os.Link} {
			t.Run(name+" "+kind, func(t *testing.T) {
				dir := t.TempDir()
				victim := filepath.Join(dir, "shadow")
				if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := link(victim, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				led, err := ledger.Open(config(filepath.Join(dir, "l.db")))
				if err == nil {
					led.Close()
				}
				if !errors.Is(err, ledger.ErrPlace) {
					t.Errorf("Open = %v, want %v", err, ledger.ErrPlace)
				}
				if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
					t.Errorf("the file behind it: %q, %v", b, err)
				}
			})
		}
	}
}
