// Package listener is where clients connect: an address, TLS and its certificates, and
// the limits of connections.
//
// It refuses to know what is said over a connection, but that it is HTTP/1.1.
//
//	l, err := listener.New(listener.Config{Address: "127.0.0.1:8080", MaxRequest: 1 << 20})
//	err = l.Listen()
//	go l.Run(ctx, listener.Hooks{})
//	c, err := l.Accept()
package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/internal/hint"
	"spotinference/internal/loopback"
	"spotinference/internal/socket"
	"spotinference/server/refusal"
)

// Hooks are what a listener tells. A nil one is not called.
type Hooks struct {
	// Refused is told of a connection that was closed without a word.
	Refused func(*refusal.Refusal)

	// HandshakeFailed is told of a client with which no TLS was agreed on.
	HandshakeFailed func()

	// Answer returns the HTTP response that says r to a client whose request is not
	// read; nil: nothing is said.
	Answer func(c net.Conn, r *refusal.Refusal) []byte
}

// Listener is a net.Listener whose connections are bounded: see [Conn]. It outlives a
// moment without descriptors: whoever opens enough connections reaches that limit, key
// or not, and that must not end the gateway.
type Listener struct {
	cfg       Config
	certs     certificates // nil: plain HTTP
	tls       *tls.Config  // nil: plain HTTP
	ln        net.Listener // set by Listen
	url, curl string       // set by Listen

	hooks   Hooks         // set before running is closed
	running chan struct{} // closed by Run
	open    atomic.Int64  // connections

	warned time.Time // when a failure to accept was logged last; owned by Accept

	closing sync.Once
	closed  chan struct{}
}

// New checks cfg and reads the certificates. It starts nothing and does not listen yet.
func New(cfg Config) (*Listener, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if cfg.MaxRequest <= 0 {
		return nil, errors.New("listener: a bound on requests is required")
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = maxConns()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	l := &Listener{cfg: cfg, running: make(chan struct{}), closed: make(chan struct{})}
	var err error
	switch {
	case cfg.CertFile != "":
		l.certs, err = newCertFiles(cfg)
	case len(cfg.Domains) > 0:
		l.certs, err = newACME(cfg)
	}
	if err != nil {
		return nil, err
	}
	if l.certs != nil {
		l.tls = l.certs.config()
	}
	return l, nil
}

// Listen begins to listen. Connections wait until Run is called.
func (l *Listener) Listen() error {
	scheme := "http"
	if l.tls != nil {
		scheme = "https"
	}
	if path, ok := strings.CutPrefix(l.cfg.Address, UnixPrefix); ok && l.cfg.Listener == nil {
		ln, err := socket.Listen(path)
		if errors.Is(err, socket.ErrInUse) || errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("listen: %w", err)
		}
		if err != nil {
			return hint.Errorf("name a path where nothing lies, in a directory that is there and may be written", "listen: %w", err)
		}
		l.ln, l.url = ln, UnixPrefix+ln.Path()
		l.curl = "curl --unix-socket " + path + " " + scheme + "://localhost"
		return nil
	}
	l.ln = l.cfg.Listener
	if l.ln == nil {
		var err error
		if l.ln, err = net.Listen("tcp", l.cfg.Address); err != nil {
			return err
		}
	}
	l.url = scheme + "://" + l.ln.Addr().String()
	l.curl = "curl " + l.url
	if l.tls == nil && !loopback.Addr(l.ln.Addr()) {
		l.cfg.Log.Warn("keys, prompts and answers can be read on their way: beyond loopback without TLS", "hint", "give --tls-cert and --tls-key, or --tls-domain, unless something in front speaks TLS")
	}
	if addr, ok := l.ln.Addr().(*net.TCPAddr); ok && len(l.cfg.Domains) > 0 && addr.Port != 443 {
		l.cfg.Log.Warn("the authority asks at port 443 whether a domain is ours", "listening at", addr.Port, "hint", "listen on port 443, or have it forwarded here")
	}
	return nil
}

// URL is where it listens.
func (l *Listener) URL() string { return l.url }

// Curl is how to ask it from a shell: a path can be appended.
func (l *Listener) Curl() string { return l.curl }

// Run lets connections in, and keeps the certificates fresh until ctx ends. It is
// called once.
func (l *Listener) Run(ctx context.Context, h Hooks) error {
	l.hooks = h
	close(l.running)
	if l.certs == nil {
		<-ctx.Done()
		return nil
	}
	return l.certs.run(ctx)
}

// Addr is the address that it listens on.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Accept returns the next connection, a *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	const pause = 50 * time.Millisecond
	select {
	case <-l.running: // its hooks are there
	case <-l.closed:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.ln.Accept()
		if err == nil {
			if conn := l.admit(c); conn != nil {
				return conn, nil
			}
			continue
		}
		if !isPassing(err) {
			return nil, err
		}
		if now := time.Now(); now.Sub(l.warned) > time.Minute {
			l.warned = now
			l.cfg.Log.Warn("accept a connection", "err", err)
		}
		time.Sleep(pause)
	}
}

// admit makes a connection ours, or closes it: those beyond the limit are told that
// there are too many, and those beyond spareConns are closed without a word.
func (l *Listener) admit(socket net.Conn) *Conn {
	n := l.open.Add(1)
	if n > int64(l.cfg.MaxConns+spareConns) {
		l.open.Add(-1)
		if l.hooks.Refused != nil {
			l.hooks.Refused(refusal.New(refusal.TooManyConnections))
		}
		socket.Close()
		return nil
	}
	c := &Conn{Conn: socket, socket: socket, onClose: func() { l.open.Add(-1) }, limit: l.cfg.MaxRequest, room: l.cfg.MaxRequest}
	if n > int64(l.cfg.MaxConns) {
		c.refusal = refusal.New(refusal.TooManyConnections)
	}
	if l.tls != nil {
		c.secure = &secure{tls: tls.Server(socket, l.tls), failed: func(plainHTTP bool) []byte { return l.handshakeFailed(socket, plainHTTP) }}
		c.Conn = c.secure.tls
	}
	return c
}

// handshakeFailed tells of a failed handshake, and returns what the client is sent.
func (l *Listener) handshakeFailed(c net.Conn, plainHTTP bool) []byte {
	if l.hooks.HandshakeFailed != nil {
		l.hooks.HandshakeFailed()
	}
	if !plainHTTP || l.hooks.Answer == nil {
		return nil
	}
	return l.hooks.Answer(c, refusal.New(refusal.TLSRequired))
}

// Close ends the listener; connections live on. Safe twice, and where it never listened.
func (l *Listener) Close() (err error) {
	l.closing.Do(func() {
		close(l.closed)
		if l.ln != nil {
			err = l.ln.Close()
		}
	})
	return err
}

// isPassing reports whether the next Accept may work.
func isPassing(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, unix.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// spareConns is how many connections beyond the limit are told that there are too many.
const spareConns = 64

// maxConns is how many connections are served at once: each may need another one to
// the engine, and the ledger and the provider want theirs.
func maxConns() int {
	const most, rest = 16384, 128
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil || lim.Cur > 2*most+rest {
		return most
	}
	return max((int(lim.Cur)-rest)/2, 16)
}
