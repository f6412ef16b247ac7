package engine

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// An engine may live and still be out of reach: something cleans up the directory of its
// socket, or it has closed the socket and does not end. It is started again then, as after a
// crash.

const (
	reachEvery = 5 * time.Second
	reachTries = 3 // failures in a row after which it cannot
	reachPause = 200 * time.Millisecond
	reachWait  = time.Second // for one connection
)

// What a crash is called where the process lives.
var (
	errSocketGone   = errors.New("cannot be reached: its socket is gone")
	errNoListener   = errors.New("cannot be reached: nothing listens where it was told to")
	errSocketClosed = errors.New("cannot be reached: its socket may not be opened")
)

// unreachable is which of these a failure to connect is, nil where it is none: a busy
// engine's queue of connections may be full, and we may have no descriptor left.
func unreachable(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return errSocketGone
	case errors.Is(err, unix.ECONNREFUSED):
		return errNoListener
	case errors.Is(err, unix.EACCES):
		return errSocketClosed
	}
	return nil
}

// noteDial tells the owner of the engine that a connection could not be made.
func (e *Engine) noteDial(err error) {
	if unreachable(err) == nil {
		return
	}
	select {
	case e.dialFailed <- struct{}{}:
	default: // it is about to look
	}
}

// tryReach returns why the engine cannot be reached, nil where it can. It connects where
// connect says so, and else looks whether the socket is there: an engine that works on many
// requests takes no other connection for a while. It returns at once, but where the queue of
// a port is full.
func (e *Engine) tryReach(ctx context.Context, connect bool) error {
	at := e.at.Load()
	if at == nil {
		return nil
	}
	if !connect {
		if at.network != "unix" {
			return nil
		}
		_, err := os.Lstat(at.addr)
		return unreachable(err)
	}
	ctx, cancel := context.WithTimeout(ctx, reachWait)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, at.network, at.addr)
	if err != nil {
		return unreachable(err)
	}
	return c.Close()
}

// reachTask fails where the engine cannot be reached several times in a row.
func (e *Engine) reachTask() task {
	return func(ctx context.Context, _ func(string)) (usage Usage, err error) {
		for tries := 1; ; tries++ {
			if err = e.reach(ctx, true); err == nil || tries == reachTries {
				return usage, err
			}
			select {
			case <-ctx.Done():
				return usage, ctx.Err()
			case <-time.After(reachPause):
			}
		}
	}
}
