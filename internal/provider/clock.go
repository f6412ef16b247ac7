package provider

import (
	"sync/atomic"
	"time"
)

// Clock is the wall clock as the caller has it, carried on by the monotonic clock while
// the requests of one operation run.
type Clock struct {
	start time.Time // by the caller's clock
	mono  time.Time // the same instant, with a monotonic reading
	dated *atomic.Bool
}

// StartClock starts a clock at now.
func StartClock(now time.Time) Clock { return Clock{now, time.Now(), new(atomic.Bool)} }

// Start is when the operation began.
func (c Clock) Start() time.Time { return c.start }

// Now is the time now.
func (c Clock) Now() time.Time { return c.start.Add(time.Since(c.mono)) }

// Dated tells whether a reply came with the provider's own time, which this clock agreed
// with within MaxSkew.
func (c Clock) Dated() bool { return c.dated != nil && c.dated.Load() }

func (c Clock) setDated() {
	if c.dated != nil {
		c.dated.Store(true)
	}
}
