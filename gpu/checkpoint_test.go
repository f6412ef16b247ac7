package gpu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fakeCUDA stands in for the driver behind a helper: processes by their states, and
// every call that reached it. It is a test double: what the real driver does is the
// stand-in library's to imitate, in TestCheckpointThroughTheHelper.
type fakeCUDA struct {
	version int
	states  map[int]ProcessState
	trouble map[string]string // "lock 7" to "fail", "hang" or "die"
	starts  int
	calls   []string
	deaf    bool // SIGKILL does nothing
	running []*fakeProcess
}

func (f *fakeCUDA) start() (process, error) {
	f.starts++
	p := newFakeProcess()
	p.deaf, f.running = f.deaf, append(f.running, p)
	p.how = errors.New("signal: aborted")
	return &fakeHelper{p, f}, nil
}

type fakeHelper struct {
	*fakeProcess
	cuda *fakeCUDA
}

func (h *fakeHelper) send(line []byte) error {
	r, err := ParseRequest(line)
	if err != nil {
		return err
	}
	a := Answer{Call: r.Call, PID: r.PID}
	what := fmt.Sprintf("%s %d", r.Call, r.PID)
	h.cuda.calls = append(h.cuda.calls, what)
	switch h.cuda.trouble[what] {
	case "hang":
		return nil
	case "die":
		close(h.out)
		return nil
	case "fail":
		a.Error = "CUDA_ERROR_NOT_SUPPORTED"
	default:
		h.cuda.do(r, &a)
	}
	text, err := json.Marshal(a)
	go func() { h.out <- text }()
	return err
}

func (f *fakeCUDA) do(r Request, a *Answer) {
	if r.Call == CallOpen {
		a.CUDA = f.version
		return
	}
	from := map[Call]ProcessState{CallLock: Running, CallCheckpoint: Locked, CallRestore: Checkpointed, CallUnlock: Locked}
	to := map[Call]ProcessState{CallLock: Locked, CallCheckpoint: Checkpointed, CallRestore: Locked, CallUnlock: Running}
	switch state, ok := f.states[r.PID]; {
	case !ok:
		a.Error = "CUDA_ERROR_INVALID_VALUE"
	case r.Call == CallState:
		a.State = state
	case state != from[r.Call]:
		a.Error = "CUDA_ERROR_ILLEGAL_STATE"
	default:
		f.states[r.PID] = to[r.Call]
	}
}

// host is a file system that tells of memory.
func host(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func roomy(t *testing.T) string {
	return host(t, map[string]string{"proc/meminfo": "MemTotal: 134217728 kB\nMemAvailable:   104857600 kB\n"}) // 100 GiB
}

// reading is a snapshot of now with one card, and what holds its memory in GiB.
func reading(holders map[int]int64) Snapshot {
	c := Reading{UUID: "GPU-a", Processes: []Process{}}
	used := int64(0)
	for _, pid := range slices.Sorted(maps.Keys(holders)) {
		n := holders[pid] << 30
		used += n
		c.Processes = append(c.Processes, Process{PID: pid, Memory: &n})
	}
	c.MemoryUsed = &used
	return Snapshot{State: State{Source: Helper}, At: time.Now(), Cards: []Reading{c}}
}

// TestCheckpoint: those that hold memory are taken off the card, all before any that
// follows is let go, and put back, step by step.
func TestCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCUDA{states: map[int]ProcessState{7: Running, 8: Running, 9: Running}}
		s := reading(map[int]int64{7: 20, 8: 4, 99: 10})
		c := newCheckpointer(func() Snapshot { return s }, f.start, roomy(t))
		var laps []string
		lap := func(name string) { laps = append(laps, name) }
		if err := c.Checkpoint(t.Context(), []int{5, 7, 8, 9}, lap); err != nil {
			t.Fatal(err)
		}
		if f.states[7] != Checkpointed || f.states[8] != Checkpointed || f.states[9] != Running {
			t.Errorf("states %v", f.states)
		}
		if err := c.Restore(t.Context(), []int{5, 7, 8, 9}, lap); err != nil {
			t.Fatal(err)
		}
		want := "state 7, state 8, lock 7, lock 8, checkpoint 7, checkpoint 8, restore 7, restore 8, unlock 7, unlock 8"
		if got := strings.Join(f.calls, ", "); got != want || f.starts != 1 {
			t.Errorf("calls %s by %d helpers, want %s by one", got, f.starts, want)
		}
		if got := strings.Join(laps, " "); got != "state lock checkpoint restore unlock" {
			t.Errorf("laps %s", got)
		}
		if err := c.Restore(t.Context(), []int{7, 8}, lap); err == nil {
			t.Error("restored what is not off the card")
		}
		c.Close()
		if !f.running[0].killed {
			t.Error("the helper is left behind")
		}
	})
}

// TestCheckpointFindsTheOwners: where the readings list none of the engine's, as in a
// container, the driver is asked of each; where they list one without its memory, the
// card's bounds it.
func TestCheckpointFindsTheOwners(t *testing.T) {
	for _, c := range []struct {
		name     string
		snapshot Snapshot
		want     string
	}{
		{"other numbers", reading(map[int]int64{70: 20}), "state 5, state 7, lock 7, checkpoint 7"},
		{"no memory", reading(map[int]int64{7: 0}), "state 7, lock 7, checkpoint 7"},
		{"no list", func() Snapshot { s := reading(nil); s.Cards[0].Processes = nil; return s }(), "state 5, state 7, lock 7, checkpoint 7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fakeCUDA{states: map[int]ProcessState{7: Running}}
			c.snapshot.At = time.Now()
			p := newCheckpointer(func() Snapshot { return c.snapshot }, f.start, roomy(t))
			if err := p.Checkpoint(t.Context(), []int{5, 7}, func(string) {}); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(f.calls, ", "); got != c.want {
				t.Errorf("calls %s, want %s", got, c.want)
			}
		})
	}
}

// TestCheckpointRefusals: what cannot go well is refused with its figures, before any
// process is touched.
func TestCheckpointRefusals(t *testing.T) {
	with := func(change func(*Snapshot)) Snapshot {
		s := reading(map[int]int64{7: 20})
		change(&s)
		return s
	}
	same := func(*Snapshot) {}
	for _, c := range []struct {
		name     string
		snapshot Snapshot
		files    map[string]string
		state    ProcessState
		want     string
	}{
		{"stale", with(func(s *Snapshot) { s.State = State{None, "helper: gone"} }), nil, Running,
			"the cards are not read, so what the engine holds is not known: helper: gone"},
		{"two cards", with(func(s *Snapshot) {
			second := s.Cards[0]
			second.UUID = "GPU-b"
			s.Cards = append(s.Cards, second)
		}), nil, Running, "the engine uses 2 cards: it can be taken off one only"},
		{"one of two cards, nobody knows which", with(func(s *Snapshot) {
			s.Cards[0].Processes = nil
			s.Cards = append(s.Cards, s.Cards[0])
		}), nil, Running, "there are 2 cards, and which of them the engine uses is not seen: it can be taken off one only"},
		{"nothing known", with(func(s *Snapshot) { s.Cards[0].Processes, s.Cards[0].MemoryUsed = nil, nil }), nil, Running,
			"what the engine holds of the GPU is not known"},
		{"no room", with(same), map[string]string{"proc/meminfo": "MemAvailable: 20971520 kB\n"}, Running,
			"the engine holds 20.0 GiB of the GPU, and the host has room for 19.0 GiB: 20.0 GiB by MemAvailable, less 1.0 GiB for everybody else"},
		{"no room for the card", with(func(s *Snapshot) { s.Cards[0].Processes[0].Memory = nil }), map[string]string{"proc/meminfo": "MemAvailable: 10485760 kB\n"}, Running,
			"all processes hold 20.0 GiB of the GPU, and the host has room for 9.0 GiB: 10.0 GiB by MemAvailable, less 1.0 GiB for everybody else"},
		{"no room in the group", with(same), map[string]string{
			"proc/meminfo":                       "MemAvailable: 104857600 kB\n",
			"proc/self/cgroup":                   "0::/box/pod\n",
			"sys/fs/cgroup/box/memory.max":       "17179869184\n", // 16 GiB
			"sys/fs/cgroup/box/memory.current":   "8589934592\n",  // 8 GiB, of which 2 are files
			"sys/fs/cgroup/box/memory.stat":      "anon 1\nactive_file 1073741824\ninactive_file 1073741824\n",
			"sys/fs/cgroup/box/pod/memory.max":   "max\n",
			"sys/fs/cgroup/box/pod/memory.usage": "0\n",
		}, Running, "the engine holds 20.0 GiB of the GPU, and the host has room for 9.0 GiB: 10.0 GiB by the control group's limit, less 1.0 GiB for everybody else"},
		{"no word of the host", with(same), map[string]string{}, Running, "read the host's free memory"},
		{"locked by somebody", with(same), nil, Locked, "process 7 is locked already"},
		{"broken before", with(same), nil, Failed, "process 7 is failed already"},
		{"no process", with(func(s *Snapshot) { s.Cards[0].Processes = []Process{} }), nil, "", "no process of the engine uses the GPU"},
		{"a listed one that CUDA does not know", with(same), nil, "", "state process 7: CUDA_ERROR_INVALID_VALUE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fakeCUDA{states: map[int]ProcessState{}}
			if c.state != "" {
				f.states[7] = c.state
			}
			root := roomy(t)
			if c.files != nil {
				root = host(t, c.files)
			}
			c.snapshot.At = time.Now()
			p := newCheckpointer(func() Snapshot { return c.snapshot }, f.start, root)
			err := p.Checkpoint(t.Context(), []int{7}, func(lap string) { t.Errorf("lap %s", lap) })
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("Checkpoint = %v, want %s", err, c.want)
			}
			for _, call := range f.calls {
				if !strings.HasPrefix(call, "state ") {
					t.Errorf("called %s", call)
				}
			}
		})
	}
}

// TestCheckpointRollsBack: whatever step fails, hangs or kills the helper, all
// processes run as before, and the error says what failed; or it says that they don't.
func TestCheckpointRollsBack(t *testing.T) {
	for _, c := range []struct {
		at, how string
		want    string // the error
		undone  string // the calls after the failed one
		starts  int
	}{
		{"lock 7", "fail", "lock process 7: CUDA_ERROR_NOT_SUPPORTED; rolled back", "state 7, state 8", 1},
		{"lock 8", "fail", "lock process 8: CUDA_ERROR_NOT_SUPPORTED; rolled back", "state 7, unlock 7, state 8", 1},
		{"checkpoint 7", "fail", "checkpoint process 7: CUDA_ERROR_NOT_SUPPORTED; rolled back", "state 7, unlock 7, state 8, unlock 8", 1},
		{"checkpoint 8", "fail", "checkpoint process 8: CUDA_ERROR_NOT_SUPPORTED; rolled back", "state 7, restore 7, unlock 7, state 8, unlock 8", 1},
		{"lock 8", "hang", "lock process 8: the helper gave no answer in 20s and was killed; rolled back", "state 7, unlock 7, state 8", 2},
		{"checkpoint 8", "hang", "checkpoint process 8: the helper gave no answer in 10m0s and was killed; rolled back", "state 7, restore 7, unlock 7, state 8, unlock 8", 2},
		{"checkpoint 7", "die", "checkpoint process 7: the helper ended: signal: aborted; rolled back", "state 7, unlock 7, state 8, unlock 8", 2},
	} {
		t.Run(c.how+" at "+c.at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeCUDA{states: map[int]ProcessState{7: Running, 8: Running}, trouble: map[string]string{c.at: c.how}}
				s := reading(map[int]int64{7: 1, 8: 1})
				p := newCheckpointer(func() Snapshot { return s }, f.start, roomy(t))
				defer p.Close()
				err := p.Checkpoint(t.Context(), []int{7, 8}, func(string) {})
				if err == nil || err.Error() != c.want {
					t.Errorf("Checkpoint = %v, want %s", err, c.want)
				}
				at := slices.Index(f.calls, c.at)
				if got := strings.Join(f.calls[at+1:], ", "); got != c.undone || f.starts != c.starts {
					t.Errorf("then %s by %d helpers, want %s by %d", got, f.starts, c.undone, c.starts)
				}
				if f.states[7] != Running || f.states[8] != Running {
					t.Errorf("states %v", f.states)
				}
				if err := p.Restore(t.Context(), []int{7, 8}, func(string) {}); err == nil {
					t.Error("restored what was rolled back")
				}
				clear(f.trouble)
				s.At = time.Now()
				if err := p.Checkpoint(t.Context(), []int{7, 8}, func(string) {}); err != nil {
					t.Errorf("the next Checkpoint = %v", err)
				}
			})
		})
	}
}

// TestCheckpointWithoutWayBack: what cannot be rolled back is said.
func TestCheckpointWithoutWayBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCUDA{states: map[int]ProcessState{7: Running}, trouble: map[string]string{"checkpoint 7": "fail", "unlock 7": "fail"}}
		p := newCheckpointer(func() Snapshot { return reading(map[int]int64{7: 1}) }, f.start, roomy(t))
		defer p.Close()
		const want = "checkpoint process 7: CUDA_ERROR_NOT_SUPPORTED; not rolled back: unlock process 7: CUDA_ERROR_NOT_SUPPORTED"
		if err := p.Checkpoint(t.Context(), []int{7}, func(string) {}); err == nil || err.Error() != want {
			t.Errorf("Checkpoint = %v, want %s", err, want)
		}

		// Whoever gives up waiting ends the processes: nothing is undone, and at once.
		f.states[7], f.trouble = Running, map[string]string{"checkpoint 7": "hang"}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("not done after 1m"))
		defer cancel()
		began := time.Now()
		const given = "checkpoint process 7: not done after 1m; not rolled back: no time is left"
		if err := p.Checkpoint(ctx, []int{7}, func(string) {}); err == nil || err.Error() != given || time.Since(began) != time.Minute {
			t.Errorf("Checkpoint = %v after %s, want %s", err, time.Since(began), given)
		}
	})
}

// TestRestoreFails: the error of each step, and no second attempt.
func TestRestoreFails(t *testing.T) {
	for _, c := range []struct{ at, how, want string }{
		{"restore 7", "fail", "restore process 7: CUDA_ERROR_NOT_SUPPORTED"},
		{"restore 7", "hang", "restore process 7: the helper gave no answer in 10m0s and was killed"},
		{"unlock 7", "hang", "unlock process 7: the helper gave no answer in 10s and was killed"},
		{"unlock 7", "die", "unlock process 7: the helper ended: signal: aborted"},
	} {
		t.Run(c.how+" at "+c.at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeCUDA{states: map[int]ProcessState{7: Running}, trouble: map[string]string{c.at: c.how}}
				p := newCheckpointer(func() Snapshot { return reading(map[int]int64{7: 1}) }, f.start, roomy(t))
				defer p.Close()
				if err := p.Checkpoint(t.Context(), []int{7}, func(string) {}); err != nil {
					t.Fatal(err)
				}
				if err := p.Restore(t.Context(), []int{7}, func(string) {}); err == nil || err.Error() != c.want {
					t.Errorf("Restore = %v, want %s", err, c.want)
				}
			})
		})
	}
}

// TestAHelperStuckInTheDriver is never joined by another one.
func TestAHelperStuckInTheDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCUDA{states: map[int]ProcessState{7: Running}, trouble: map[string]string{"lock 7": "hang"}, deaf: true}
		p := newCheckpointer(func() Snapshot { return reading(map[int]int64{7: 1}) }, f.start, roomy(t))
		defer p.Close()
		try := func(want string) {
			t.Helper()
			err := p.Checkpoint(t.Context(), []int{7}, func(string) {})
			if err == nil || err.Error() != want {
				t.Errorf("Checkpoint = %v, want %s", err, want)
			}
		}
		const stuck = "it hangs in the driver and cannot be killed"
		try("lock process 7: the helper gave no answer in 20s and was killed; " + stuck + "; not rolled back: state process 7: no helper: the last one: " + stuck)
		try("state process 7: no helper: the last one: " + stuck)
		if f.starts != 1 {
			t.Errorf("%d helpers were started", f.starts)
		}
		f.running[0].exit()
		clear(f.trouble)
		f.deaf = false
		if err := p.Checkpoint(t.Context(), []int{7}, func(string) {}); err != nil || f.starts != 2 {
			t.Errorf("Checkpoint after it has gone = %v, %d starts", err, f.starts)
		}
	})
}

// TestAHelperThatDiedIdle is replaced without a word.
func TestAHelperThatDiedIdle(t *testing.T) {
	f := &fakeCUDA{version: firstCUDA, states: map[int]ProcessState{7: Running}}
	p := newCheckpointer(func() Snapshot { return reading(map[int]int64{7: 1}) }, f.start, roomy(t))
	defer p.Close()
	if err := p.Available(); err == nil {
		t.Error("available before anybody asked")
	}
	if err := p.Probe(t.Context()); err != nil || p.Available() != nil {
		t.Fatalf("Probe = %v, Available = %v", err, p.Available())
	}
	f.running[0].exit()
	if err := p.Checkpoint(t.Context(), []int{7}, func(string) {}); err != nil || f.starts != 2 {
		t.Errorf("Checkpoint = %v, %d starts", err, f.starts)
	}
}

func TestParseAnswer(t *testing.T) {
	for _, c := range []struct {
		line string
		r    Request
		ok   bool
	}{
		{`{"call":"lock","pid":7}`, Request{Call: CallLock, PID: 7}, true},
		{`{"call":"lock","pid":8}`, Request{Call: CallLock, PID: 7}, false},
		{`{"call":"unlock","pid":7}`, Request{Call: CallLock, PID: 7}, false},
		{`{"call":"state","pid":7}`, Request{Call: CallState, PID: 7}, false},
		{`{"call":"state","pid":7,"state":"running"}`, Request{Call: CallState, PID: 7}, true},
		{`{"call":"state","pid":7,"error":"no"}`, Request{Call: CallState, PID: 7}, true},
		{`{"call":"open"}`, Request{Call: CallOpen}, false},
		{`{"call":"open","cuda":12080}`, Request{Call: CallOpen}, true},
		{`{"call":"open","cuda":12080} {}`, Request{Call: CallOpen}, false},
		{`{"call":"open","cuda":12080,"more":1}`, Request{Call: CallOpen}, false},
		{`oops`, Request{Call: CallOpen}, false},
	} {
		if _, err := parseAnswer([]byte(c.line), c.r); (err == nil) != c.ok {
			t.Errorf("parseAnswer(%s) to %+v: %v", c.line, c.r, err)
		}
	}
	for _, line := range []string{`{"call":"nap","pid":7}`, `{"call":"lock","pid":7}`, `{"call":"state"}`, `{"call":"open","pid":7}`, `{"call":"state","pid":7,"timeout_ms":1}`, `{}`} {
		if r, err := ParseRequest([]byte(line)); err == nil {
			t.Errorf("ParseRequest(%s) = %+v", line, r)
		}
	}
}
