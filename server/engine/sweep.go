package engine

import (
	"bytes"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	sweepEvery = 10 * time.Millisecond
	sweepBound = 5 * time.Second
)

// marks tell the processes of one engine from our other children, which os/exec waits
// for, when the guard is gone and they have become our children. Any one mark is enough:
// a process may leave the session, vLLM's overwrite their environment with their title,
// and a daemon closes its output.
type marks struct {
	key     string // in the environment, handed down from the guard
	session int    // the guard's pid: it leads a session
	pipe    string // "pipe:[inode]" that stdout or stderr leads to
}

func (m marks) on(p proc) bool {
	if p.session == m.session {
		return true
	}
	for _, fd := range []string{"fd/1", "fd/2"} {
		if link, err := os.Readlink(procPath(p.pid, fd)); err == nil && link == m.pipe {
			return true
		}
	}
	env, err := os.ReadFile(procPath(p.pid, "environ"))
	return err == nil && bytes.Contains(env, []byte(m.key))
}

// sweep kills the processes that have a mark, and all below them, and reaps those that
// thereby became our children. It returns how many did not die in time. The guard must
// not be reaped yet: its pid is a mark, and could be another session's by then.
//
// It waits for single pids only: wait4(-1) would take children from os/exec.
func (m marks) sweep() int {
	self := os.Getpid()
	ours := make(map[int]uint64) // pid to start, once seen with a mark
	for deadline := time.Now().Add(sweepBound); ; time.Sleep(sweepEvery) {
		all, err := processes()
		if err != nil {
			return 0
		}
		var roots []int
		for _, p := range all {
			if p.pid == self || p.pid == m.session {
				continue
			}
			if m.on(p) {
				ours[p.pid] = p.start
				roots = append(roots, p.pid)
			}
		}
		for _, p := range descendants(all, roots...) {
			ours[p.pid] = p.start
		}
		left := 0
		for _, p := range all {
			if start, ok := ours[p.pid]; !ok || start != p.start {
				continue
			}
			// A zombie is killed too: it may be a dead first thread among live ones.
			p.kill()
			if p.ppid == self {
				if pid, err := unix.Wait4(p.pid, nil, unix.WNOHANG, nil); pid == p.pid || err != nil {
					continue
				}
			}
			left++ // it lives, or has a dying parent and will be our child
		}
		if left == 0 || time.Now().After(deadline) {
			return left
		}
	}
}
