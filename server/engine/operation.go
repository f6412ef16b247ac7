package engine

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// operation is what a state waits for, beside everything else that may happen: one at a
// time, in a goroutine of its own.
type operation struct {
	began time.Time
	done  <-chan outcome // gets one, unless stopped before
	stop  func()         // ends it and waits for its goroutine; may be called again
}

// outcome is how an operation ended.
type outcome struct {
	phases []Phase
	usage  Usage
	err    error
}

// task is what an operation does. It calls lap at the end of each phase with the phase's
// name, and returns soon after ctx ends.
type task func(ctx context.Context, lap func(string)) (Usage, error)

// startOperation starts do. It fails past limit, where that is not zero.
func (e *Engine) startOperation(ctx context.Context, limit time.Duration, do task) operation {
	ctx, cancel := context.WithCancel(ctx)
	expire := func() {}
	if limit > 0 {
		ctx, expire = context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done after %s", limit))
	}
	began := time.Now()
	done := make(chan outcome, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		defer cancel()
		defer expire()
		var out outcome
		last := began
		out.usage, out.err = do(ctx, func(name string) {
			now := time.Now()
			out.phases = append(out.phases, Phase{name, now.Sub(last)})
			last = now
		})
		if ctx.Err() != nil && errors.Is(out.err, ctx.Err()) {
			out.err = context.Cause(ctx)
		}
		done <- out
	}()
	return operation{began, done, func() { cancel(); <-over }}
}

// readyTask waits for the engine's health, and for its canary where requests wait.
func (e *Engine) readyTask(canary bool) task {
	return func(ctx context.Context, lap func(string)) (usage Usage, err error) {
		if err := e.awaitHealth(ctx); err != nil {
			return usage, err
		}
		lap("load")
		if !canary {
			return usage, nil
		}
		return e.runCanary(ctx, lap)
	}
}

func (e *Engine) runCanary(ctx context.Context, lap func(string)) (Usage, error) {
	usage, err := e.canary(ctx)
	if err != nil {
		return usage, fmt.Errorf("canary: %w", err)
	}
	lap("canary")
	return usage, nil
}

const (
	releaseTimeout = 10 * time.Second // for the memory of the GPU to be seen as free
	releaseEvery   = 50 * time.Millisecond
	// What may be left of the engine on the GPU while it sleeps: its CUDA context,
	// 0.9 to 1.2 GiB (vllm #11743, #28714).
	sleepResidue = 2 << 30
)

// suspendTask suspends by m and checks that the memory is free, where that can be seen.
func (e *Engine) suspendTask(m suspendMethod) task {
	return func(ctx context.Context, lap func(string)) (Usage, error) {
		seen := e.seesMemory(ctx, lap)
		if err := m.suspend(ctx, lap); err != nil || !seen {
			return Usage{}, err
		}
		most := int64(0)
		if m.name() == Sleep {
			most = sleepResidue
		}
		if err := e.awaitRelease(ctx, most); err != nil {
			return Usage{}, err
		}
		lap("release")
		return Usage{}, nil
	}
}

// seesMemory reports whether it will be seen that the engine frees the GPU. A reading by
// which it holds nothing while it runs is of other processes than ours: the pids of a
// container are not the host's.
func (e *Engine) seesMemory(ctx context.Context, lap func(string)) bool {
	if e.cfg.GPUMemory == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	held, err := e.cfg.GPUMemory(ctx, e.pids())
	lap("look")
	switch {
	case err != nil:
		e.cfg.Log.Info("whether the engine lets go of the GPU will not be seen", "why", err)
	case held == 0:
		e.cfg.Log.Info("whether the engine lets go of the GPU will not be seen", "why", "it is not seen to hold any of it")
	}
	return err == nil && held > 0
}

// awaitRelease waits until the engine holds at most so many bytes of the GPU. What was
// seen to be held must be seen to be gone: not to know is a failure.
func (e *Engine) awaitRelease(ctx context.Context, most int64) error {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	last := errors.New("the GPU was not read")
	for {
		switch held, err := e.cfg.GPUMemory(ctx, e.pids()); {
		case err == nil && held <= most:
			return nil
		case err == nil:
			last = fmt.Errorf("it still holds %d MiB of the GPU", held>>20)
		case ctx.Err() == nil:
			last = fmt.Errorf("that it let go of the GPU was not seen: %w", err)
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(releaseEvery):
		}
	}
}

// wakeTask wakes by m. The canary must be answered then.
func (e *Engine) wakeTask(m suspendMethod) task {
	return func(ctx context.Context, lap func(string)) (Usage, error) {
		if err := m.wake(ctx, lap); err != nil {
			return Usage{}, err
		}
		return e.runCanary(ctx, lap)
	}
}

// pids are the processes of the engine, the leader first.
func (e *Engine) pids() []int {
	leader := e.Status().PID
	if leader == 0 {
		return nil
	}
	pids := []int{leader}
	all, err := processes()
	if err != nil {
		return pids
	}
	for _, p := range descendants(all, leader) {
		pids = append(pids, p.pid)
	}
	return pids
}
