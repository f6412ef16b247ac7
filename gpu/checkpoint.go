package gpu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// firstCUDA is the first version of the driver's API that has the calls: CUDA
	// 12.8, driver 570 (README of NVIDIA/cuda-checkpoint, cuda.h). Engines on PyTorch
	// were refused by drivers before 575.57.08 all the same ("operation not
	// supported", cuda-checkpoint #34): that shows at the call.
	firstCUDA = 12080

	// hostReserve of the host's memory is left to everybody else: what the kernel
	// says is available is an estimate.
	hostReserve = 1 << 30

	openTime = 30 * time.Second // the driver may wake every card first
	askTime  = 10 * time.Second // for what moves no memory
	lockTime = 10 * time.Second // for work that was submitted: nobody is inside, so it is short
	undoTime = time.Minute      // for all that takes a step back

	// moveTime is for one process's memory, where the engine does not wait for less:
	// 80 GB took 15 s (cuda-checkpoint #29).
	moveTime = 10 * time.Minute
)

// Checkpointer moves what CUDA processes hold of a card into the host's memory, and
// back, by the driver's own calls. They are made by a run of the helper that does
// nothing else, and is kept: a driver that is loaded anew costs seconds of a wake.
// One that hangs or dies is an error in bounded time, and the next call starts
// another. It is made by NewCheckpointer; Close ends the helper.
type Checkpointer struct {
	latest func() Snapshot
	start  func() (process, error)
	root   string                // of the file system that tells the host's memory
	able   atomic.Pointer[error] // why it cannot work, what points to nil where it can

	mu    sync.Mutex      // held for a whole operation: there is one at a time
	p     process         // nil while none runs; guarded by mu
	stuck <-chan struct{} // closed when one that could not be killed has gone; guarded by mu
	taken []int           // who is off the card; guarded by mu
}

// NewCheckpointer starts nothing. latest gives the readings that say who holds what of
// which card: Monitor.Latest.
func NewCheckpointer(latest func() Snapshot) *Checkpointer {
	return newCheckpointer(latest, func() (process, error) { return startHelper(CheckpointRole) }, "/")
}

func newCheckpointer(latest func() Snapshot, start func() (process, error), root string) *Checkpointer {
	c := &Checkpointer{latest: latest, start: start, root: root}
	notAsked := errors.New("the driver was not asked yet")
	c.able.Store(&notAsked)
	return c
}

// Available says, at once, why processes cannot be suspended here; nil where they can.
func (c *Checkpointer) Available() error { return *c.able.Load() }

// Probe asks the driver whether it can, which Available says from then on.
func (c *Checkpointer) Probe(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.open(ctx)
	c.able.Store(&err)
	if err != nil {
		c.stop()
	}
	return err
}

func (c *Checkpointer) open(ctx context.Context) error {
	a, err := c.ask(ctx, Request{Call: CallOpen}, openTime)
	switch {
	case err != nil:
		return err
	case a.CUDA == 0:
		return errors.New(a.Error)
	case a.CUDA < firstCUDA:
		return fmt.Errorf("not supported by this driver: it has CUDA %s, and the calls came with CUDA %s (driver 570)", cudaVersion(a.CUDA), cudaVersion(firstCUDA))
	case a.Error != "":
		return fmt.Errorf("not supported by this driver (CUDA %s): %s", cudaVersion(a.CUDA), a.Error)
	}
	return nil
}

// cudaVersion writes cuDriverGetVersion's number: 1000 × major + 10 × minor.
func cudaVersion(n int) string { return fmt.Sprintf("%d.%d", n/1000, n%1000/10) }

// Checkpoint takes those of pids that use the card off it: all, or none. Where it
// fails it puts back who was taken, and the error says whether that succeeded. It
// calls lap at the end of each step.
func (c *Checkpointer) Checkpoint(ctx context.Context, pids []int, lap func(string)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	owners, err := c.owners(ctx, pids)
	if err != nil {
		return err
	}
	lap(string(CallState))
	// All are locked before the first is taken: they may wait for each other's work.
	for _, step := range []struct {
		call  Call
		limit time.Duration
	}{{CallLock, lockTime + askTime}, {CallCheckpoint, moveTime}} {
		for _, pid := range owners {
			r := Request{Call: step.call, PID: pid}
			if step.call == CallLock {
				r.TimeoutMS = uint32(lockTime.Milliseconds())
			}
			if err := c.do(ctx, r, step.limit); err != nil {
				return fmt.Errorf("%w; %w", err, c.undo(ctx, owners))
			}
		}
		lap(string(step.call))
	}
	c.taken = owners
	return nil
}

// Restore puts those of pids that Checkpoint took back onto the card. Where it fails,
// they are not to be used any more.
func (c *Checkpointer) Restore(ctx context.Context, pids []int, lap func(string)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var owners []int
	for _, pid := range c.taken {
		if slices.Contains(pids, pid) {
			owners = append(owners, pid)
		}
	}
	if c.taken = nil; len(owners) == 0 {
		return errors.New("none of the engine's processes was taken off the GPU")
	}
	for _, step := range []struct {
		call  Call
		limit time.Duration
	}{{CallRestore, moveTime}, {CallUnlock, askTime}} {
		for _, pid := range owners {
			if err := c.do(ctx, Request{Call: step.call, PID: pid}, step.limit); err != nil {
				return err
			}
		}
		lap(string(step.call))
	}
	return nil
}

// owners finds those of pids that use the card, having seen that they can be taken
// off it and that there is room for what they hold. It changes nothing.
func (c *Checkpointer) owners(ctx context.Context, pids []int) ([]int, error) {
	s := c.latest()
	if !s.Fresh(time.Now()) {
		return nil, fmt.Errorf("the cards are not read, so what the engine holds is not known: %s", s.Reason)
	}
	h, err := s.holding(pids)
	listed := err == nil && len(h.pids) > 0
	switch {
	case listed && h.cards > 1:
		return nil, fmt.Errorf("the engine uses %d cards: it can be taken off one only", h.cards)
	case !listed && len(s.Cards) > 1:
		return nil, fmt.Errorf("there are %d cards, and which of them the engine uses is not seen: it can be taken off one only", len(s.Cards))
	}
	need, whose := h.bytes, "the engine holds"
	if !listed || need == 0 {
		// Then what everybody holds is known: it cannot hold more.
		used := s.cardOf(h).MemoryUsed
		if used == nil {
			return nil, errors.New("what the engine holds of the GPU is not known")
		}
		need, whose = *used, "all processes hold"
	}
	free, err := hostRoom(c.root)
	if err != nil {
		return nil, err
	}
	if need > free.bytes-hostReserve {
		return nil, fmt.Errorf("%s %s of the GPU, and the host has room for %s: %s by %s, less %s for everybody else",
			whose, gib(need), gib(max(0, free.bytes-hostReserve)), gib(free.bytes), free.by, gib(hostReserve))
	}

	candidates := pids
	if listed {
		candidates = h.pids
	}
	var owners []int
	for _, pid := range candidates {
		state, err := c.state(ctx, pid)
		var refused *refusal
		switch {
		case errors.As(err, &refused) && !listed:
			continue // no process of CUDA's
		case err != nil:
			return nil, err
		case state != Running:
			return nil, fmt.Errorf("process %d is %s already", pid, state)
		}
		owners = append(owners, pid)
	}
	if len(owners) == 0 {
		return nil, errors.New("no process of the engine uses the GPU")
	}
	return owners, nil
}

// cardOf is the card that a holding is on, or the only one.
func (s Snapshot) cardOf(h holding) Reading {
	for _, c := range s.Cards {
		if slices.ContainsFunc(c.Processes, func(p Process) bool { return slices.Contains(h.pids, p.PID) }) {
			return c
		}
	}
	if len(s.Cards) == 1 {
		return s.Cards[0]
	}
	return Reading{}
}

func gib(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }

// undo brings processes back to where they ran, from whatever state a failed step
// left them in, if need be through another run of the helper. It returns an error
// also where that succeeded, which says so.
func (c *Checkpointer) undo(ctx context.Context, pids []int) error {
	if ctx.Err() != nil {
		// Who waited does so no more, and ends the processes.
		return errors.New("not rolled back: no time is left")
	}
	ctx, cancel := context.WithTimeout(ctx, undoTime)
	defer cancel()
	for _, pid := range pids {
		if err := c.undoOne(ctx, pid); err != nil {
			return fmt.Errorf("not rolled back: %w", err)
		}
	}
	return errors.New("rolled back")
}

func (c *Checkpointer) undoOne(ctx context.Context, pid int) error {
	state, err := c.state(ctx, pid)
	if err != nil {
		return err
	}
	var steps []Call
	switch state {
	case Running:
	case Locked:
		steps = []Call{CallUnlock}
	case Checkpointed:
		steps = []Call{CallRestore, CallUnlock}
	default:
		return fmt.Errorf("process %d is %s", pid, state)
	}
	for _, call := range steps {
		if err := c.do(ctx, Request{Call: call, PID: pid}, undoTime); err != nil {
			return err
		}
	}
	return nil
}

func (c *Checkpointer) state(ctx context.Context, pid int) (ProcessState, error) {
	a, err := c.ask(ctx, Request{Call: CallState, PID: pid}, askTime)
	if err == nil && a.Error != "" {
		err = &refusal{a}
	}
	return a.State, err
}

// do asks for what needs no answer but that it was done.
func (c *Checkpointer) do(ctx context.Context, r Request, limit time.Duration) error {
	a, err := c.ask(ctx, r, limit)
	if err == nil && a.Error != "" {
		err = &refusal{a}
	}
	return err
}

// refusal is the driver's answer that it did not do a call.
type refusal struct{ a Answer }

func (r *refusal) Error() string {
	return fmt.Sprintf("%s process %d: %s", r.a.Call, r.a.PID, r.a.Error)
}
