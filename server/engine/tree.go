package engine

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// proc is one row of /proc. A pid is reused; (pid, start) is not.
type proc struct {
	pid, ppid, session int
	start              uint64 // clock ticks after boot
}

// processes reads every process that we may see. One that ends meanwhile is left out.
func processes() ([]proc, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []proc
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			if p, ok := readProc(pid); ok {
				all = append(all, p)
			}
		}
	}
	return all, nil
}

func readProc(pid int) (proc, bool) {
	stat, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return proc{}, false
	}
	// The second field is the command in parentheses and may hold both of them.
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return proc{}, false
	}
	f := bytes.Fields(stat[i+1:])
	if len(f) < 20 {
		return proc{}, false
	}
	p := proc{pid: pid}
	p.ppid, _ = strconv.Atoi(string(f[1]))
	p.session, _ = strconv.Atoi(string(f[3]))
	p.start, _ = strconv.ParseUint(string(f[19]), 10, 64)
	return p, true
}

func procPath(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// descendants returns the processes of all below the roots, without the roots.
func descendants(all []proc, roots ...int) []proc {
	children := make(map[int][]proc, len(all))
	for _, p := range all {
		children[p.ppid] = append(children[p.ppid], p)
	}
	var found []proc
	for len(roots) > 0 {
		below := children[roots[0]]
		delete(children, roots[0]) // a pid reused between two reads must not make a loop
		roots = roots[1:]
		for _, p := range below {
			found = append(found, p)
			roots = append(roots, p.pid)
		}
	}
	return found
}

// bytesRead is how many bytes p has read so far, 0 where that cannot be seen: those of its
// read calls, and those of the disk, which has the pages of a file that it maps.
func (p proc) bytesRead() (n int64) {
	io, err := os.ReadFile(procPath(p.pid, "io"))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(io) {
		name, value, _ := bytes.Cut(line, []byte(": "))
		if s := string(name); s == "rchar" || s == "read_bytes" {
			v, _ := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			n += v
		}
	}
	return n
}

// kill sends SIGKILL to p, and not to a process that got its pid since.
func (p proc) kill() {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	pinned := err == nil
	if pinned {
		defer unix.Close(fd)
	}
	if now, ok := readProc(p.pid); !ok || now.start != p.start {
		return
	}
	if !pinned { // a kernel or sandbox without pidfd: the window is some microseconds wide
		unix.Kill(p.pid, unix.SIGKILL)
		return
	}
	unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
}
