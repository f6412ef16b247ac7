package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/server/queue"
)

// TestRandomLives lets random clients, crashes, suspensions, failing drivers and
// shutdowns loose on the state machine, in simulated time. What must hold:
//
//   - there are never two engines at once, and none after Run has returned;
//   - the engine is never suspended under a request;
//   - every request is admitted or refused, once, within the bound;
//   - each transition follows on the one before, and is one that may be.
//
// SPOTINFERENCE_TEST_LIVES sets how many lives there are; a failure prints its seed.
func TestRandomLives(t *testing.T) {
	lives := 10_000
	if testing.Short() {
		lives = 500
	}
	if n, err := strconv.Atoi(os.Getenv("SPOTINFERENCE_TEST_LIVES")); err == nil {
		lives = n
	}
	// One share of the seeds for each core.
	shares := make([]outcomes, runtime.GOMAXPROCS(0))
	t.Run("share", func(t *testing.T) {
		for i := range shares {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(t.TempDir(), "run") // made once: it costs more than a life
				for seed := i; seed < lives; seed += len(shares) {
					synctest.Test(t, func(t *testing.T) { randomLife(t, dir, uint64(seed), &shares[i]) })
					if t.Failed() {
						t.Fatalf("seed %d", seed)
					}
				}
			})
		}
	})
	var seen outcomes
	for _, s := range shares {
		seen.add(s)
	}
	t.Logf("%d lives: %+v", lives, seen)
	var states []ledger.EngineState
	for _, row := range ledger.EngineStates() {
		states = append(states, row.Name)
	}
	slices.Sort(states)
	if known := slices.Sorted(maps.Keys(mayFollow)); !slices.Equal(known, states) {
		t.Errorf("the states are %v, and transitions known of %v", states, known)
	}
	if seen.In == 0 || seen.Left == 0 || seen.Full == 0 || seen.Late == 0 || seen.NotReady == 0 || seen.Woken == 0 || seen.Escalated == 0 || seen.NoWake == 0 || seen.Asked == 0 || seen.Busy == 0 {
		t.Errorf("some kind of story was never told")
	}
}

// outcomes counts what happened in all lives.
type outcomes struct {
	In, Left, Full, Late, NotReady        int // how Admit ended
	Woken, Escalated, NoWake, Asked, Busy int
}

func (o *outcomes) add(p outcomes) {
	o.In += p.In
	o.Left += p.Left
	o.Full += p.Full
	o.Late += p.Late
	o.NotReady += p.NotReady
	o.Woken += p.Woken
	o.Escalated += p.Escalated
	o.NoWake += p.NoWake
	o.Asked += p.Asked
	o.Busy += p.Busy
}

// world is all that an engine touches, simulated.
type world struct {
	t    *testing.T
	seed uint64

	mu      sync.Mutex
	rng     *rand.Rand
	alive   int  // engine processes
	asleep  bool // suspended while the process lives
	inside  int  // clients between Admit and Release
	crashes bool // whether processes die by themselves
	flaky   float64
}

func (w *world) chance(p float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.Float64() < p
}

func (w *world) upTo(d time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.rng.Int64N(int64(d)) + 1)
}

func (w *world) errorf(format string, args ...any) {
	w.t.Helper()
	w.t.Errorf("seed %d: "+format, append([]any{w.seed}, args...)...)
}

// actor is a simulated process.
type actor struct {
	w    *world
	told chan report
	end  sync.Once
	dead chan struct{}
}

func (w *world) spawn(plan) (process, error) {
	w.mu.Lock()
	w.alive++
	if w.alive != 1 {
		w.errorf("%d engines at once", w.alive)
	}
	w.asleep = false
	w.mu.Unlock()
	a := &actor{w: w, told: make(chan report, 4), dead: make(chan struct{})}
	go func() {
		time.Sleep(w.upTo(100 * time.Millisecond))
		if w.chance(w.flaky / 4) {
			a.die(report{word: reportExited, rest: "1"})
			return
		}
		a.told <- report{word: reportStarted, rest: "7"}
		if w.crashes && w.chance(0.5) {
			select {
			case <-time.After(w.upTo(time.Hour)):
				a.die(report{word: reportSignaled, rest: "9"})
			case <-a.dead:
			}
		}
	}()
	return a, nil
}

func (a *actor) die(r report) {
	a.end.Do(func() {
		close(a.dead)
		a.told <- r
	})
}

func (a *actor) reports() <-chan report { return a.told }
func (a *actor) progress() int64        { return 0 }
func (a *actor) print(io.Writer)        {}

func (a *actor) await(limit time.Duration) (report, bool) {
	timeout := time.After(limit)
	for {
		select {
		case r := <-a.told:
			if r.ending() != "" {
				return r, true
			}
		case <-timeout:
			return report{}, false
		}
	}
}

func (a *actor) stop(grace time.Duration) report {
	if a.w.chance(0.8) {
		time.AfterFunc(a.w.upTo(grace), func() { a.die(report{word: reportExited, rest: "0"}) })
	}
	if r, ok := a.await(grace); ok {
		return r
	}
	return a.kill()
}

func (a *actor) kill() report {
	a.die(report{word: reportSignaled, rest: "9"})
	r, ok := a.await(time.Second)
	if !ok {
		r.lost = true
	}
	return r
}

func (a *actor) close(report) int {
	a.die(report{lost: true})
	time.Sleep(a.w.upTo(10 * time.Millisecond))
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	a.w.alive--
	return 0
}

// fakeMethod suspends the simulated engine.
type fakeMethod struct {
	w *world
	m Method
}

func (r *fakeMethod) name() Method { return r.m }

func (r *fakeMethod) step(ctx context.Context, lap func(string), asleep bool) error {
	d := r.w.upTo(3 * time.Second)
	if r.w.chance(r.w.flaky / 2) {
		d = 24 * time.Hour // it hangs
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.w.chance(r.w.flaky / 2) {
		return errors.New("the driver says no")
	}
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	if asleep && r.w.inside > 0 {
		r.w.errorf("suspended under %d requests", r.w.inside)
	}
	r.w.asleep = asleep
	lap(fmt.Sprint(r.m))
	return nil
}

func (r *fakeMethod) suspend(ctx context.Context, lap func(string)) error {
	return r.step(ctx, lap, true)
}
func (r *fakeMethod) wake(ctx context.Context, lap func(string)) error {
	return r.step(ctx, lap, false)
}

// mayFollow are the transitions that there are.
var mayFollow = map[ledger.EngineState][]ledger.EngineState{
	ledger.Stopped:    {ledger.Starting},
	ledger.Starting:   {ledger.Ready, ledger.Crashed, ledger.Stopped, ledger.Starting},
	ledger.Ready:      {ledger.Suspending, ledger.Crashed, ledger.Stopped},
	ledger.Suspending: {ledger.Suspended, ledger.Stopped},
	ledger.Suspended:  {ledger.Waking, ledger.Starting, ledger.Stopped, ledger.Suspended},
	ledger.Waking:     {ledger.Ready, ledger.Starting, ledger.Stopped},
	ledger.Crashed:    {ledger.Starting, ledger.Stopped},
}

func randomLife(t *testing.T, dir string, seed uint64, seen *outcomes) {
	w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1))}
	w.crashes = w.chance(0.5)
	if w.chance(0.5) {
		w.flaky = 0.3
	}
	last := ledger.Stopped
	e, err := New(Config{
		Command: []string{"/bin/true"}, Env: []string{}, Kind: queue.Llama, Dir: dir, Suspend: Auto,
		Idle: w.upTo(20 * time.Minute), SuspendTimeout: w.upTo(5 * time.Minute), WakeTimeout: w.upTo(5 * time.Minute),
		StartTimeout: w.upTo(30 * time.Minute), WakeQueue: 1 + int(w.upTo(8)), Stderr: io.Discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	e.spawn = w.spawn
	e.methods = nil
	if w.chance(0.7) {
		e.methods = append(e.methods, &fakeMethod{w, Sleep})
	}
	if w.chance(0.5) {
		e.methods = append(e.methods, &fakeMethod{w, Checkpoint})
	}
	e.awaitHealth = func(ctx context.Context) error {
		d := w.upTo(2 * time.Minute)
		if w.chance(w.flaky / 4) {
			d = 24 * time.Hour
		}
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.canary = func(ctx context.Context) (Usage, error) {
		if w.chance(w.flaky / 2) {
			return Usage{}, errors.New("the canary is not answered")
		}
		return Usage{1, 1}, nil
	}

	e.reachEvery = 7 * time.Minute
	e.reach = func(context.Context, bool) error {
		if w.crashes && w.chance(w.flaky/30) {
			return errSocketGone
		}
		return nil
	}

	ctx, shutdown := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	hooks := Hooks{
		OnTransition: func(tr Transition) {
			if tr.From != last || !slices.Contains(mayFollow[tr.From], tr.To) || tr.At.IsZero() || tr.Cause == "" {
				w.errorf("transition %+v after %s", tr, last)
			}
			last = tr.To
			switch {
			case tr.To == ledger.Ready && tr.Waiters > 0:
				seen.Woken++
			case tr.To == ledger.Suspended && strings.HasPrefix(tr.Cause, causeEscalate):
				seen.Escalated++
			case tr.To == ledger.Starting && strings.HasPrefix(tr.Cause, causeWakeFailed):
				seen.NoWake++
			}
		},
	}
	go func() { ran <- e.Run(ctx, hooks) }()

	var wg sync.WaitGroup
	for range 1 + w.upTo(40) {
		at := w.upTo(3 * time.Hour)
		if w.chance(0.5) {
			at = at.Truncate(20 * time.Minute) // together
		}
		stay, patience := w.upTo(2*time.Minute), w.upTo(10*time.Minute)
		wg.Go(func() {
			time.Sleep(at)
			w.client(e, stay, patience, seen)
		})
	}
	for range w.upTo(4) {
		at := w.upTo(3 * time.Hour)
		wg.Go(func() {
			time.Sleep(at)
			err := e.Suspend(context.Background())
			w.mu.Lock()
			defer w.mu.Unlock()
			if errors.Is(err, ErrBusy) {
				seen.Busy++
			} else if err == nil {
				seen.Asked++
			}
		})
	}
	time.Sleep(w.upTo(4 * time.Hour))
	shutdown()
	stopped := time.Now()
	err = <-ran
	if d := time.Since(stopped); d > time.Minute {
		w.errorf("Run returned %s after it was told to", d)
	}
	if err != nil && (hint.Of(err) == "" || !strings.Contains(err.Error(), "never ready")) {
		w.errorf("Run = %v", err)
	}
	if last != ledger.Stopped {
		w.errorf("the last transition is to %s", last)
	}
	wg.Wait() // late clients are refused
	if inside, waiting := e.Load(); waiting != 0 || inside != 0 || w.alive != 0 || w.inside != 0 {
		w.errorf("left behind: %d waiters, %d and %d inside, %d processes", waiting, inside, w.inside, w.alive)
	}
}

// client is one request: it is admitted, stays for a while and is released, or gives up.
func (w *world) client(e *Engine, stay, patience time.Duration, seen *outcomes) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	came := time.Now()
	err := e.Admit(ctx)
	waited := time.Since(came)

	w.mu.Lock()
	switch {
	case err == nil:
		seen.In++
		w.inside++
		if w.asleep {
			w.errorf("admitted while the engine is suspended")
		}
	case errors.Is(err, queue.ErrFull):
		seen.Full++
	case errors.Is(err, queue.ErrWakeTimeout):
		seen.Late++
		// What lets go in a minute and starts in two is never waited for longer.
		if w.flaky == 0 && !w.crashes && e.cfg.WakeTimeout > 4*time.Minute {
			w.errorf("waited for %s in vain for an engine that nothing ails", waited)
		}
	case errors.Is(err, queue.ErrNotReady):
		seen.NotReady++
	case errors.Is(err, context.DeadlineExceeded):
		seen.Left++
	default:
		w.errorf("Admit = %v", err)
	}
	w.mu.Unlock()
	if most := min(patience, e.cfg.WakeTimeout); waited > most {
		w.errorf("waited %s, at most %s", waited, most)
	}
	if err != nil {
		return
	}
	time.Sleep(stay)
	w.mu.Lock()
	w.inside--
	w.mu.Unlock()
	e.Release(true)
}
