package queue

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// Why Admit refuses a request.
var (
	ErrNotReady    = errors.New("engine is not ready")                   // it crashed or was stopped, and no request waits for it
	ErrFull        = errors.New("too many requests wait for the engine") // as many as New allows wait already
	ErrWakeTimeout = errors.New("engine did not get ready in time")      // the request waited for as long as New allows
)

// ErrSentAway is the cause of an Admit's context that ends while the engine is still to be
// woken for the request: its client is told to ask again, soon.
var ErrSentAway = errors.New("the client is to ask again")

// returnTime is how long a client that was sent away may take to ask again. The engine is
// not idle until then.
const returnTime = time.Minute

// Queue admits requests to one engine. It is open while the engine is ready; while the
// engine is about to get ready it queues requests in the order in which they come; else
// it is closed. It counts the requests inside, so that the engine is never suspended
// under one: StartQueueingIfIdle checks that none is inside, and keeps new ones out, in
// one step.
type Queue struct {
	limit    int           // how many may wait
	patience time.Duration // how long one may wait
	changed  chan struct{} // capacity 1

	mu              sync.Mutex
	mode            mode
	inside          int
	idleSince       time.Time // when the last active request was released, or the queue opened
	signalWhenEmpty bool      // the owner waits for the last request inside to be released
	waiting         list.List // of *waiter, in the order in which they came
	sentAway        time.Time // when a client was sent away last; it is expected for returnTime
	sentAwayCause   string    // what the engine is to be woken by for it; "" once it was woken
	abandoned       Abandoned // since all were admitted or refused
}

// Abandoned counts requests that waited and gave up.
type Abandoned struct {
	Left int // the client left
	Late int // ErrWakeTimeout
}

type mode int8

const (
	closed mode = iota
	queueing
	open
)

// waiter is one request that waits. It gets at most one result.
type waiter struct {
	since  time.Time
	cause  string     // what the engine is woken by for it
	result chan error // nil: it is inside
}

// New makes a queue that is closed. limit is how many requests may wait, patience how
// long each of them may.
func New(limit int, patience time.Duration) *Queue {
	return &Queue{limit: limit, patience: patience, changed: make(chan struct{}, 1)}
}

// TryAdmit is Admit for a request that does not wait: true where it is inside.
func (q *Queue) TryAdmit() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mode != open {
		return false
	}
	q.inside++
	return true
}

// Admit returns nil once the request is inside; Release must follow then. Else it
// returns ErrNotReady, ErrFull, ErrWakeTimeout or the cause of ctx's end. cause is what
// the request would wake the engine by.
func (q *Queue) Admit(ctx context.Context, cause string) error {
	q.mu.Lock()
	switch {
	case q.mode == open:
		q.inside++
		q.mu.Unlock()
		return nil
	case q.mode == closed:
		q.mu.Unlock()
		return ErrNotReady
	case q.waiting.Len() >= q.limit:
		q.mu.Unlock()
		return ErrFull
	}
	w := &waiter{since: time.Now(), cause: cause, result: make(chan error, 1)}
	place := q.waiting.PushBack(w)
	q.mu.Unlock()
	q.signal()

	ctx, cancel := context.WithTimeoutCause(ctx, q.patience, ErrWakeTimeout)
	defer cancel()
	select {
	case err := <-w.result:
		return err
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case err := <-w.result: // admitted in the moment in which it gave up
		if err == nil {
			q.releaseLocked(false)
		}
	default:
		q.waiting.Remove(place)
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, ErrSentAway):
			q.sentAway, q.sentAwayCause = time.Now(), w.cause
		case errors.Is(cause, ErrWakeTimeout):
			q.abandoned.Late++
		default:
			q.abandoned.Left++
		}
		q.signal()
	}
	return context.Cause(ctx)
}

// Release ends what Admit began, when the engine has nothing more to do for the
// request. Idle time is counted from the release of the last active one.
func (q *Queue) Release(active bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.releaseLocked(active)
}

func (q *Queue) releaseLocked(active bool) {
	if q.inside--; q.inside < 0 {
		panic("BUG: a request was released twice")
	}
	if active {
		q.idleSince = time.Now()
	}
	if q.inside == 0 && q.signalWhenEmpty {
		q.signalWhenEmpty = false
		q.signal()
	}
}

// Load returns how many requests are inside, and how many wait.
func (q *Queue) Load() (inside, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.inside, q.waiting.Len()
}

// The methods below are for the queue's owner: the one goroutine that knows how the
// engine is.

// Changed tells the owner that a request has begun to wait or given up, or that the last
// one which StartQueueingIfIdle met inside was released. It says no more than that:
// several changes may be one signal, and one may come late.
func (q *Queue) Changed() <-chan struct{} { return q.changed }

// signal never blocks: the owner looks up what has changed.
func (q *Queue) signal() {
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// Open admits all requests that wait, and those that come. It returns how many waited,
// and how many had given up.
func (q *Queue) Open() (waited int, abandoned Abandoned) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mode, q.idleSince = open, time.Now()
	q.inside += q.waiting.Len()
	return q.answerLocked(nil)
}

// StartQueueing makes requests wait that come from now on.
func (q *Queue) StartQueueing() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mode = queueing
}

// Close refuses all requests that wait, and those that come. It returns what Open does.
func (q *Queue) Close() (waited int, abandoned Abandoned) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mode = closed
	return q.answerLocked(ErrNotReady)
}

func (q *Queue) answerLocked(err error) (waited int, abandoned Abandoned) {
	for e := q.waiting.Front(); e != nil; e = e.Next() {
		e.Value.(*waiter).result <- err
	}
	waited, abandoned = q.waiting.Len(), q.abandoned
	q.waiting.Init()
	q.abandoned, q.sentAwayCause = Abandoned{}, ""
	return waited, abandoned
}

// StartQueueingIfIdle is StartQueueing where no request has been inside for so long. Else
// it changes nothing, and returns how many are inside, and how long it is until none has
// been for so long.
func (q *Queue) StartQueueingIfIdle(idle time.Duration) (ok bool, inside int, in time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.inside > 0 {
		q.signalWhenEmpty = true
		return false, q.inside, idle
	}
	if left := max(idle-time.Since(q.idleSince), idle+q.expectedFor()); left > 0 && idle > 0 {
		return false, 0, left
	}
	q.mode = queueing
	return true, 0, 0
}

// expectedFor is for how long a client that was sent away is still expected; negative once
// it is not any more.
func (q *Queue) expectedFor() time.Duration { return returnTime - time.Since(q.sentAway) }

// Wanted returns by what the engine is to be woken: the cause of the first request that
// waits, or of a client that was sent away and is expected again; "" for nothing.
func (q *Queue) Wanted() (cause string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch e := q.waiting.Front(); {
	case e != nil:
		return e.Value.(*waiter).cause
	case q.expectedFor() > 0:
		return q.sentAwayCause
	}
	return ""
}

// First returns how many requests wait, and since when the first of them does.
func (q *Queue) First() (waiting int, since time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.waiting.Front(); e != nil {
		since = e.Value.(*waiter).since
	}
	return q.waiting.Len(), since
}

// Waiting returns what Open and Close would return now.
func (q *Queue) Waiting() (waiting int, abandoned Abandoned) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting.Len(), q.abandoned
}
