package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"spotinference/internal/loopback"
	"spotinference/server/cert"
	"spotinference/socket"
)

// unixListen begins a --listen that is a Unix socket's path.
const unixListen = "unix:"

// wayInOptions are the settings that say where clients come in, and what proves to
// them who we are.
type wayInOptions struct {
	listen        string
	certFile, key string
	domains       []string
	cache         string // where ACME's keys and certificates lie
	authority     string // ACME's directory; "": Let's Encrypt's
}

func readWayIn(s settings, ledger string) (o wayInOptions, err error) {
	o = wayInOptions{
		listen: s.text("listen"), certFile: s.text("tls-cert"), key: s.text("tls-key"),
		cache: s.text("tls-cache"), authority: s.text("tls-authority"),
	}
	if o.domains, err = s.flags.GetStringSlice("tls-domain"); err != nil {
		return o, err
	}
	switch {
	case (o.certFile == "") != (o.key == ""):
		return o, usagef("give both", "serve: --tls-cert and --tls-key belong together")
	case o.certFile != "" && len(o.domains) > 0:
		return o, usagef("leave one of them out", "serve: a certificate from --tls-cert, and one for --tls-domain")
	case len(o.domains) == 0 && (o.cache != "" || o.authority != ""):
		return o, usagef("name the domain with --tls-domain", "serve: --tls-cache without a domain")
	}
	if o.cache == "" {
		o.cache = ledger + ".acme"
	}
	return o, nil
}

// wayIn is where clients come in.
type wayIn struct {
	net.Listener
	tls  *tls.Config                     // nil: plain
	run  func(ctx context.Context) error // keeps the certificate fresh
	url  string
	curl string // how to ask it from a shell
}

func (o wayInOptions) open(log *slog.Logger) (w *wayIn, err error) {
	w = &wayIn{run: func(ctx context.Context) error { <-ctx.Done(); return nil }}
	var identity interface {
		TLS() *tls.Config
		Run(context.Context) error
	}
	switch {
	case o.certFile != "":
		identity, err = cert.NewPair(o.certFile, o.key, log)
	case len(o.domains) > 0:
		identity, err = cert.NewAccount(o.domains, o.cache, o.authority, log)
	}
	if err != nil {
		return nil, usagef(hintFor(err), "serve: %w", err)
	}
	scheme := "http"
	if identity != nil {
		w.tls, w.run, scheme = identity.TLS(), identity.Run, "https"
	}
	if path, ok := strings.CutPrefix(o.listen, unixListen); ok {
		ln, err := socket.Listen(path)
		if err != nil {
			err = fmt.Errorf("serve: listen: %w", err)
			if hintFor(err) == "" {
				err = &hintedError{err, "name a path where nothing lies, in a directory that is there and may be written"}
			}
			return nil, err
		}
		w.Listener, w.url = ln, unixListen+ln.Path()
		w.curl = "curl --unix-socket " + path + " " + scheme + "://localhost"
		return w, nil
	}
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	w.Listener, w.url = ln, scheme+"://"+ln.Addr().String()
	w.curl = "curl " + w.url
	if w.tls == nil && !loopback.Addr(ln.Addr()) {
		log.Warn("keys, prompts and answers can be read on their way: beyond loopback without TLS", "hint", "give --tls-cert and --tls-key, or --tls-domain, unless something in front speaks TLS")
	}
	if addr, ok := ln.Addr().(*net.TCPAddr); ok && len(o.domains) > 0 && addr.Port != 443 {
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
