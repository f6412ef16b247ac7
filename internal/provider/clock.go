package provider

import "time"

// Clock is the wall clock as the caller has it, carried on by the monotonic clock while
// the requests of one operation run.
type Clock struct {
	start time.Time // by the caller's clock
	mono  time.Time // the same instant, with a monotonic reading
}

// StartClock starts a clock at now.
func StartClock(now time.Time) Clock { return Clock{start: now, mono: time.Now()} }

// Start is when the operation began.
func (c Clock) Start() time.Time { return c.start }

// Now is the time now.
func (c Clock) Now() time.Time { return c.start.Add(time.Since(c.mono)) }
