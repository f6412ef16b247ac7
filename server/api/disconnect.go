package api

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// disconnectWatcher sees whether a client has closed its connection, or its half of it.
// It does not read, so a pipelined request that waits there hides nothing. What a look
// needs is made once: a thousand calls are looked at five times a second.
type disconnectWatcher struct {
	raw  syscall.RawConn // nil before the first look
	poll func(fd uintptr)
	fds  [1]unix.PollFd
	gone bool // as poll saw it
}

// seen reports whether the client is seen to have disconnected.
func (w *disconnectWatcher) seen(c net.Conn) bool {
	if w.raw == nil {
		sc, ok := c.(syscall.Conn)
		if !ok {
			return false
		}
		raw, err := sc.SyscallConn()
		if errors.Is(err, errors.ErrUnsupported) {
			return false // it has no socket, as in memory: nothing can be seen
		}
		if err != nil {
			return true
		}
		w.raw = raw
		w.poll = func(fd uintptr) {
			w.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLRDHUP}
			n, err := unix.Poll(w.fds[:], 0) // an error, as EINTR, is not known this time
			w.gone = err == nil && n > 0
		}
	}
	return w.raw.Control(w.poll) != nil || w.gone
}
