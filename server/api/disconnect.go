package api

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How it is seen that a client has left. One that has closed its half of the connection may
// still read: some send a request and then say that it was all (RFC 9112, 9.6). On a Unix
// socket the two differ; of TCP the same packet ends both, and only who is written to shows
// whether anybody is there: a system whose program has left answers with a reset. So such a
// client is sent what every client lets pass, and is looked at again.

// presence is what is seen of a client.
type presence uint8

const (
	present    presence = iota // or nothing can be seen
	halfClosed                 // it sends no more, and may have left
	left
)

// disconnectWatcher sees whether a client has closed its connection, or its half of it.
// It does not read, so a pipelined request that waits there hides nothing. What a look
// needs is made once: a thousand calls are looked at five times a second.
type disconnectWatcher struct {
	raw    syscall.RawConn // nil before the first look
	poll   func(fd uintptr)
	fds    [1]unix.PollFd
	events int16     // as poll saw them
	asked  time.Time // when the client was last sent something to see whether it is there
}

// look returns what is seen of the client.
func (w *disconnectWatcher) look(c net.Conn) presence {
	if w.raw == nil {
		sc, ok := c.(syscall.Conn)
		if !ok {
			return present
		}
		raw, err := sc.SyscallConn()
		if errors.Is(err, errors.ErrUnsupported) {
			return present // it has no socket, as in memory: nothing can be seen
		}
		if err != nil {
			return left
		}
		w.raw = raw
		w.poll = func(fd uintptr) {
			w.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLRDHUP | unix.POLLOUT}
			w.events = 0
			if n, err := unix.Poll(w.fds[:], 0); err == nil && n > 0 { // an error, as EINTR, is not known this time
				w.events = w.fds[0].Revents
			}
		}
	}
	switch {
	case w.raw.Control(w.poll) != nil, w.events&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0:
		return left
	case w.events&unix.POLLRDHUP != 0:
		return halfClosed
	}
	return present
}

// writable reports whether a few bytes would leave at once, as of the last look.
func (w *disconnectWatcher) writable() bool { return w.events&unix.POLLOUT != 0 }

// askEvery is how often a client that sends no more is sent something.
const askEvery = 10 * time.Second

// What a client is sent to see whether it is there: before its answer begins, and between
// two events of a stream, as one chunk.
var (
	interim      = []byte("HTTP/1.1 100 Continue\r\n\r\n")
	chunkComment = fmt.Appendf(nil, "%x\r\n%s\r\n", len(comment), comment)
)

// asking is what a client may be sent now to see whether it is there.
type asking struct {
	mu   sync.Mutex
	text []byte // nil for nothing; guarded by mu
}

// allow lets text be sent, until the next allow; nil: nothing. What is being sent has left
// when it returns.
func (a *asking) allow(text []byte) {
	a.mu.Lock()
	a.text = text
	a.mu.Unlock()
}

// askClient sends the client something to see whether it is there, where that is possible now, and
// reports whether it did. Called by watchClients.
func (c *call) askClient(now time.Time) bool {
	if !c.disconnect.writable() || now.Sub(c.disconnect.asked) < askEvery || c.client.LocalAddr().Network() == "unix" || c.cutCause() != nil {
		return false
	}
	c.asking.mu.Lock()
	defer c.asking.mu.Unlock()
	if c.asking.text == nil {
		return false // it is being written to
	}
	c.disconnect.asked = now
	_ = c.client.SetWriteDeadline(now.Add(writeTimeout))
	_, _ = c.client.Write(c.asking.text) // the next look shows how it went
	return true
}
