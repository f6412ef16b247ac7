package engine

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// Why Enter refuses a request.
var (
	ErrNotReady    = errors.New("engine is not ready")                   // it crashed or was stopped, and nobody is to wait for it
	ErrQueueFull   = errors.New("too many requests wait for the engine") // Config.WakeQueue wait already
	ErrWakeTimeout = errors.New("engine did not get ready in time")      // Config.WakeTimeout is over
)

// door is where requests enter the engine. It is open while the engine is ready;
// while the engine is about to get ready it holds those who come, in order; else
// it is barred. It counts who is inside, so that the engine is never suspended
// under a request: shutting the door and finding nobody inside is one step.
type door struct {
	limit    int           // how many may wait
	patience time.Duration // how long one may wait
	changed  chan struct{} // capacity 1: told when somebody begins to wait or gives up, and when the last one leaves that Run waits for

	mu      sync.Mutex
	state   doorState
	inside  int
	quiet   time.Time // when the last active one left, or the door opened
	asked   bool      // Run waits for the last one to leave
	waiting list.List // of *waiter, in the order in which they came
	gone    Gone      // who gave up since everybody was let in or sent away
}

// Gone counts requests that waited and gave up.
type Gone struct {
	Left int // the client left
	Late int // Config.WakeTimeout was over
}

type doorState int8

const (
	barred doorState = iota
	held
	open
)

// waiter is one request that waits. Its end is sent at most once.
type waiter struct {
	since time.Time
	cause string     // what the engine is woken by for it
	end   chan error // nil: it is inside
}

func newDoor(limit int, patience time.Duration) *door {
	return &door{limit: limit, patience: patience, changed: make(chan struct{}, 1)}
}

// tryEnter is enter for who does not wait.
func (d *door) tryEnter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != open {
		return false
	}
	d.inside++
	return true
}

// enter returns nil once the request is inside; leave must follow then. cause is what
// it would wake the engine by.
func (d *door) enter(ctx context.Context, cause string) error {
	d.mu.Lock()
	switch {
	case d.state == open:
		d.inside++
		d.mu.Unlock()
		return nil
	case d.state == barred:
		d.mu.Unlock()
		return ErrNotReady
	case d.waiting.Len() >= d.limit:
		d.mu.Unlock()
		return ErrQueueFull
	}
	w := &waiter{since: time.Now(), cause: cause, end: make(chan error, 1)}
	place := d.waiting.PushBack(w)
	d.mu.Unlock()
	d.tell()

	ctx, cancel := context.WithTimeoutCause(ctx, d.patience, ErrWakeTimeout)
	defer cancel()
	select {
	case err := <-w.end:
		return err
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case err := <-w.end: // called in just now: it turns round on the threshold
		if err == nil {
			d.leaveLocked(false)
		}
	default:
		d.waiting.Remove(place)
		if errors.Is(context.Cause(ctx), ErrWakeTimeout) {
			d.gone.Late++
		} else {
			d.gone.Left++
		}
		d.tell()
	}
	return context.Cause(ctx)
}

// leave ends what enter began. Who was active begins the idle time anew.
func (d *door) leave(active bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaveLocked(active)
}

func (d *door) leaveLocked(active bool) {
	if d.inside--; d.inside < 0 {
		panic("BUG: a request left the engine twice")
	}
	if active {
		d.quiet = time.Now()
	}
	if d.inside == 0 && d.asked {
		d.asked = false
		d.tell()
	}
}

// tell never blocks: what changed is looked up, not sent.
func (d *door) tell() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// open lets everybody in who waits, and returns how many they were, and who had given
// up. Run alone calls it and what follows.
func (d *door) open() (waited int, gone Gone) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state, d.quiet = open, time.Now()
	d.inside += d.waiting.Len()
	return d.dismiss(nil)
}

// hold keeps those who come from now on waiting.
func (d *door) hold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = held
}

// bar sends everybody away who waits or comes, and returns what open does.
func (d *door) bar() (waited int, gone Gone) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = barred
	return d.dismiss(ErrNotReady)
}

func (d *door) dismiss(err error) (waited int, gone Gone) {
	for e := d.waiting.Front(); e != nil; e = e.Next() {
		e.Value.(*waiter).end <- err
	}
	waited, gone = d.waiting.Len(), d.gone
	d.waiting.Init()
	d.gone = Gone{}
	return waited, gone
}

// holdIfQuiet is hold, where nobody has been inside for long. Else it changes
// nothing, and says how many are inside, and in how long it could be.
func (d *door) holdIfQuiet(long time.Duration) (ok bool, inside int, in time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inside > 0 {
		d.asked = true
		return false, d.inside, long
	}
	if left := long - time.Since(d.quiet); left > 0 {
		return false, 0, left
	}
	d.state = held
	return true, 0, 0
}

// first says how many wait, and of the first of them since when, and what it wakes
// the engine by.
func (d *door) first() (waiting int, since time.Time, cause string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.waiting.Front(); e != nil {
		w := e.Value.(*waiter)
		since, cause = w.since, w.cause
	}
	return d.waiting.Len(), since, cause
}

// tally says who waits and who has given up, as open will unless more happens.
func (d *door) tally() (waiting int, gone Gone) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waiting.Len(), d.gone
}

// load says how many are inside, and how many wait.
func (d *door) load() (inside, waiting int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inside, d.waiting.Len()
}
