//go:build cgo

package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"spotinference/test/harness"
)

// standInDriver is a directory with stand-ins for both of the driver's libraries: no
// card, no CUDA, and processes that are files in state.
type standInDriver struct {
	t          *testing.T
	lib, state string
}

func newStandInDriver(t *testing.T, flags ...string) standInDriver {
	t.Helper()
	d := standInDriver{t, t.TempDir(), t.TempDir()}
	for lib, source := range map[string]string{"libnvidia-ml.so.1": "standin.c", "libcuda.so.1": "cuda.c"} {
		args := append([]string{"-shared", "-fPIC", "-o", filepath.Join(d.lib, lib), "-DMODE=\"" + filepath.Join(d.state, "mode") + "\"",
			"-DSTATE=\"" + d.state + "\"", filepath.Join(harness.Root(t), "gpu", "helper", "testdata", source)}, flags...)
		if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
	}
	return d
}

func (d standInDriver) env() []string {
	return []string{"LD_LIBRARY_PATH=" + d.lib, "PATH=/nonexistent"}
}

func (d standInDriver) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.state, name), []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d standInDriver) read(name string) string {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.state, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.t.Fatal(err)
	}
	return string(text)
}

// engine asks the running serve, by a command of its own, and returns what it says of
// its engine then.
func engineAfter(t testing.TB, s *harness.Gateway, order string) (e struct {
	State     string
	PID       int
	Suspended string `json:"suspended_by"`
}) {
	t.Helper()
	stdout, stderr, code := harness.Command(t, nil, order, "--ledger", s.Ledger, "--output", "json")
	if code != 0 {
		t.Fatalf("%s: exit %d\n%s", order, code, stderr)
	}
	var status struct{ Engine any }
	status.Engine = &e
	if err := json.Unmarshal([]byte(stdout), &status); err != nil {
		t.Fatal(err)
	}
	return e
}

// seesCards waits until readings have begun and ended from now on.
func awaitReadings(t testing.TB, s *harness.Gateway) {
	t.Helper()
	for range 2 { // the first may have begun before
		before := readAt(t, s)
		harness.Eventually(t, "the card is read", func() bool { return readAt(t, s) != before })
	}
}

// readAt is when the cards were read last, as the metrics say it.
func readAt(t testing.TB, s *harness.Gateway) string {
	_, after, _ := strings.Cut(s.Get("/metrics"), "\nspotinference_gpu_reading_timestamp_seconds ")
	at, _, _ := strings.Cut(after, "\n")
	return at
}

// holder is the simulated engine as a command that starts a process of CUDA's beside it,
// which writes its pid to hold.held when it holds the card's memory.
func (d standInDriver) holder(bin string) string {
	d.t.Helper()
	hold, script := filepath.Join(d.lib, "gpu-hold"), filepath.Join(d.lib, "engine")
	if out, err := exec.Command("gcc", "-o", hold, filepath.Join(harness.Root(d.t), "scripts", "gpu-hold.c"), "-ldl").CombinedOutput(); err != nil {
		d.t.Fatalf("gcc: %v\n%s", err, out)
	}
	text := fmt.Sprintf("#!/bin/sh\n%s 16 %s &\nexec %s sim-engine \"$@\"\n", hold, filepath.Join(d.state, "hold"), bin)
	harness.WriteProgram(d.t, script, text)
	return script
}

// held waits for a new holder and returns its pid.
func (d standInDriver) held() (pid string) {
	d.t.Helper()
	harness.Eventually(d.t, "the memory is held", func() bool { pid = strings.TrimSpace(d.read("hold.held")); return pid != "" })
	d.write("hold.held", "")
	return pid
}

// The release suspends its engine by the driver's checkpoint: the process of its tree
// that uses the card, which is not the leader. It sees the memory gone, and wakes it for
// a request; what fails in the driver is rolled back, and the engine is stopped. The
// driver, the card and the engine are stand-ins; the program is not.
func TestTheReleaseCheckpoints(t *testing.T) {
	t.Parallel()
	d := newStandInDriver(t)
	bin := releaseProgram(t)
	s := harness.Start(t, bin, d.env(), "--provider", "none", "--engine", "llama", "--suspend", "checkpoint", "--", d.holder(bin)).Listens().Ready()
	const hello = `{"messages":[{"role":"user","content":"hello"}],"max_tokens":5}`

	owner, leader := d.held(), engineAfter(t, s, "status").PID
	s.Shows(`spotinference_gpu_source{source="helper"} 1`)
	awaitReadings(t, s)
	if stdout, _, _ := harness.Command(t, nil, "status", "--ledger", s.Ledger); !strings.Contains(stdout, "\ngpu      helper; read ") ||
		!strings.Contains(stdout, "\ncard     Stand-in GPU-00000000-0000-0000-0000-000000000001, 20.0 of 80.0 GiB used, utilisation 42%\n") {
		t.Errorf("status:\n%s", stdout)
	}
	if e := engineAfter(t, s, "suspend"); e.State != "suspended" || e.Suspended != "checkpoint" || e.PID != leader {
		t.Errorf("suspended: %+v", e)
	}
	if state := d.read(owner + ".state"); state != "2" {
		t.Errorf("state %s of the process, want checkpointed", state)
	}
	line := s.Logged("engine suspended")
	for _, phase := range []string{"look", "state", "lock", "checkpoint", "release"} {
		if _, ok := line[phase]; !ok {
			t.Errorf("suspended without the phase %s: %v", phase, line)
		}
	}
	if code, _, answer := s.Post("/v1/chat/completions", hello); code != http.StatusOK {
		t.Errorf("the request that wakes it: %d %s", code, answer)
	}
	if e, state := engineAfter(t, s, "status"), d.read(owner+".state"); e.State != "ready" || e.PID != leader || state != "0" {
		t.Errorf("woken: %+v, state %s of the process", e, state)
	}
	line = s.Logged("engine ready")
	for _, phase := range []string{"restore", "unlock", "canary"} {
		if _, ok := line[phase]; !ok {
			t.Errorf("woken without the phase %s: %v", phase, line)
		}
	}
	want := strings.ReplaceAll("state P\nlock P within 10000 ms\ncheckpoint P\nrestore P\nunlock P\n", "P", owner)
	if got := d.read("calls"); got != want {
		t.Errorf("the driver was called\n%swant\n%s", got, want)
	}
	d.write("hold.check", "")
	harness.Eventually(t, "the memory is read back", func() bool { return d.read("hold.checked") != "" })
	if found := d.read("hold.checked"); found != "ok\n" {
		t.Errorf("the memory after it was woken: %s", found)
	}

	for _, trouble := range []struct{ what, cause string }{
		{"fail", "cuCheckpointProcessCheckpoint: CUDA_ERROR_NOT_SUPPORTED; rolled back"},
		{"abort", "the helper ended: exit status 2: SIGABRT: abort; rolled back"},
	} {
		d.write("trouble", trouble.what+" checkpoint 0")
		d.write("calls", "")
		awaitReadings(t, s) // the owner of this life among them
		if e := engineAfter(t, s, "suspend"); e.State != "suspended" || e.Suspended != "stop" {
			t.Errorf("suspended with %s: %+v", trouble.what, e)
		}
		if cause, want := s.Logged("engine suspended")["cause"], "escalated: checkpoint process "+owner+": "+trouble.cause; cause != want {
			t.Errorf("cause %q, want %q", cause, want)
		}
		if calls := d.read("calls"); !strings.HasSuffix(calls, strings.ReplaceAll("checkpoint P\nstate P\nunlock P\n", "P", owner)) {
			t.Errorf("not rolled back with %s: calls\n%s", trouble.what, calls)
		}
		engineAfter(t, s, "wake")
		owner = d.held()
	}
	if code, _, answer := s.Post("/v1/chat/completions", hello); code != http.StatusOK {
		t.Errorf("after all that: %d %s", code, answer)
	}
	s.Stop()
}

// A driver that cannot is told of at the start where it was asked for, and is no
// trouble where it was not.
func TestTheReleaseOnAnOldDriver(t *testing.T) {
	t.Parallel()
	d := newStandInDriver(t, "-DVERSION=12040")
	bin := releaseProgram(t)
	const why = "not supported by this driver: it has CUDA 12.4, and the calls came with CUDA 12.8 (driver 570)"
	cmd := exec.Command(bin, "serve", "--listen", "127.0.0.1:0", "--provider", "none", "--engine", "llama", "--suspend", "checkpoint",
		"--ledger", filepath.Join(t.TempDir(), "ledger.db"), "--", bin, "sim-engine")
	cmd.Env = append(harness.Env(), d.env()...)
	out, _ := cmd.CombinedOutput()
	if want := "cannot suspend by checkpoint: " + why; cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), want) {
		t.Errorf("exit %d, want 2 and %s:\n%s", cmd.ProcessState.ExitCode(), want, out)
	}

	s := harness.Start(t, bin, d.env(), "--provider", "none", "--engine", "llama", "--", bin, "sim-engine").Listens().Ready()
	if e := engineAfter(t, s, "suspend"); e.State != "suspended" || e.Suspended != "stop" {
		t.Errorf("suspended: %+v", e)
	}
	if line := s.Logged("the engine cannot be suspended by checkpoint"); line["why"] != why {
		t.Errorf("the log says %v", line)
	}
	s.Stop()
}
