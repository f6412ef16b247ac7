//go:build cgo

package e2e_test

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"spotinference/test/harness"
)

// release builds the release, once.
var release = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(harness.BuildDir(), "release", "spotinference")
	cmd := exec.Command(filepath.Join("..", "..", "scripts", "release"), bin)
	// Without the revision in it, since git refuses a checkout that another user owns.
	cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("scripts/release: %w\n%s", err, out)
	}
	return bin, nil
})

func releaseProgram(t *testing.T) string {
	t.Helper()
	bin, err := release()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// One file, with the helper inside, that needs nothing of the machine that it runs
// on: it is alone in its root directory here.
func TestTheReleaseNeedsNothing(t *testing.T) {
	t.Parallel()
	bin := releaseProgram(t)
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the release has a %v: it is not static", p.Type)
		}
	}
	image, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "spotinference"), image, 0o755); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{"--version": `^spotinference \S+\n$`, "--help": `(?m)^  serve `, "report --help": `(?m)^  gpu `} {
		cmd := &exec.Cmd{Path: "/spotinference", Args: append([]string{"spotinference"}, strings.Fields(args)...), Dir: "/", Env: []string{}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		}
		out, err := cmd.CombinedOutput()
		if err != nil || !regexp.MustCompile(want).Match(out) {
			t.Errorf("spotinference %s in an empty root: %v\n%s", args, err, out)
		}
	}
}

// The release reads a card through its helper. A driver's library that hangs or
// aborts costs readings and nothing else: the gateway serves, shows that it reads
// nothing, and reads again when the library is well.
func TestTheReleaseReadsACard(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mode := filepath.Join(dir, "mode")
	build := exec.Command("gcc", "-shared", "-fPIC", "-o", filepath.Join(dir, "libnvidia-ml.so.1"), "-DMODE=\""+mode+"\"", filepath.Join(harness.Root(t), "gpu", "helper", "testdata", "standin.c"))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	set := func(text string) {
		t.Helper()
		if err := os.WriteFile(mode+".next", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(mode+".next", mode); err != nil {
			t.Fatal(err)
		}
	}
	bin := releaseProgram(t)
	s := harness.Start(t, bin, []string{"LD_LIBRARY_PATH=" + dir, "PATH=/nonexistent"}, "--provider", "none", "--engine", "llama", "--", bin, "sim-engine").Listens()
	const (
		card = `{gpu="0",uuid="GPU-00000000-0000-0000-0000-000000000001"}`
		used = "spotinference_gpu_memory_used_bytes" + card + " 21474836480"
	)
	s.Shows(`spotinference_gpu_source{source="helper"} 1`)
	s.Shows(used)
	s.Shows("spotinference_gpu_utilisation_ratio" + card + " 0.42")
	s.Shows(`spotinference_gpu_xid_errors_total{uuid="GPU-00000000-0000-0000-0000-000000000001",xid="79"} 1`)

	for _, trouble := range []string{"abort", "hang"} {
		set(trouble)
		s.Shows(`spotinference_gpu_source{source="none"} 1`)
		if strings.Contains(s.Get("/metrics"), "spotinference_gpu_memory_used_bytes") {
			t.Error("dead figures are shown as living ones")
		}
		s.Ready() // it serves all the same
		set("")
		s.Shows(`spotinference_gpu_source{source="helper"} 1`)
		s.Shows(used)
	}
	if log := s.Stderr(); !strings.Contains(log, "helper: exit status 2: SIGABRT: abort") || !strings.Contains(log, "helper: silent for 10s, and killed") {
		t.Error("the log does not say what happened to the helper")
	}
	s.Stop()

	var g struct {
		Cards []struct {
			UUID, Name         string
			Readings           int64
			UtilisationAverage string `json:"utilisation_average"`
		}
		Energy struct{ Joules *string }
		Reason string
	}
	s.Report(&g, "gpu", "--window", "1h")
	if len(g.Cards) != 1 || g.Cards[0].Name != "Stand-in" || g.Cards[0].Readings < 3 || g.Cards[0].UtilisationAverage != "0.4200" || g.Reason != "no_tokens" || g.Energy.Joules == nil {
		t.Errorf("report gpu: %+v", g)
	}
}

// Without a driver the helper says so, from memory, and nothing else is wrong.
func TestTheReleaseWithoutADriver(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/driver/nvidia"); err == nil {
		t.Skip("this machine has a driver")
	}
	bin := releaseProgram(t)
	s := harness.Start(t, bin, []string{"PATH=/nonexistent"}, "--provider", "none", "--engine", "llama", "--", bin, "sim-engine").Listens()
	harness.Eventually(t, "the log says why there are no readings", func() bool {
		return strings.Contains(s.Stderr(), `"msg":"no GPU readings","why":"helper: initialise NVML: libnvidia-ml.so.1 not found: no NVIDIA driver here, or none for this container; nvidia-smi: not found in PATH"`)
	})
	s.Ready().Stop()
}
