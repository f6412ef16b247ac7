package api

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// lookout tells whether a client has closed its connection, or its half of it.
// It does not read, so a pipelined request that waits there hides nothing. What
// a look needs is made once: a thousand calls are looked at five times a second.
type lookout struct {
	raw  syscall.RawConn // nil before the first look
	poll func(fd uintptr)
	fds  [1]unix.PollFd
	left bool
}

func (l *lookout) gone(c net.Conn) bool {
	if l.raw == nil {
		sc, ok := c.(syscall.Conn)
		if !ok {
			return false
		}
		raw, err := sc.SyscallConn()
		if err != nil {
			return true
		}
		l.raw = raw
		l.poll = func(fd uintptr) {
			l.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLRDHUP}
			n, err := unix.Poll(l.fds[:], 0) // an error, as EINTR, is not known this time
			l.left = err == nil && n > 0
		}
	}
	return l.raw.Control(l.poll) != nil || l.left
}
