package billing_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"spotinference/billing"
	"spotinference/billing/rig"
)

// A ledger on a disk that dies with the machine is said to be on one.
func TestPitfall30LedgerOnADyingDisk(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(root, "my volume")
	link := filepath.Join(root, "link")
	if err := errors.Join(os.Mkdir(volume, 0o700), os.Symlink(volume, link)); err != nil {
		t.Fatal(err)
	}
	onRoot, onVolume := filepath.Join(root, "state", "spotinference", "ledger.db"), filepath.Join(volume, "ledger.db")
	escaped := strings.ReplaceAll(volume, " ", `\040`)
	table := func(points ...string) string {
		var b strings.Builder
		for _, p := range points {
			b.WriteString("36 25 8:1 / " + p + " rw,relatime shared:1 - ext4 /dev/vda1 rw\n")
		}
		return b.String()
	}
	const ext4 = unix.EXT4_SUPER_MAGIC
	pod := map[string]string{"RUNPOD_POD_ID": "7h9k2m4n6p"}

	f := func(path string, kind int64, mounts string, env map[string]string, want string) {
		t.Helper()
		d := billing.Disks{
			Getenv: rig.Env(env),
			Statfs: func(dir string, st *unix.Statfs_t) error {
				if _, err := os.Stat(dir); err != nil {
					t.Errorf("asked for %s: %v", dir, err)
				}
				st.Type = kind
				return nil
			},
			Mounts: func() ([]byte, error) { return []byte(mounts), nil },
		}
		why, hint := d.Dying(path)
		if want == "" && why != "" || !strings.Contains(why, want) {
			t.Errorf("%s on %#x in %v: %q, want %q", path, kind, env, why, want)
		}
		if (why == "") != (hint == "") && why != "" {
			t.Errorf("%q without a hint", why)
		}
	}
	f(onRoot, ext4, table("/"), nil, "")
	f(onRoot, unix.TMPFS_MAGIC, table("/"), nil, "tmpfs")
	f(onRoot, unix.RAMFS_MAGIC, table("/"), nil, "ramfs")
	f(onRoot, unix.OVERLAYFS_SUPER_MAGIC, table("/"), nil, "container's own layer")
	f(onVolume, unix.NFS_SUPER_MAGIC, table("/", escaped), nil, "")

	// In a pod everything that is no mount of its own is erased.
	f(onRoot, ext4, table("/", escaped), pod, "container disk")
	f(onRoot, unix.OVERLAYFS_SUPER_MAGIC, table("/", escaped), pod, "container disk")
	f(onVolume, ext4, table("/", escaped), pod, "")
	f(onVolume, unix.FUSE_SUPER_MAGIC, table("/", escaped), pod, "")                       // a network volume
	f(filepath.Join(link, "ledger.db"), ext4, table("/", escaped), pod, "")                // the place, not its name
	f(onVolume, ext4, table("/"), pod, "container disk")                                   // no volume is mounted there
	f(onVolume, ext4, table("/", strings.TrimSuffix(escaped, "e")), pod, "container disk") // nor at a part of its name
	f(onVolume, unix.TMPFS_MAGIC, table("/", escaped), pod, "tmpfs")                       // a mount, and memory
	f("/ephemeral/state/ledger.db", ext4, table("/", "/ephemeral"), nil, "ephemeral disk")
	f("/ephemeral-not/ledger.db", ext4, table("/", "/ephemeral"), nil, "") // another place
	f("relative.db", unix.TMPFS_MAGIC, table("/"), nil, "tmpfs")
}

// Where the system does not tell, nothing is said.
func TestDisksUnknown(t *testing.T) {
	d := billing.Disks{
		Statfs: func(string, *unix.Statfs_t) error { return errors.New("no") },
		Mounts: func() ([]byte, error) { return nil, errors.New("no") },
	}
	if why, _ := d.Dying(filepath.Join(t.TempDir(), "ledger.db")); why != "" {
		t.Errorf("%q", why)
	}
	d.Mounts = func() ([]byte, error) { return []byte("\n36 25\nx x x x \\9 y\nx x x x /\\04 y\n"), nil }
	if why, _ := d.Dying(filepath.Join(t.TempDir(), "ledger.db")); why != "" {
		t.Errorf("%q", why)
	}
}
