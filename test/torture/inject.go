package main

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"spotinference/billing/sim"
)

// inject makes the faults of a plan happen, each when it is due, and lifts them when
// they are over. It returns when the round's time is over, all lifted.
func (r *rig) inject(ctx context.Context, p plan, begun time.Time) (err error) {
	type step struct {
		at time.Duration
		do func()
	}
	var steps []step
	for i, f := range p.Faults {
		lift := func() {}
		steps = append(steps, step{f.At, func() {
			var done bool
			done, lift = r.begin(f, rand.New(rand.NewPCG(r.seed, uint64(p.N)<<8|uint64(i))), &err)
			r.tally.fault(f.Kind, done)
		}})
		if f.For > 0 {
			steps = append(steps, step{f.At + f.For, func() { lift() }})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return int(a.at - b.at) })
	steps = append(steps, step{p.For, func() {}})
	for _, s := range steps {
		// Also where ctx has ended: what was begun is lifted.
		if wait := time.Until(begun.Add(s.at)); wait > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
		s.do()
	}
	return err
}

// begin makes a fault happen. It is not done where there was nothing to hit. lift ends
// it; broken is set to a promise that was seen to be broken.
func (r *rig) begin(f fault, random *rand.Rand, broken *error) (done bool, lift func()) {
	lift = func() {}
	verb, target, _ := strings.Cut(f.Kind, " ")
	switch {
	case verb == "kill" || verb == "stop":
		p, ok := r.find(target)
		if !ok {
			return false, lift
		}
		if verb == "kill" {
			return syscall.Kill(p.pid, syscall.SIGKILL) == nil, lift
		}
		return syscall.Kill(p.pid, syscall.SIGSTOP) == nil, func() { _ = syscall.Kill(p.pid, syscall.SIGCONT) }
	case f.Kind == restart:
		return r.gateway.signal(syscall.SIGTERM), lift
	case f.Kind == diskFull:
		if r.noDisk != nil {
			return false, lift
		}
		ballast := filepath.Join(r.disk, "ballast")
		during := begin(&r.full)
		return fill(ballast) == nil, func() { os.Remove(ballast); during() }
	case strings.HasPrefix(f.Kind, provider):
		return r.lie(strings.TrimPrefix(f.Kind, provider), f.N)
	case f.Kind == midnight || f.Kind == rollover:
		day := r.world.now().Truncate(24 * time.Hour).Add(24 * time.Hour)
		if f.Kind == rollover {
			day = day.Add(36 * 24 * time.Hour)
		}
		r.world.to(day.Add(-2 * time.Second))
		return true, lift
	case f.Kind == clockBack || f.Kind == clockAhead:
		r.world.set(f.N)
		return true, func() { r.world.set(0) }
	case f.Kind == flood:
		return true, r.flood(random, broken)
	case f.Kind == revoke:
		return r.revoke(random), lift
	}
	panic("BUG: a fault of no kind: " + f.Kind)
}

// find returns a process of the gateway's by its role.
func (r *rig) find(role string) (process, bool) {
	for _, p := range marked(r.dir) {
		if p.role() == role {
			return p, true
		}
	}
	return process{}, false
}

// lie makes the provider misbehave.
func (r *rig) lie(how string, nanos int64) (done bool, lift func()) {
	lift = func() {}
	fault := sim.Fault{Mode: how, Nanos: nanos}
	if how == sim.TooMany {
		fault.RetryAfter = 1
	}
	err := r.cloud.SetFault(fault)
	switch {
	case how == sim.Refund:
		r.refunds = append(r.refunds, time.Now())
	default:
		since := &r.dark
		if how == sim.Frozen {
			since = &r.frozen
		}
		over := begin(since)
		lift = func() {
			over()
			_ = r.cloud.SetFault(sim.Fault{})
		}
	}
	return err == nil, lift
}

// begin notes that a span begins now; over, that it ends.
func begin(spans *[]span) (over func()) {
	i := len(*spans)
	*spans = append(*spans, span{From: time.Now()})
	return func() { (*spans)[i].To = time.Now() }
}

// flood floods until it is lifted.
func (r *rig) flood(random *rand.Rand, broken *error) (lift func()) {
	ctx, cancel := context.WithCancel(context.Background())
	f := &flooder{addr: strings.TrimPrefix(r.clients.url, "http://"), key: apiKey}
	errs := make(chan error, 4)
	var all sync.WaitGroup
	for range cap(errs) {
		own := rand.New(rand.NewPCG(random.Uint64(), 0))
		all.Go(func() {
			if err := f.run(ctx, own); err != nil {
				errs <- err
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
		r.tally.bad += int(f.sent.Load())
		select {
		case *broken = <-errs:
		default:
		}
	}
}
