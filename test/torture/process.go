package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// process is one that bears the mark of this run.
type process struct {
	pid, parent int
	argv        []string
}

// role is what it is to the gateway.
func (p process) role() string {
	switch {
	case len(p.argv) > 0 && filepath.Base(p.argv[0]) == smiName:
		return "helper"
	case len(p.argv) > 1 && p.argv[1] == "guard":
		return "guard"
	case len(p.argv) > 1 && p.argv[1] == "sim-engine":
		return "engine"
	case len(p.argv) > 1 && p.argv[1] == "serve":
		return "gateway"
	}
	return "unknown"
}

// marked lists the processes that hold mark in their environment or command line and
// are not dead: the gateway and all that it started, whoever their parent is by now.
func marked(mark string) []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline")) // it may be gone
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		if len(cmdline) == 0 || !bytes.Contains(cmdline, []byte(mark)) && !bytes.Contains(environ, []byte(mark)) {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // the name, in brackets, may hold anything
		if f[0] == "Z" || f[0] == "X" {
			continue
		}
		parent, _ := strconv.Atoi(f[1])
		found = append(found, process{pid, parent, strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")})
	}
	return found
}

// orphans are those of all that are neither root nor below it.
func orphans(all []process, root int) (out []process) {
	parents := map[int]int{}
	for _, p := range all {
		parents[p.pid] = p.parent
	}
	for _, p := range all {
		pid, ok := p.pid, true
		for pid != root && ok {
			pid, ok = parents[pid]
		}
		if pid != root {
			out = append(out, p)
		}
	}
	return out
}
