package e2e_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// process is what /proc knows of one.
type process struct {
	pid     int
	started string // in clock ticks since boot: with pid, it names a process for good
}

// alive reports whether p is still there, and not just its number.
func (p process) alive() bool {
	_, started, state := stat(p.pid)
	return started == p.started && state != "Z" && state != "X"
}

// stat returns a process's parent, start time and state; zero where it is gone.
func stat(pid int) (parent int, started, state string) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, "", ""
	}
	// The name, in brackets, may hold anything.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	parent, _ = strconv.Atoi(f[1])
	return parent, f[19], f[0]
}

// descendants lists every process below pid.
func descendants(t testing.TB, pid int) []process {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]process{}
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil {
			parent, started, _ := stat(id)
			children[parent] = append(children[parent], process{id, started})
		}
	}
	var all []process
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		for _, c := range children[todo[0]] {
			all = append(all, c)
			todo = append(todo, c.pid)
		}
	}
	return all
}

func procFile(pid int, name string) []string {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
}

// engineMetrics asks the engine itself, past the gateway, for a counter.
func (s *serving) engineMetrics() map[string]float64 {
	s.t.Helper()
	var socket, key string
	for _, p := range descendants(s.t, s.cmd.Process.Pid) {
		for _, arg := range procFile(p.pid, "cmdline") {
			if strings.HasSuffix(arg, ".sock") {
				socket = arg
			}
		}
		for _, env := range procFile(p.pid, "environ") {
			if v, ok := strings.CutPrefix(env, "LLAMA_API_KEY="); ok {
				key = v
			}
			if v, ok := strings.CutPrefix(env, "VLLM_API_KEY="); ok {
				key = v
			}
		}
	}
	if socket == "" || key == "" {
		s.t.Fatal("no engine process below serve")
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}
	req, err := http.NewRequest(http.MethodGet, "http://engine/metrics", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("engine's metrics: %d, %v", resp.StatusCode, err)
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			out[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	return out
}
