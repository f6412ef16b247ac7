package api

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// client is a client's connection. It bounds what fasthttp reads without a
// bound, remembers what fasthttp hides, and lets go of a client that was
// refused in a way that lets it hear the answer.
type client struct {
	net.Conn          // what is read and written: the socket, or TLS over it
	raw      net.Conn // the socket
	secure   *secure  // nil without TLS
	over     bool     // beyond the limit on connections: it is told so, and not served
	left     func()   // called once, when it is closed

	most   int64 // what may come between two read deadlines: one head, or one body with its chunks
	room   int64 // what still may; owned by the reading goroutine, as is failed
	failed error // what the last Read ended with

	linger atomic.Bool // its request was not read to the end
	closed atomic.Bool
}

const (
	// lingerTime is how long a refused client may go on sending. Until then it
	// can read the answer: a close with bytes unread would reset the connection,
	// and an SDK takes that for a failure of the network, and tries again.
	lingerTime = 5 * time.Second

	// spareConns beyond the limit are told that there are too many; those beyond
	// that are closed without a word.
	spareConns = 64
)

// errTooMuch is a body whose framing alone is longer than any body may be.
var errTooMuch = errors.New("more was sent than any request may have")

// SetReadDeadline marks where a head or a body begins: fasthttp sets one before
// each, and none within.
func (c *client) SetReadDeadline(t time.Time) error {
	c.room = c.most
	if c.secure != nil {
		c.secure.until = t
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *client) Read(p []byte) (n int, err error) {
	if c.room <= 0 {
		c.failed = errTooMuch
		return 0, c.failed
	}
	if c.secure != nil && !c.secure.done {
		if c.failed = c.handshake(); c.failed != nil {
			return 0, c.failed
		}
	}
	for n == 0 && err == nil { // a read of nothing, which fasthttp takes for a bug of its own
		n, err = c.Conn.Read(p)
	}
	c.room -= int64(n)
	c.failed = err
	return n, err
}

// SyscallConn is the socket's, there to be peeked at: TLS has none, and hides
// nothing of a client that leaves.
func (c *client) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.raw.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// Close closes the connection. Safe twice.
func (c *client) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	defer c.left()
	if c.linger.Load() && c.closeWrite() == nil {
		_ = c.raw.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, c.raw, c.most)
	}
	return c.Conn.Close()
}

// closeWrite says that nothing more will come.
func (c *client) closeWrite() error {
	if c.secure != nil {
		_ = c.secure.tls.CloseWrite() // it cannot before the handshake
	}
	half, ok := c.raw.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}
