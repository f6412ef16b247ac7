package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An engine behind a script outlives us where we and the guard are killed together: the
// kernel kills the script for us, and not what the script has started. So it stands in a
// file by what the processes of each start can be known, and the next Run ends those that
// are left before it starts anything.

// runMark is the variable of the engine's environment by which its processes are found.
const runMark = "ENGINE_RUN_ID" // not one of ours, which an engine has none of

// runRecord is what Config.Record holds while an engine's process runs.
type runRecord struct {
	Boot  string `json:"boot"`  // of the kernel, and our pid namespace: elsewhere the rest says nothing
	Run   string `json:"run"`   // the value of runMark
	Guard int    `json:"guard"` // its pid, which is the session's; 0 before it was started
	Start uint64 `json:"start"` // the guard's, as proc has it
	Pipe  string `json:"pipe"`  // see marks
}

// bootName tells this boot and pid namespace from others.
func bootName() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return "", err
	}
	return string(bytes.TrimSpace(boot)) + " " + ns, nil
}

// writeRecord notes what was started. Without it an engine may be left, so it is said.
func (e *Engine) writeRecord(run string, m marks) {
	if e.cfg.Record == "" {
		return
	}
	if err := e.tryWriteRecord(run, m); err != nil {
		e.cfg.Log.Warn("note what the engine is known by", "err", err, "hint", "if spotinference and its guard are killed together, look for an engine that is left")
	}
}

func (e *Engine) tryWriteRecord(run string, m marks) error {
	boot, err := bootName()
	if err != nil {
		return err
	}
	guard, _ := readProc(m.session)
	b, err := json.Marshal(runRecord{Boot: boot, Run: run, Guard: m.session, Start: guard.start, Pipe: m.pipe})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	f, err := os.CreateTemp(filepath.Dir(e.cfg.Record), filepath.Base(e.cfg.Record)+".*") // in mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), e.cfg.Record)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// removeRecord is for when nothing is left.
func (e *Engine) removeRecord() {
	if e.cfg.Record != "" {
		os.Remove(e.cfg.Record)
	}
}

// readRecord reads a file that must be our own: what it names is killed.
func readRecord(path string) (r runRecord, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return r, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return r, err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !st.Mode().IsRegular() || st.Mode().Perm()&0o077 != 0 || !ok || int(sys.Uid) != os.Geteuid() {
		return r, fmt.Errorf("%s: not a file that is ours alone", path)
	}
	if err := json.NewDecoder(f).Decode(&r); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	if r.Run == "" || r.Pipe == "" {
		return r, fmt.Errorf("%s: a value is missing", path)
	}
	return r, nil
}

// endLeftover ends what an earlier Run has left, and returns when it is gone.
func (e *Engine) endLeftover(ctx context.Context) {
	if e.cfg.Record == "" {
		return
	}
	rec, err := readRecord(e.cfg.Record)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		e.cfg.Log.Warn("read what an earlier engine is known by", "err", err)
		return
	}
	if boot, err := bootName(); err != nil || boot != rec.Boot {
		e.removeRecord() // nothing of it runs here
		return
	}
	m := marks{key: runMark + "=" + rec.Run, session: rec.Guard, pipe: rec.Pipe}
	if rec.Guard <= 1 || !awaitGuard(ctx, rec) {
		m.session = -1 // not known, or its number is another process's
	}
	ended, left := m.sweepForeign()
	if len(ended) > 0 {
		e.cfg.Log.Warn("an engine of an earlier spotinference was still running, and was ended", "processes", len(ended), "pids", ended)
	}
	if left > 0 {
		e.cfg.Log.Error("engine processes cannot be killed and may hold the GPU", "count", left)
		return
	}
	e.removeRecord()
}

// awaitGuard waits for a guard that still lives, which is about to end its engine. It is
// false where the guard's pid is another process's.
func awaitGuard(ctx context.Context, rec runRecord) bool {
	for deadline := time.Now().Add(killWait); ; time.Sleep(sweepEvery) {
		p, lives := readProc(rec.Guard)
		if !lives || isZombie(p.pid) {
			return true
		}
		if p.start != rec.Start {
			return false
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return true
		}
	}
}

// sweepForeign is sweep for processes that are not our children: those that ended is a list
// of pids, left is how many did not end in time.
func (m marks) sweepForeign() (ended []int, left int) {
	self := os.Getpid()
	ours := map[int]uint64{} // pid to start
	for deadline := time.Now().Add(sweepBound); ; time.Sleep(sweepEvery) {
		all, err := processes()
		if err != nil {
			return ended, 0
		}
		var roots []int
		for _, p := range all {
			if p.pid != self && p.pid != m.session && m.on(p) {
				ours[p.pid] = p.start
				roots = append(roots, p.pid)
			}
		}
		for _, p := range descendants(all, roots...) {
			if p.pid != self {
				ours[p.pid] = p.start
			}
		}
		left = 0
		for _, p := range all {
			if start, ok := ours[p.pid]; !ok || start != p.start || isZombie(p.pid) {
				continue
			}
			p.kill()
			left++
		}
		if left == 0 || time.Now().After(deadline) {
			for pid := range ours {
				ended = append(ended, pid)
			}
			return ended, left
		}
	}
}

// isZombie reports whether all threads of a process have ended: it waits for its parent.
func isZombie(pid int) bool {
	stat, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return true
	}
	_, after, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	if len(after) == 0 || after[0] != 'Z' && after[0] != 'X' {
		return false
	}
	tasks, err := os.ReadDir(procPath(pid, "task"))
	return err != nil || len(tasks) <= 1 // a dead first thread may have live ones beside it
}
