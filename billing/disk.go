package billing

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"spotinference/billing/api"
	"spotinference/billing/runpod"
)

// Some disks of a rented machine do not outlive it, or not even its being stopped. A
// ledger on one of them ends with the machine, and what was spent is then not known.
//
//   - tmpfs and ramfs are memory; overlay is a container's own layer, which is made
//     anew with the container.
//   - A Runpod pod's container disk is erased when the pod stops; what is kept is a
//     mount of its own, at /workspace unless the pod was set up otherwise (runpod/docs,
//     pods/storage/types.mdx).
//   - Hyperstack mounts a flavor's ephemeral disk at /ephemeral, and lets go of it when
//     the machine hibernates (infrahub-doc.nexgencloud.com, virtual machines, hibernation).

// Disks are what is known of this machine's; the zero value asks the system.
type Disks struct {
	Getenv func(string) string                        // nil finds nothing
	Statfs func(path string, st *unix.Statfs_t) error // unix.Statfs if nil
	Mounts func() ([]byte, error)                     // /proc/self/mountinfo if nil
}

// Dying says why a file at path would be lost with the machine or when it stops, and
// what to do; "" where no reason is known. The file need not be there yet.
func (d Disks) Dying(path string) (why, hint string) {
	if d.Statfs == nil {
		d.Statfs = unix.Statfs
	}
	if d.Mounts == nil {
		d.Mounts = func() ([]byte, error) { return os.ReadFile("/proc/self/mountinfo") }
	}
	dir, rest, err := existing(path)
	if err != nil {
		return "", "" // whoever opens the file will say it
	}
	pod := api.Options{Getenv: d.Getenv}.Env(runpod.PodVar) != ""
	hint = "put the ledger on a volume that survives the machine"
	if pod {
		hint = "put the ledger on the pod's volume, /workspace unless it was set up otherwise"
	}
	switch mount := d.mountOf(filepath.Join(dir, rest)); {
	case pod && mount == "/":
		return "it is on the pod's container disk, which is erased when the pod stops", hint
	case mount == "/ephemeral":
		return "it is on the ephemeral disk, which is lost when the machine hibernates", hint
	}
	var st unix.Statfs_t
	if d.Statfs(dir, &st) != nil {
		return "", ""
	}
	switch int64(st.Type) {
	case unix.TMPFS_MAGIC:
		return "it is on a tmpfs, which is memory", hint
	case unix.RAMFS_MAGIC:
		return "it is on a ramfs, which is memory", hint
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "it is in the container's own layer, which is lost with the container", hint
	}
	return "", ""
}

// existing is the directory, free of links, that path would be in, or its nearest
// ancestor that is there, and what of path comes after that.
func existing(path string) (dir, rest string, err error) {
	if dir, err = filepath.Abs(path); err != nil {
		return "", "", err
	}
	for {
		real, err := filepath.EvalSymlinks(dir)
		if err == nil {
			return real, rest, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return "", "", fmt.Errorf("find the disk of %s: %w", path, err)
		}
		dir, rest = filepath.Dir(dir), filepath.Join(filepath.Base(dir), rest)
	}
}

// mountOf is where the file system that holds path is mounted, "" where that cannot be
// told. Of two mounts at one place the later covers the earlier, which changes nothing.
func (d Disks) mountOf(path string) string {
	table, err := d.Mounts()
	if err != nil {
		return ""
	}
	longest := ""
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line) // proc(5): id, parent, device, root, mount point
		if len(fields) < 5 {
			continue
		}
		at := unescape(fields[4])
		if len(at) > len(longest) && (at == "/" || path == at || strings.HasPrefix(path, at+"/")) {
			longest = at
		}
	}
	return longest
}

// unescape reads a path of the mount table: white space and backslashes are octal.
func unescape(s string) string {
	before, after, found := strings.Cut(s, `\`)
	if !found || len(after) < 3 {
		return s
	}
	n, err := strconv.ParseUint(after[:3], 8, 8)
	if err != nil {
		return s
	}
	return before + string([]byte{byte(n)}) + unescape(after[3:])
}
