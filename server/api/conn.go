package api

import (
	"bytes"
	"net"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/server/refusal"
)

// Conn is what the server asks of a client's connection. A *listener.Conn is one;
// without it connections have no such bounds.
type Conn interface {
	net.Conn

	// Refusal is why nothing is served on the connection, nil where it is served.
	Refusal() *refusal.Refusal

	// ReadErr is what the last Read ended with, nil where it succeeded.
	ReadErr() error

	// Overrun reports whether it ended since more was sent than any request may have.
	Overrun() bool

	// Linger makes Close wait for what the client still sends: its request was not read
	// to the end.
	Linger()
}

// Answer is the HTTP response that says r to a client whose request is not read.
func (s *Server) Answer(c net.Conn, r *refusal.Refusal) []byte {
	var ctx fasthttp.RequestCtx
	ctx.Init2(c, quietLogger{}, true)
	id := newID(s.cfg.Now())
	s.refuse(&ctx, unreadRoute, id, r)
	s.addHeaders(&ctx, unreadRoute, id, time.Time{})
	ctx.SetConnectionClose()
	var b bytes.Buffer
	if _, err := ctx.Response.WriteTo(&b); err != nil {
		return nil
	}
	return b.Bytes()
}
