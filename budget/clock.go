package budget

import "time"

// clockSlack is how far the wall clock may step from one evaluation to the next, or a
// sample lie ahead of it, before it is not believed: what NTP corrects in passing.
const clockSlack = 5 * time.Second

// clockCheck doubts the wall clock after it was set: until a bill is seen under the new
// time, nobody knows how old the newest one is.
type clockCheck struct {
	wall    time.Time // as it was observed last, without its monotonic reading, which hides a step
	elapsed time.Duration
	back    bool
	jumped  bool
	sample  int64 // while in doubt: the newest sample of the old time; 0 where it is not known yet
}

// observe compares the wall with a clock that is never set.
func (c *clockCheck) observe(now time.Time, elapsed time.Duration) {
	wall := now.Round(0)
	if !c.wall.IsZero() {
		switch step := wall.Sub(c.wall) - (elapsed - c.elapsed); {
		case step < -clockSlack:
			c.back, c.sample = true, 0
		case step > clockSlack:
			c.jumped, c.sample = true, 0
		}
	}
	c.wall, c.elapsed = wall, elapsed
}

// doubts tells whether the clock was set since a sample was taken. newest is the
// newest one.
func (c *clockCheck) doubts(newest int64) (back, jumped bool) {
	switch {
	case newest == 0: // there is none whose age could be wrong
		c.back, c.jumped = false, false
	case !c.back && !c.jumped:
	case c.sample == 0:
		c.sample = newest
	case newest > c.sample: // not one that is the newest since a later one was voided
		c.back, c.jumped = false, false
	}
	return c.back, c.jumped
}
