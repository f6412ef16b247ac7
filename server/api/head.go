package api

import (
	"bytes"
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
// It reads the head as it came, so it may be called again after checkRequest changed
// the parsed one. What fasthttp refuses by itself does not get here: a second
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
// that is refused whatever follows, and a body is worth nothing without the key.
func (s *Server) checkRequest(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	n := h.ContentLength() // -1 is chunked, below that is none
	keyless := false
	if n > 0 || n == -1 {
		_, e := s.keys.find(h, s.cfg.Now())
		keyless = e != nil
	}
	if keyless || n > s.cfg.MaxBody || checkHead(h) != nil {
		// fasthttp lets a head be refused only by its body's length. So it gets
		// one that is too long; refuseUnread says what it was refused for. Without
		// Expect the client is not told to go on first.
		h.Del(fasthttp.HeaderExpect)
		h.SetContentLength(2)
		return fasthttp.RequestConfig{MaxRequestBodySize: 1}
	}
	if n == -1 {
		// Servers disagree on where chunks end (extensions, trailers, a bare LF):
		// nothing that follows them is taken for a request.
		h.SetConnectionClose()
	}
	return fasthttp.RequestConfig{ReadTimeout: bodyTimeout}
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
	s.refuse(ctx, rt, id, s.whyUnread(h, ctx.Conn(), err))
	ctx.Response.SkipBody = ctx.IsHead()
	s.addHeaders(ctx, rt, id, time.Time{})
	if c, ok := ctx.Conn().(Conn); ok {
		c.Linger()
	}
}

// whyUnread says why a request was not read.
func (s *Server) whyUnread(h *fasthttp.RequestHeader, conn net.Conn, err error) *refusal.Refusal {
	if c, ok := conn.(Conn); ok && c.Overrun() {
		return refusal.BodyTooLarge(s.cfg.MaxBody)
	} else if ok && c.ReadErr() != nil {
		err = c.ReadErr() // fasthttp hides it where it reads chunks
	}
	var small *fasthttp.ErrSmallBuffer
	var timeout net.Error
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge) && h.ContentLength() > 0: // checkRequest
		if e := checkHead(h); e != nil {
			return e
		}
		if _, e := s.keys.find(h, s.cfg.Now()); e != nil {
			return e
		}
		return refusal.BodyTooLarge(s.cfg.MaxBody)
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		return refusal.BodyTooLarge(s.cfg.MaxBody)
	case errors.As(err, &small):
		return refusal.HeadersTooLarge(maxHead)
	case errors.As(err, &timeout) && timeout.Timeout():
		return refusal.New(refusal.RequestTimeout)
	}
	return refusal.MalformedHTTP("it is malformed")
}
