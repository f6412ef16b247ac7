package api

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"spotinference/server/refusal"

	"github.com/valyala/fasthttp"
	"golang.org/x/crypto/acme"
)

// handshakeTimeout is how long a client may take to agree on TLS. A certificate that
// is fetched meanwhile may take longer; the next client finds it.
const handshakeTimeout = 10 * time.Second

// secure is the TLS of a connection. The reading goroutine owns it.
type secure struct {
	tls   *tls.Conn
	done  bool      // the handshake
	until time.Time // the read deadline that fasthttp set
	// failed is told of a handshake that failed. What it returns is sent as it is.
	failed func(plain bool) []byte
}

// handshake runs at the first read: before it there is nothing to say.
func (c *client) handshake() error {
	s := c.secure
	_ = c.raw.SetDeadline(time.Now().Add(handshakeTimeout))
	err := s.tls.Handshake()
	if err == nil {
		s.done = true
		_ = c.raw.SetWriteDeadline(time.Time{})
		_ = c.raw.SetReadDeadline(s.until)
		if s.tls.ConnectionState().NegotiatedProtocol == acme.ALPNProto {
			return io.EOF // who asks whether the name is ours has seen it (RFC 8737)
		}
		return nil
	}
	var alien tls.RecordHeaderError
	if answer := s.failed(errors.As(err, &alien) && alien.Conn != nil && looksLikeHTTP(alien.RecordHeader)); answer != nil {
		if _, err := c.raw.Write(answer); err == nil {
			c.linger.Store(true)
		}
	}
	return err
}

// looksLikeHTTP tells it from noise: nothing is said to that.
func looksLikeHTTP(head [5]byte) bool {
	for _, method := range []string{"GET /", "POST ", "HEAD ", "PUT /", "OPTIO", "DELET", "PATCH"} {
		if string(head[:]) == method {
			return true
		}
	}
	return false
}

// handshakeFailed counts it, and answers a client that spoke plain HTTP.
func (s *Server) handshakeFailed(conn net.Conn, plain bool) []byte {
	s.cfg.Metrics.handshakeFailed()
	if !plain {
		return nil
	}
	var ctx fasthttp.RequestCtx
	ctx.Init2(conn, quietLogger{}, true)
	rt := route{dialect: refusal.AnyDialect}
	id := newID(s.cfg.Now())
	s.refuse(&ctx, rt, id, refusal.New(refusal.TLSRequired))
	s.sign(&ctx, rt, id, time.Time{})
	ctx.SetConnectionClose()
	var b bytes.Buffer
	if _, err := ctx.Response.WriteTo(&b); err != nil {
		return nil
	}
	return b.Bytes()
}
