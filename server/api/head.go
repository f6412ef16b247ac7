package api

import (
	"bytes"
	"cmp"
	"errors"
	"net"
	"time"

	"spotinference/server/refusal"

	"github.com/valyala/fasthttp"
)

// maxFields is how many header fields a request may have. A browser behind two
// proxies sends about forty.
const maxFields = 128

// checkHead refuses what fasthttp accepts and another server in front of us may read
// differently: one of the two could take for two requests what is one to the other. Seen
// in v1.78.0: field lines that end in a bare LF, folded lines, spaces within a
// name, Transfer-Encoding beside Content-Length, "identity", any HTTP/d.d.
//
// It reads the head as it came. What fasthttp refuses by itself does not get here: a second
// Content-Length or Transfer-Encoding, a length that is no plain number, other
// codings, a space before the colon, control bytes, a request without Host.
func checkHead(h *fasthttp.RequestHeader) *refusal.Refusal {
	switch string(h.Protocol()) {
	case "HTTP/1.1", "HTTP/1.0":
	default:
		return refusal.New(refusal.HTTPVersion)
	}
	if target := h.RequestURI(); target[0] != '/' {
		return refusal.MalformedHTTP("its target is not a path") // absolute-form, authority-form, "*": this is no proxy
	}
	var length, coding bool
	fields := 0
	for raw := h.RawHeaders(); len(raw) > 0; fields++ {
		end := bytes.IndexByte(raw, '\n')
		if end < 1 || raw[end-1] != '\r' {
			return refusal.MalformedHTTP("a line does not end in CRLF")
		}
		line := raw[:end-1]
		raw = raw[end+1:]
		if len(line) == 0 {
			break // the blank line
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case name[0] == ' ' || name[0] == '\t':
			return refusal.MalformedHTTP("a header is folded over two lines")
		case bytes.IndexByte(name, ' ') >= 0:
			return refusal.MalformedHTTP("a header's name holds a space")
		case len(name) == len("Content-Length") && bytes.EqualFold(name, []byte("Content-Length")):
			length = true
		case len(name) == len("Transfer-Encoding") && bytes.EqualFold(name, []byte("Transfer-Encoding")):
			coding = true
			if !bytes.EqualFold(bytes.Trim(value, " \t"), []byte("chunked")) {
				return refusal.MalformedHTTP("its transfer coding is not chunked")
			}
		case len(name) == len("Expect") && bytes.EqualFold(name, []byte("Expect")):
			if !bytes.EqualFold(bytes.Trim(value, " \t"), []byte("100-continue")) {
				return refusal.New(refusal.ExpectationFailed)
			}
		}
	}
	switch {
	case length && coding:
		return refusal.MalformedHTTP("it has both a Content-Length and a Transfer-Encoding")
	case fields > maxFields:
		return refusal.TooManyHeaders(maxFields)
	}
	return nil
}

// checkRequest decides from its head how much of a request is read: nothing of one
// that is refused whatever follows, and no body for which there is no room.
func (s *Server) checkRequest(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	most, r := s.admitHead(h)
	if r != nil {
		// fasthttp lets a head be refused only by its body's length. So it gets
		// one that is too long; refuseUnread says what it was refused for. Without
		// Expect the client is not told to go on first.
		s.bodies.refuse(h, r)
		h.Del(fasthttp.HeaderExpect)
		h.SetContentLength(2)
		return fasthttp.RequestConfig{MaxRequestBodySize: 1}
	}
	if h.ContentLength() == -1 {
		// Servers disagree on where chunks end (extensions, trailers, a bare LF):
		// nothing that follows them is taken for a request.
		h.SetConnectionClose()
	}
	return fasthttp.RequestConfig{ReadTimeout: bodyTimeout, MaxRequestBodySize: most}
}

// admitHead says how much of a request's body may be read, or why nothing is. A short body
// is read whatever the gate says, so that its connection can serve the next request: it has
// come along with its head.
func (s *Server) admitHead(h *fasthttp.RequestHeader) (most int, r *refusal.Refusal) {
	n := h.ContentLength() // -1 is chunked, below that is none
	hasBody := n > 0 || n == -1
	now := s.cfg.Now()
	var k *key
	if r := checkHead(h); r != nil {
		return 0, r
	}
	if hasBody {
		if k, r = s.keys.find(h, now); r != nil {
			return 0, r // a body is worth nothing without the key
		}
	}
	if n > s.cfg.MaxBody {
		return 0, refusal.BodyTooLarge(s.bodies.mostFor(s.cfg.MaxBody))
	}
	if !hasBody {
		return s.cfg.MaxBody, nil
	}
	if n < 0 || n > keptBody || len(h.Peek(fasthttp.HeaderExpect)) > 0 {
		path, _, _ := bytes.Cut(h.RequestURI(), []byte("?"))
		switch rt := s.router.find(path); {
		case rt == unknownRoute:
			return 0, refusal.UnknownPath(s.router.served)
		case rt.forwards():
			if r := cmp.Or(s.admit(), s.keys.admitHead(k, now)); r != nil {
				return 0, r
			}
		}
	}
	return s.bodies.reserve(h, n, s.cfg.MaxBody)
}

// refuseUnread answers what fasthttp could not read as a request, or was not to.
// The connection closes after it.
func (s *Server) refuseUnread(ctx *fasthttp.RequestCtx, err error) {
	h := &ctx.Request.Header
	rt := unreadRoute // what fasthttp failed to read has no head any more
	if len(h.RawHeaders()) > 0 {
		rt = s.router.find(ctx.URI().PathOriginal())
	}
	id := newID(s.cfg.Now())
	body := s.bodies.take(h)
	s.refuse(ctx, rt, id, s.whyUnread(body, ctx.Conn(), err))
	s.bodies.release(body)
	ctx.Response.SkipBody = ctx.IsHead()
	s.addHeaders(ctx, rt, id, time.Time{})
	if c, ok := ctx.Conn().(Conn); ok {
		c.Linger()
	}
}

// whyUnread says why a request was not read. body is nil where its head was not there.
func (s *Server) whyUnread(body *oneBody, conn net.Conn, err error) *refusal.Refusal {
	if body != nil && body.refused != nil {
		return body.refused
	}
	if c, ok := conn.(Conn); ok && c.Overrun() {
		return refusal.BodyTooLarge(s.cfg.MaxBody)
	} else if ok && c.ReadErr() != nil {
		err = c.ReadErr() // fasthttp hides it where it reads chunks
	}
	var small *fasthttp.ErrSmallBuffer
	var timeout net.Error
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		most := s.bodies.mostFor(s.cfg.MaxBody)
		if body != nil && body.most < most {
			return refusal.New(refusal.BodyMemoryFull) // by itself it would have had more room
		}
		return refusal.BodyTooLarge(most)
	case errors.As(err, &small):
		return refusal.HeadersTooLarge(maxHead)
	case errors.As(err, &timeout) && timeout.Timeout():
		return refusal.New(refusal.RequestTimeout)
	}
	return refusal.MalformedHTTP("it is malformed")
}
