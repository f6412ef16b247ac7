package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"

	"spotinference/internal/hint"
	"spotinference/internal/loopback"
	"spotinference/internal/socket"
	"spotinference/server/listener"
)

// inUseHint is for an address that somebody else has.
const inUseHint = "stop what listens there, or name another address with --listen"

// unixListen begins a --listen that is a Unix socket's path.
const unixListen = "unix:"

// ListenOptions say where clients come in, and what proves to them who we are.
type ListenOptions struct {
	Address           string
	CertFile, KeyFile string
	Domains           []string
	CacheDir          string // where ACME's keys and certificates lie
	Authority         string // ACME's directory; "": Let's Encrypt's
}

// wayIn is where clients come in.
type wayIn struct {
	net.Listener
	tls  *tls.Config                     // nil: plain
	run  func(ctx context.Context) error // keeps the certificate fresh
	url  string
	curl string // how to ask it from a shell
}

func (o ListenOptions) open(log *slog.Logger) (w *wayIn, err error) {
	w = &wayIn{run: func(ctx context.Context) error { <-ctx.Done(); return nil }}
	var identity interface {
		TLS() *tls.Config
		Run(context.Context) error
	}
	switch {
	case o.CertFile != "":
		identity, err = listener.NewPair(o.CertFile, o.KeyFile, log)
	case len(o.Domains) > 0:
		identity, err = listener.NewAccount(o.Domains, o.CacheDir, o.Authority, log)
	}
	if err != nil {
		return nil, &ConfigError{err}
	}
	scheme := "http"
	if identity != nil {
		w.tls, w.run, scheme = identity.TLS(), identity.Run, "https"
	}
	if path, ok := strings.CutPrefix(o.Address, unixListen); ok {
		ln, err := socket.Listen(path)
		if err != nil {
			err = fmt.Errorf("serve: listen: %w", err)
			if errors.Is(err, socket.ErrInUse) {
				return nil, hint.Wrap(err, inUseHint)
			}
			return nil, hint.Wrap(err, "name a path where nothing lies, in a directory that is there and may be written")
		}
		w.Listener, w.url = ln, unixListen+ln.Path()
		w.curl = "curl --unix-socket " + path + " " + scheme + "://localhost"
		return w, nil
	}
	ln, err := net.Listen("tcp", o.Address)
	if err != nil {
		err = fmt.Errorf("serve: %w", err)
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, hint.Wrap(err, inUseHint)
		}
		return nil, err
	}
	w.Listener, w.url = ln, scheme+"://"+ln.Addr().String()
	w.curl = "curl " + w.url
	if w.tls == nil && !loopback.Addr(ln.Addr()) {
		log.Warn("keys, prompts and answers can be read on their way: beyond loopback without TLS", "hint", "give --tls-cert and --tls-key, or --tls-domain, unless something in front speaks TLS")
	}
	if addr, ok := ln.Addr().(*net.TCPAddr); ok && len(o.Domains) > 0 && addr.Port != 443 {
		log.Warn("the authority asks at port 443 whether a domain is ours", "listening at", addr.Port, "hint", "listen on port 443, or have it forwarded here")
	}
	return w, nil
}

// Close is there for a server that never ran. Safe after it.
func (w *wayIn) Close() error {
	if err := w.Listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
