package queue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/server/queue"
)

func Example() {
	q := queue.New(256, 10*time.Minute)
	fmt.Println(q.Admit(context.Background(), "request")) // closed: nobody waits

	q.StartQueueing() // the owner wakes the engine
	admitted := make(chan error)
	go func() { admitted <- q.Admit(context.Background(), "request") }()
	<-q.Changed()
	waiting, _ := q.First()
	cause := q.Wanted()
	fmt.Println(waiting, "waits, cause:", cause)

	q.Open() // the engine is ready
	fmt.Println(<-admitted)
	q.Release(true)
	// Output:
	// engine is not ready
	// 1 waits, cause: request
	// <nil>
}

// admit lets a request come, and returns what will become of it.
func admit(ctx context.Context, q *queue.Queue, cause string) <-chan error {
	result := make(chan error, 1)
	go func() { result <- q.Admit(ctx, cause) }()
	synctest.Wait()
	return result
}

// TestEveryRequestIsAnswered: in each mode, and once.
func TestEveryRequestIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(3, time.Minute)
		load := func(inside, waiting int) {
			t.Helper()
			if i, w := q.Load(); i != inside || w != waiting {
				t.Errorf("load %d inside, %d waiting, want %d, %d", i, w, inside, waiting)
			}
		}
		if err := q.Admit(t.Context(), ""); err != queue.ErrNotReady || q.TryAdmit() {
			t.Errorf("closed: %v", err)
		}
		q.StartQueueing()
		if q.TryAdmit() {
			t.Error("admitted by a queue that is not open")
		}
		came := time.Now()
		first := admit(t.Context(), q, "first")
		time.Sleep(30 * time.Second)
		leaving, leave := context.WithCancelCause(t.Context())
		left := admit(leaving, q, "second")
		third := admit(t.Context(), q, "third")
		load(0, 3)
		if err := q.Admit(t.Context(), ""); err != queue.ErrFull {
			t.Errorf("a request beyond the limit: %v", err)
		}
		if n, since := q.First(); n != 3 || !since.Equal(came) || q.Wanted() != "first" {
			t.Errorf("first: %d, %v, %q", n, since, q.Wanted())
		}
		gone := errors.New("the client left")
		leave(gone)
		if err := <-left; err != gone {
			t.Errorf("who left: %v", err)
		}
		time.Sleep(30 * time.Second)
		if err := <-first; err != queue.ErrWakeTimeout {
			t.Errorf("who waited for a minute: %v", err)
		}
		if n, abandoned := q.Waiting(); n != 1 || abandoned != (queue.Abandoned{Left: 1, Late: 1}) {
			t.Errorf("%d wait, %+v gave up", n, abandoned)
		}
		if n, abandoned := q.Open(); n != 1 || abandoned != (queue.Abandoned{Left: 1, Late: 1}) {
			t.Errorf("opened for %d, %+v gave up", n, abandoned)
		}
		if err := <-third; err != nil || !q.TryAdmit() || q.Admit(t.Context(), "") != nil {
			t.Errorf("open: %v", err)
		}
		load(3, 0)
		q.Release(true)

		q.StartQueueing()
		fifth := admit(t.Context(), q, "fifth")
		if n, abandoned := q.Close(); n != 1 || abandoned != (queue.Abandoned{}) {
			t.Errorf("closed on %d, %+v gave up", n, abandoned)
		}
		if err := <-fifth; err != queue.ErrNotReady {
			t.Errorf("who waited when it closed: %v", err)
		}
		load(2, 0) // who is inside stays
	})
}

// TestIdle: it is not idle while a request is inside, nor for a while after the last
// active one; the owner hears of the last release once, and only where it asked.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(1, time.Minute)
		q.Open()
		idle := func(ok bool, inside int, in time.Duration) {
			t.Helper()
			if o, i, d := q.StartQueueingIfIdle(time.Minute); o != ok || i != inside || d != in {
				t.Errorf("idle: %t, %d, %v, want %t, %d, %v", o, i, d, ok, inside, in)
			}
		}
		signalled := func(want bool) {
			t.Helper()
			select {
			case <-q.Changed():
				if !want {
					t.Error("signalled")
				}
			default:
				if want {
					t.Error("not signalled")
				}
			}
		}
		time.Sleep(20 * time.Second)
		idle(false, 0, 40*time.Second)
		for range 2 {
			if !q.TryAdmit() {
				t.Fatal("not admitted")
			}
		}
		time.Sleep(time.Hour)
		q.Release(true)
		signalled(false)
		idle(false, 1, time.Minute)
		q.Release(true)
		signalled(true)
		time.Sleep(20 * time.Second)
		if !q.TryAdmit() {
			t.Fatal("not admitted")
		}
		q.Release(false) // a glance does not count
		signalled(false)
		idle(false, 0, 40*time.Second)
		time.Sleep(40 * time.Second)
		idle(true, 0, 0)
		if q.TryAdmit() {
			t.Error("admitted after it was idle")
		}
	})
}

func TestReleasedTwice(t *testing.T) {
	q := queue.New(1, time.Minute)
	q.Open()
	q.TryAdmit()
	q.Release(true)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	q.Release(true)
}

// TestWhoIsSentAwayIsExpected: the engine is woken for it all the same, once, and is not
// idle until it had a minute to come again.
func TestWhoIsSentAwayIsExpected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(3, 10*time.Minute)
		if q.StartQueueing(); q.Wanted() != "" {
			t.Errorf("wanted by %q, and nobody came", q.Wanted())
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), 45*time.Second, queue.ErrSentAway)
		defer cancel()
		result := admit(ctx, q, "request")
		if q.Wanted() != "request" {
			t.Errorf("wanted by %q", q.Wanted())
		}
		if err := <-result; err != queue.ErrSentAway {
			t.Errorf("Admit = %v", err)
		}
		if n, _ := q.First(); n != 0 || q.Wanted() != "request" {
			t.Errorf("%d wait, wanted by %q", n, q.Wanted())
		}
		time.Sleep(20 * time.Second)
		if waited, abandoned := q.Open(); waited != 0 || abandoned != (queue.Abandoned{}) || q.Wanted() != "" {
			t.Errorf("%d waited, %+v, wanted by %q", waited, abandoned, q.Wanted())
		}
		time.Sleep(30 * time.Second)
		const idle = 10 * time.Second
		if ok, _, in := q.StartQueueingIfIdle(idle); ok || in != 20*time.Second {
			t.Errorf("idle: %v, in %s", ok, in)
		}
		time.Sleep(20 * time.Second)
		if ok, _, _ := q.StartQueueingIfIdle(idle); !ok || q.Wanted() != "" {
			t.Errorf("idle: %v, wanted by %q", ok, q.Wanted())
		}

		// One that never comes again is forgotten, and a person who asks is obeyed at once.
		ctx, cancel = context.WithTimeoutCause(t.Context(), time.Second, queue.ErrSentAway)
		defer cancel()
		<-admit(ctx, q, "request")
		q.Open()
		if ok, _, _ := q.StartQueueingIfIdle(0); !ok {
			t.Error("not suspended, though asked to")
		}
		<-admit(ctx, q, "request")
		time.Sleep(time.Minute)
		if q.Wanted() != "" {
			t.Errorf("wanted by %q after a minute", q.Wanted())
		}
	})
}
