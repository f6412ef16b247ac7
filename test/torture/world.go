package main

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// world is the time of day. The provider's clock is always right: it is the real one
// and what was leapt over, so that days pass in seconds. The gateway's is that too,
// but for the seconds by which somebody set it wrong.
type world struct {
	gateway *atomic.Int64 // seconds from the real clock, in the file that the gateway maps

	mu    sync.Mutex
	wrong int64  // seconds; guarded by mu
	leaps []leap // guarded by mu, in order
}

// leap is a moment from which on the world and its gateway are so far ahead of the
// real clock.
type leap struct {
	at    time.Time // real
	ahead time.Duration
	wrong time.Duration
}

func newWorld(file string) (*world, error) {
	if err := os.WriteFile(file, make([]byte, 8), 0o600); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	page, err := syscall.Mmap(int(f.Fd()), 0, 8, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return &world{gateway: (*atomic.Int64)(unsafe.Pointer(&page[0])), leaps: []leap{{}}}, nil
}

// now is the provider's clock.
func (w *world) now() time.Time { return w.at(time.Now()) }

// at is what the provider's clock said at a real moment.
func (w *world) at(real time.Time) time.Time { return real.Add(w.last(real).ahead).Round(0) }

// last is the newest leap at a real moment.
func (w *world) last(real time.Time) leap {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.leaps) - 1; i > 0; i-- {
		if !w.leaps[i].at.After(real) {
			return w.leaps[i]
		}
	}
	return w.leaps[0]
}

// to leaps ahead to a time of the world's.
func (w *world) to(t time.Time) { w.move(t.Sub(w.now()).Truncate(time.Second), 0, false) }

// set sets the gateway's clock wrong by so many seconds.
func (w *world) set(seconds int64) { w.move(0, seconds, true) }

func (w *world) move(by time.Duration, wrong int64, set bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if set {
		w.wrong = wrong
	}
	ahead := w.leaps[len(w.leaps)-1].ahead + by
	w.leaps = append(w.leaps, leap{time.Now(), ahead, time.Duration(w.wrong) * time.Second})
	w.gateway.Store(int64(ahead/time.Second) + w.wrong)
}

// steady reports whether no clock moved in [from, to].
func (w *world) steady(from, to time.Time) bool { return w.last(from).at.Equal(w.last(to).at) }

// String lists the leaps.
func (w *world) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprint(w.leaps[1:])
}
