package harness

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Process is one that was seen in /proc.
type Process struct {
	PID     int
	started string // in clock ticks since boot: with PID, it names a process for good
}

// Alive reports whether p is still there, and not just its number.
func (p Process) Alive() bool {
	_, started, state := stat(p.PID)
	return started == p.started && state != "Z" && state != "X"
}

// Words are the words of its command line.
func (p Process) Words() []string { return p.list("cmdline") }

// Environ is the environment that it was started with.
func (p Process) Environ() []string { return p.list("environ") }

func (p Process) list(name string) []string {
	b, err := os.ReadFile(filepath.Join(ProcDir(p.PID), name))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
}

// AnyAlive reports whether any of them is.
func AnyAlive(all []Process) bool {
	for _, p := range all {
		if p.Alive() {
			return true
		}
	}
	return false
}

// ProcDir is what the kernel tells of a process, as a folder.
func ProcDir(pid int) string { return filepath.Join("/proc", strconv.Itoa(pid)) }

// stat returns a process's parent, start time and state; zero where there is none.
func stat(pid int) (parent int, started, state string) {
	b, err := os.ReadFile(filepath.Join(ProcDir(pid), "stat"))
	if err != nil {
		return 0, "", ""
	}
	// The name, in brackets, may hold anything.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	parent, _ = strconv.Atoi(f[1])
	return parent, f[19], f[0]
}

// Descendants lists every process below pid.
func Descendants(t testing.TB, pid int) []Process {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]Process{}
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil {
			parent, started, _ := stat(id)
			children[parent] = append(children[parent], Process{id, started})
		}
	}
	var all []Process
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		for _, c := range children[todo[0]] {
			all = append(all, c)
			todo = append(todo, c.PID)
		}
	}
	return all
}
