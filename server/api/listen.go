package api

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// listener is a listener that outlives a moment without descriptors: the limit
// is reached by whoever opens enough connections, key or not, and that must not
// end the gateway.
type listener struct {
	net.Listener
	log     *slog.Logger
	limit   int   // connections that are served at once
	most    int64 // bytes of one request
	open    atomic.Int64
	refused func()                                 // a connection was closed without a word
	tls     *tls.Config                            // nil: plain
	alien   func(conn net.Conn, plain bool) []byte // see secure.failed
	closed  sync.Once
	said    time.Time // owned by Accept
}

func (l *listener) Accept() (net.Conn, error) {
	const pause = 50 * time.Millisecond
	for {
		c, err := l.Listener.Accept()
		if err == nil {
			n := l.open.Add(1)
			if n <= int64(l.limit+spareConns) {
				cl := &client{Conn: c, raw: c, over: n > int64(l.limit), left: func() { l.open.Add(-1) }, most: l.most, room: l.most}
				if l.tls != nil {
					cl.secure = &secure{tls: tls.Server(c, l.tls), failed: func(plain bool) []byte { return l.alien(c, plain) }}
					cl.Conn = cl.secure.tls
				}
				return cl, nil
			}
			l.open.Add(-1)
			l.refused()
			c.Close()
			continue
		}
		if !isPassing(err) {
			return nil, err
		}
		if now := time.Now(); now.Sub(l.said) > time.Minute {
			l.said = now
			l.log.Warn("accept a connection", "err", err)
		}
		time.Sleep(pause)
	}
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

// Close closes the listener. Safe twice: we close it, and fasthttp does.
func (l *listener) Close() (err error) {
	l.closed.Do(func() { err = l.Listener.Close() })
	return err
}

// maxConns is how many connections are served at once: each may need another
// one to the engine, and the ledger and the provider want theirs.
func maxConns() int {
	const most, rest = 16384, 128
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil || lim.Cur > 2*most+rest {
		return most
	}
	return max((int(lim.Cur)-rest)/2, 16)
}
