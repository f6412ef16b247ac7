//go:build cgo

package gpu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// realHelper builds the helper as scripts/release does, once. go build would link anew each time;
// go run keeps what it linked.
var realHelper = sync.OnceValues(func() (string, error) {
	err := goTool("run", "-exec", "cp -t '"+buildDir+"'", "-tags", "helper", "-ldflags", "-extldflags=-Wl,-z,lazy", "./helper")
	return filepath.Join(buildDir, "helper"), err
})

// goTool runs a go command that compiles NVML's header, with the release's flags for C, so that
// it is compiled once for all of them.
func goTool(args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_CFLAGS=-O2 -Wno-deprecated-declarations")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// standIn is the real helper over a stand-in for the driver's library.
type standIn struct {
	t   *testing.T
	dir string // of the stand-in's state
	*Checkpointer
}

func newStandIn(t *testing.T, flags ...string) *standIn {
	t.Helper()
	bin, err := realHelper()
	if err != nil {
		t.Fatal(err)
	}
	s := &standIn{t: t, dir: t.TempDir()}
	lib := t.TempDir()
	args := append([]string{"-shared", "-fPIC", "-o", filepath.Join(lib, "libcuda.so.1"), "-DSTATE=\"" + s.dir + "\"", "helper/testdata/cuda.c"}, flags...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	t.Setenv("LD_LIBRARY_PATH", lib)
	s.Checkpointer = newCheckpointer(func() Snapshot { return reading(map[int]int64{7: 1, 8: 1}) }, func() (process, error) {
		c, err := startChild(exec.Command(bin, CheckpointRole))
		if err != nil {
			return nil, err
		}
		return c, nil
	}, roomy(t))
	t.Cleanup(s.Close)
	for _, pid := range []string{"7", "8"} {
		s.write(pid+".state", "0")
	}
	return s
}

func (s *standIn) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *standIn) read(name string) string {
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Error(err)
	}
	return string(text)
}

// calls are those that the stand-in logged since the last time.
func (s *standIn) calls() string {
	text := strings.TrimSpace(s.read("calls"))
	s.write("calls", "")
	return strings.ReplaceAll(text, "\n", ", ")
}

func nothing(string) {}

func TestCheckpointThroughTheHelper(t *testing.T) {
	s := newStandIn(t)
	if err := s.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Checkpoint(t.Context(), []int{5, 7, 8}, nothing); err != nil {
		t.Fatal(err)
	}
	if got, want := s.calls(), "state 7, state 8, lock 7 within 10000 ms, lock 8 within 10000 ms, checkpoint 7, checkpoint 8"; got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
	if s.read("7.state") != "2" || s.read("8.state") != "2" {
		t.Errorf("states %s and %s", s.read("7.state"), s.read("8.state"))
	}
	if err := s.Restore(t.Context(), []int{5, 7, 8}, nothing); err != nil {
		t.Fatal(err)
	}
	if got, want := s.calls(), "restore 7, restore 8, unlock 7, unlock 8"; got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
	if s.read("7.state") != "0" || s.read("8.state") != "0" {
		t.Errorf("states %s and %s", s.read("7.state"), s.read("8.state"))
	}
}

// A driver that cannot is an answer, never an abort.
func TestDriversThatCannot(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags []string
		want  string
	}{
		{"before the calls", []string{"-DOLD", "-DVERSION=12040"}, "not supported by this driver: it has CUDA 12.4, and the calls came with CUDA 12.8 (driver 570)"},
		{"without the calls", []string{"-DOLD"}, "not supported by this driver (CUDA 12.8): libcuda.so.1 lacks cuCheckpointProcessCheckpoint"},
		{"without one call", []string{"-DNOUNLOCK"}, "not supported by this driver (CUDA 12.8): libcuda.so.1 lacks cuCheckpointProcessUnlock"},
		{"without a card", []string{"-DNOINIT"}, "not supported by this driver (CUDA 12.8): cuInit: CUDA_ERROR_NO_DEVICE"},
		{"another library", []string{"-DcuInit=unheard"}, "libcuda.so.1 lacks cuInit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStandIn(t, c.flags...)
			for range 2 { // and it is asked again
				if err := s.Probe(t.Context()); err == nil || err.Error() != c.want {
					t.Errorf("Probe = %v, want %s", err, c.want)
				}
			}
			if err := s.Available(); err == nil || err.Error() != c.want {
				t.Errorf("Available = %v, want %s", err, c.want)
			}
			if err := s.Checkpoint(t.Context(), []int{7}, nothing); err == nil {
				t.Error("suspended all the same")
			}
			if got := s.calls(); got != "" {
				t.Errorf("called %s", got)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		if _, err := os.Stat("/proc/driver/nvidia"); err == nil {
			t.Skip("this machine has a driver")
		}
		s := newStandIn(t)
		t.Setenv("LD_LIBRARY_PATH", "")
		if err := s.Probe(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "load libcuda.so.1: ") {
			t.Errorf("Probe = %v", err)
		}
	})
}

// What fails, breaks or aborts in the driver at any step is rolled back by its own
// calls, or said not to be.
func TestTheHelperRollsBack(t *testing.T) {
	for _, c := range []struct{ trouble, want, calls, states string }{
		{"fail state 8", "state process 8: cuCheckpointProcessGetState: CUDA_ERROR_NOT_SUPPORTED",
			"state 7, state 8", "00"},
		{"fail lock 8", "lock process 8: cuCheckpointProcessLock: CUDA_ERROR_NOT_SUPPORTED; rolled back",
			"state 7, state 8, lock 7 within 10000 ms, lock 8 within 10000 ms, state 7, unlock 7, state 8", "00"},
		{"fail checkpoint 8", "checkpoint process 8: cuCheckpointProcessCheckpoint: CUDA_ERROR_NOT_SUPPORTED; rolled back",
			"state 7, state 8, lock 7 within 10000 ms, lock 8 within 10000 ms, checkpoint 7, checkpoint 8, state 7, restore 7, unlock 7, state 8, unlock 8", "00"},
		{"broken checkpoint 7", "checkpoint process 7: cuCheckpointProcessCheckpoint: CUDA_ERROR_NOT_SUPPORTED; not rolled back: process 7 is failed",
			"state 7, state 8, lock 7 within 10000 ms, lock 8 within 10000 ms, checkpoint 7, state 7", "31"},
		{"abort checkpoint 8", "checkpoint process 8: the helper ended: exit status 2: SIGABRT: abort; rolled back",
			"state 7, state 8, lock 7 within 10000 ms, lock 8 within 10000 ms, checkpoint 7, checkpoint 8, state 7, restore 7, unlock 7, state 8, unlock 8", "00"},
		{"abort lock 7", "lock process 7: the helper ended: exit status 2: SIGABRT: abort; rolled back",
			"state 7, state 8, lock 7 within 10000 ms, state 7, state 8", "00"},
	} {
		t.Run(c.trouble, func(t *testing.T) {
			s := newStandIn(t)
			s.write("trouble", c.trouble)
			err := s.Checkpoint(t.Context(), []int{7, 8}, nothing)
			if err == nil || err.Error() != c.want {
				t.Errorf("Checkpoint = %v, want %s", err, c.want)
			}
			if got := s.calls(); got != c.calls {
				t.Errorf("calls %s\nwant %s", got, c.calls)
			}
			if got := s.read("7.state") + s.read("8.state"); got != c.states {
				t.Errorf("states %s, want %s", got, c.states)
			}
		})
	}
}

// A driver that hangs in a step costs the helper, when whoever waits has had enough;
// the next one works.
func TestTheDriverHangs(t *testing.T) {
	for _, step := range []string{"open 0", "state 7", "lock 7", "checkpoint 8", "restore 7", "unlock 8"} {
		t.Run(step, func(t *testing.T) {
			s := newStandIn(t)
			enough := errors.New("enough")
			ctx, stop := context.WithCancelCause(t.Context())
			defer stop(nil)
			do := func(lap func(string)) error { return s.Checkpoint(ctx, []int{7, 8}, lap) }
			if step == "restore 7" || step == "unlock 8" {
				if err := do(nothing); err != nil {
					t.Fatal(err)
				}
				do = func(lap func(string)) error { return s.Restore(ctx, []int{7, 8}, lap) }
			}
			s.calls()
			s.write("trouble", "hang "+step)
			if step == "open 0" {
				do = func(func(string)) error { return s.Probe(ctx) }
			}
			done := make(chan error, 1)
			go func() { done <- do(nothing) }()
			await(t, "it hangs in "+step, func() bool {
				_, err := os.Stat(filepath.Join(s.dir, "opening"))
				return err == nil || strings.Contains(s.read("calls"), step)
			})
			stop(enough)
			if err := <-done; err == nil || !strings.Contains(err.Error(), enough.Error()) {
				t.Errorf("after a hang in %s: %v", step, err)
			}
			s.write("trouble", "")
			s.write("7.state", "0")
			s.write("8.state", "0")
			if err := s.Checkpoint(t.Context(), []int{7, 8}, nothing); err != nil {
				t.Errorf("the next Checkpoint = %v", err)
			}
		})
	}
}
