package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// process is one of the namespace, as the kernel tells of it.
type process struct {
	pid     int
	argv    []string
	environ []string
}

// has reports whether a process was started with an entry in its environment.
func (p process) has(entry string) bool { return slices.Contains(p.environ, entry) }

// processes lists all but this one.
func processes() (all []process) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	list := func(pid, name string) []string {
		b, err := os.ReadFile(filepath.Join("/proc", pid, name)) // it may be gone
		if err != nil {
			return nil
		}
		return strings.Split(string(bytes.TrimRight(b, "\x00")), "\x00")
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() {
			all = append(all, process{pid, list(e.Name(), "cmdline"), list(e.Name(), "environ")})
		}
	}
	return all
}

// killThoseOf kills what was started with a home and did not end with its parent: some
// agents leave a daemon.
func killThoseOf(home string) {
	for _, p := range processes() {
		if p.has("HOME=" + home) {
			_ = syscall.Kill(p.pid, syscall.SIGKILL) // it may be gone
		}
	}
}
