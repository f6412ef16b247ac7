package server

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// gone reports whether a client has closed its connection, or its half of it.
// It does not read, so a pipelined request that waits there hides nothing.
func gone(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	left := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0) // an error, as EINTR, is not known this time
		left = err == nil && n > 0
	})
	return err != nil || left
}
