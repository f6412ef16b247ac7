package listener

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"spotinference/server/refusal"
)

// Conn is a client's connection. It bounds what an HTTP server reads without a bound,
// remembers what the server hides, and closes in a way that lets a client hear why it
// was refused.
type Conn struct {
	net.Conn                  // what is read and written: the socket, or TLS over it
	socket   net.Conn         // the socket itself
	secure   *secure          // nil without TLS
	refusal  *refusal.Refusal // nil: it is served
	onClose  func()           // called once

	limit   int64 // bytes that may come between two read deadlines
	room    int64 // bytes that still may; owned by the reading goroutine, as is readErr
	readErr error // what the last Read ended with

	lingers atomic.Bool
	closed  atomic.Bool
}

// lingerTime is how long a refused client may go on sending. Until then it can read the
// answer: a close with bytes unread would reset the connection, and an SDK takes that
// for a failure of the network, and tries again.
const lingerTime = 5 * time.Second

// errOverrun is a body whose framing alone is longer than any request may be.
var errOverrun = errors.New("more was sent than any request may have")

// Refusal is why nothing is served on the connection, nil where it is served: it is one
// too many, and is closed when it was told so.
func (c *Conn) Refusal() *refusal.Refusal { return c.refusal }

// ReadErr is what the last Read ended with. Only the reading goroutine may ask.
func (c *Conn) ReadErr() error { return c.readErr }

// Overrun reports whether that is more than any request may have.
func (c *Conn) Overrun() bool { return c.readErr == errOverrun }

// Linger makes Close wait for what the client still sends: its request was not read to
// the end.
func (c *Conn) Linger() { c.lingers.Store(true) }

// SetReadDeadline marks where a head or a body begins: an HTTP server sets one before
// each, and none within.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.room = c.limit
	if c.secure != nil {
		c.secure.readDeadline = t
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *Conn) Read(p []byte) (n int, err error) {
	if c.room <= 0 {
		c.readErr = errOverrun
		return 0, c.readErr
	}
	if c.secure != nil && !c.secure.done {
		if c.readErr = c.handshake(); c.readErr != nil {
			return 0, c.readErr
		}
	}
	for n == 0 && err == nil { // a read of nothing, which fasthttp takes for a bug of its own
		n, err = c.Conn.Read(p)
	}
	c.room -= int64(n)
	c.readErr = err
	return n, err
}

// SyscallConn is the socket's, there to be peeked at: TLS has none, and hides nothing
// of a client that disconnects.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.socket.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// Close closes the connection. Safe twice.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	defer c.onClose()
	if c.lingers.Load() && c.closeWrite() == nil {
		_ = c.socket.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, c.socket, c.limit)
	}
	return c.Conn.Close()
}

// closeWrite says that nothing more will come.
func (c *Conn) closeWrite() error {
	if c.secure != nil {
		_ = c.secure.tls.CloseWrite() // it cannot before the handshake
	}
	half, ok := c.socket.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}
