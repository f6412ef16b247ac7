// Package queue is the admission queue of an engine or a machine: a request is admitted
// at once while the engine is ready, waits in order while it is about to be, and is
// refused otherwise. Beside it stands what the API server sees of an engine or a
// machine: [Backend], with its [Status] and its [Counters].
//
// It knows requests only by number, and when the last one was released. It refuses to
// know how an engine is started, suspended or woken: its owner does that, and opens and
// closes the queue as it goes.
//
//	q := queue.New(256, 10*time.Minute)
//	q.StartQueueing()                                    // the owner wakes the engine
//	if err := q.Admit(ctx, "request"); err != nil {      // a request waits until q.Open()
//		return err
//	}
//	defer q.Release(true)
package queue
