package engine

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// work is what Run waits for while it keeps its eyes on everything else: one at a
// time, in a goroutine of its own.
type work struct {
	began time.Time
	done  <-chan outcome // gets one, unless stopped before
	stop  func()         // ends it and waits for its goroutine; may be called again
}

// outcome is how work ended.
type outcome struct {
	phases []Phase
	usage  Usage
	err    error
}

// task does some work; it returns soon after ctx ends.
type task func(ctx context.Context, lap func(string)) (Usage, error)

// begin starts work. It fails past limit, where that is not zero.
func (e *Engine) begin(ctx context.Context, limit time.Duration, do task) work {
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
	return work{began, done, func() { cancel(); <-over }}
}

// getReady waits for the engine's health, and for its canary where somebody is to be
// let in on its word.
func (e *Engine) getReady(canary bool) task {
	return func(ctx context.Context, lap func(string)) (usage Usage, err error) {
		if err := e.health(ctx); err != nil {
			return usage, err
		}
		lap("load")
		if !canary {
			return usage, nil
		}
		return e.tryCanary(ctx, lap)
	}
}

func (e *Engine) tryCanary(ctx context.Context, lap func(string)) (Usage, error) {
	usage, err := e.canary(ctx)
	if err != nil {
		return usage, fmt.Errorf("canary: %w", err)
	}
	lap("canary")
	return usage, nil
}

const (
	releaseTime = 10 * time.Second // for the memory of the GPU to be seen as free
	releaseLook = 50 * time.Millisecond
	// What may be left of the engine on the GPU while it sleeps: its CUDA context,
	// 0.9 to 1.2 GiB (vllm #11743, #28714).
	sleepLeaves = 2 << 30
)

// letGo suspends by r and sees that the memory is free, where it can be seen.
func (e *Engine) letGo(r rung) task {
	return func(ctx context.Context, lap func(string)) (Usage, error) {
		seen := e.seesMemory(ctx, lap)
		if err := r.suspend(ctx, lap); err != nil || !seen {
			return Usage{}, err
		}
		most := int64(0)
		if r.method() == Sleep {
			most = sleepLeaves
		}
		if err := e.released(ctx, most); err != nil {
			return Usage{}, err
		}
		lap("release")
		return Usage{}, nil
	}
}

// seesMemory tells whether it will be seen that the engine lets go of the GPU. Who
// sees it hold nothing while it runs sees other processes than ours: the pids of a
// container are not the host's.
func (e *Engine) seesMemory(ctx context.Context, lap func(string)) bool {
	if e.cfg.GPUMemory == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
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

// released waits until the engine holds at most so many bytes of the GPU. What was seen
// to be held must be seen to be gone: not to know is a failure.
func (e *Engine) released(ctx context.Context, most int64) error {
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
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
		case <-time.After(releaseLook):
		}
	}
}

// takeBack wakes by r, and the canary must sing.
func (e *Engine) takeBack(r rung) task {
	return func(ctx context.Context, lap func(string)) (Usage, error) {
		if err := r.resume(ctx, lap); err != nil {
			return Usage{}, err
		}
		return e.tryCanary(ctx, lap)
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
