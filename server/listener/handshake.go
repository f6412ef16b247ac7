package listener

import (
	"crypto/tls"
	"errors"
	"io"
	"time"

	"golang.org/x/crypto/acme"
)

// handshakeTimeout is how long a client may take to agree on TLS. A certificate that
// is fetched meanwhile may take longer; the next client finds it.
const handshakeTimeout = 10 * time.Second

// secure is the TLS of a connection. The reading goroutine owns it.
type secure struct {
	tls          *tls.Conn
	done         bool      // the handshake
	readDeadline time.Time // as the HTTP server set it
	// failed is told of a handshake that failed. What it returns is sent as it is.
	failed func(plainHTTP bool) []byte
}

// handshake runs at the first read: before it there is nothing to say.
func (c *Conn) handshake() error {
	s := c.secure
	_ = c.socket.SetDeadline(time.Now().Add(handshakeTimeout))
	err := s.tls.Handshake()
	if err == nil {
		s.done = true
		_ = c.socket.SetWriteDeadline(time.Time{})
		_ = c.socket.SetReadDeadline(s.readDeadline)
		if s.tls.ConnectionState().NegotiatedProtocol == acme.ALPNProto {
			return io.EOF // the authority has seen that the name is ours (RFC 8737)
		}
		return nil
	}
	var header tls.RecordHeaderError
	if answer := s.failed(errors.As(err, &header) && header.Conn != nil && looksLikeHTTP(header.RecordHeader)); answer != nil {
		if _, err := c.socket.Write(answer); err == nil {
			c.Linger()
		}
	}
	return err
}

// looksLikeHTTP tells plain HTTP from noise: nothing is said to noise.
func looksLikeHTTP(head [5]byte) bool {
	for _, method := range []string{"GET /", "POST ", "HEAD ", "PUT /", "OPTIO", "DELET", "PATCH"} {
		if string(head[:]) == method {
			return true
		}
	}
	return false
}
