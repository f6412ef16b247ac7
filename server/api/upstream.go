package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/server/queue"
)

// Both engines close a connection that was idle for five seconds, and
// llama-server one that has had a hundred requests. We close it before they do: a
// request sent into a closing connection cannot be told from one that was served, so it
// may not be sent again.
const (
	maxIdle     = 4 * time.Second
	maxUses     = 90
	dialTimeout = 5 * time.Second
	readBuffer  = 8 << 10
	writeBuffer = 16 << 10
)

// upstream keeps the connections to the engine. The parsing is fasthttp's; the
// connections are ours: to cut a request whose client has left, its connection is
// closed.
type upstream struct {
	engine  queue.Backend
	bearer  string    // what the engine asks for as Authorization
	readers sync.Pool // of *bufio.Reader
	writers sync.Pool // of *bufio.Writer

	mu     sync.Mutex
	idle   []*engineConn // the last used is the last; guarded by mu
	closed bool          // guarded by mu
}

// engineConn is one connection to the engine.
type engineConn struct {
	net.Conn
	br       *bufio.Reader
	raw      syscall.RawConn // nil where it has no descriptor, as in memory
	released time.Time       // when its last exchange ended
	uses     int
}

func newUpstream(e queue.Backend) *upstream { return &upstream{engine: e, bearer: "Bearer " + e.Key()} }

// get returns a connection that the engine has not closed, and on which it has sent
// nothing unasked: that would be taken for the next answer.
func (u *upstream) get() (*engineConn, error) {
	for {
		c := u.pop()
		if c == nil {
			break
		}
		if time.Since(c.released) < maxIdle && c.uses < maxUses && c.quiet() {
			c.uses++
			return c, nil
		}
		u.discard(c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	nc, err := u.engine.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial engine: %w", err)
	}
	var raw syscall.RawConn
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err = sc.SyscallConn(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			nc.Close()
			return nil, fmt.Errorf("dial engine: %w", err)
		}
	}
	br, _ := u.readers.Get().(*bufio.Reader)
	if br == nil {
		br = bufio.NewReaderSize(nc, readBuffer)
	}
	br.Reset(nc)
	return &engineConn{Conn: nc, br: br, raw: raw, uses: 1}, nil
}

// quiet reports whether the connection is open and the engine has sent nothing on it. It
// takes nothing from the socket.
func (c *engineConn) quiet() bool {
	if c.raw == nil {
		return false
	}
	quiet := false
	err := c.raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN
	})
	return err == nil && quiet
}

// discard closes a connection that no call holds any more.
func (u *upstream) discard(c *engineConn) {
	c.Close()
	c.br.Reset(nil)
	u.readers.Put(c.br)
	c.br = nil
}

// write sends a request. Its buffer is large enough for most requests to leave
// in one write, and is not the connection's: an answer takes much longer.
func (u *upstream) write(c *engineConn, req *fasthttp.Request) error {
	bw, _ := u.writers.Get().(*bufio.Writer)
	if bw == nil {
		bw = bufio.NewWriterSize(nil, writeBuffer)
	}
	bw.Reset(c)
	err := req.Write(bw)
	if err == nil {
		err = bw.Flush()
	}
	bw.Reset(nil)
	u.writers.Put(bw)
	return err
}

func (u *upstream) pop() *engineConn {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.idle) == 0 {
		return nil
	}
	c := u.idle[len(u.idle)-1]
	u.idle = u.idle[:len(u.idle)-1]
	return c
}

// put gives back a connection whose answer was read to its end.
func (u *upstream) put(c *engineConn) {
	now := time.Now()
	c.released = now
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || c.br.Buffered() > 0 {
		u.discard(c)
		return
	}
	u.idle = append(u.idle, c)
	// The oldest are first: they are closed here, not by a goroutine.
	for len(u.idle) > 0 && now.Sub(u.idle[0].released) >= maxIdle {
		u.discard(u.idle[0])
		u.idle = u.idle[1:]
	}
}

func (u *upstream) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, c := range u.idle {
		c.Close()
	}
	u.idle = nil
}

// exchange is one request to the engine and its answer.
type exchange struct {
	conn      *engineConn
	resp      *fasthttp.Response // nil until readHead; its body is a stream; released by end
	readToEnd bool               // the body was; set by Read
}

// Read reads the body of the answer.
func (x *exchange) Read(p []byte) (int, error) {
	n, err := x.resp.BodyStream().Read(p)
	if err == io.EOF {
		x.readToEnd = true
	}
	return n, err
}

// errUnsent marks a request that the engine never saw: it has made nothing.
var errUnsent = errors.New("not sent")

// do sends req and reads the head of the answer; the body is left to be read.
// It can be cut through c while it waits, which may be long: a queued request
// sees no byte.
func (u *upstream) do(c *call, req *fasthttp.Request) (*exchange, error) {
	x, err := u.send(c, req)
	if err != nil {
		return nil, err
	}
	if err := u.readHead(c, x); err != nil {
		return nil, err
	}
	return x, nil
}

// send sends req. readHead must follow, or drop.
func (u *upstream) send(c *call, req *fasthttp.Request) (*exchange, error) {
	cn, err := u.get()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnsent, err)
	}
	if !c.attach(cn) {
		u.discard(cn)
		return nil, errUnsent
	}
	req.Header.Set(fasthttp.HeaderAuthorization, u.bearer)
	req.Header.SetHost("engine")
	x := &exchange{conn: cn}
	if err := u.write(cn, req); err != nil {
		u.drop(c, x)
		return nil, fmt.Errorf("write to engine: %w", err)
	}
	return x, nil
}

// drop ends an exchange whose head was not read.
func (u *upstream) drop(c *call, x *exchange) {
	c.detach()
	u.discard(x.conn)
}

// readable waits until the engine has sent something that is to be read, or cannot be read
// any more. It is false where neither has happened by until.
func (x *exchange) readable(until time.Time) bool {
	br := x.conn.br
	if br.Buffered() > 0 {
		return true
	}
	_ = x.conn.SetReadDeadline(until)
	_, err := br.Peek(1) // an error is found again by who reads
	_ = x.conn.SetReadDeadline(time.Time{})
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// readHead reads the head of the answer. After an error the exchange has ended.
func (u *upstream) readHead(c *call, x *exchange) error {
	x.resp = fasthttp.AcquireResponse()
	x.resp.StreamBody = true
	if err := x.resp.Read(x.conn.br); err != nil {
		u.drop(c, x)
		fasthttp.ReleaseResponse(x.resp)
		return fmt.Errorf("read from engine: %w", err)
	}
	if x.resp.BodyStream() == nil { // 204 and 304 have none; no engine's answer is one
		status := x.resp.StatusCode()
		u.end(c, x, false)
		return fmt.Errorf("read from engine: status %d without a body", status)
	}
	return nil
}

// end ends the exchange. keeps says that the engine keeps connections after such an
// answer: where the body was read to its end the connection serves again, else it is
// closed, and the engine stops.
func (u *upstream) end(c *call, x *exchange, keeps bool) {
	reuse := keeps && x.readToEnd && !x.resp.ConnectionClose()
	uncut := c.detach() != nil
	_ = x.resp.CloseBodyStream()
	fasthttp.ReleaseResponse(x.resp)
	if reuse && uncut {
		u.put(x.conn)
	} else {
		u.discard(x.conn)
	}
}
