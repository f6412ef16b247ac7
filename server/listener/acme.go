package listener

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/net/idna"
)

// complainEvery bounds the log: a certificate is tried for again once a minute while
// clients ask for it (autocert's createCertRetryAfter).
const complainEvery = time.Minute

// Account has certificates for our names made by an ACME authority as clients ask for
// them, and renewed 30 days before their end. It answers the authority's challenge on
// the listener itself (TLS-ALPN-01, RFC 8737): the authority comes to port 443.
type Account struct {
	manager *autocert.Manager
	names   []string // in ASCII
	log     *slog.Logger

	mu   sync.Mutex
	said time.Time // guarded by mu
}

// NewAccount keeps its keys and certificates in dir, which is made in mode 0700 when
// there is something to keep. directory is the authority's URL, Let's Encrypt's where
// empty. Nothing is asked of it before a client comes.
func NewAccount(names []string, dir, directory string, log *slog.Logger) (*Account, error) {
	a := &Account{log: log}
	for _, name := range names {
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil || net.ParseIP(name) != nil || !strings.Contains(strings.Trim(name, "."), ".") || strings.ContainsAny(name, "*:/ ") || strings.HasSuffix(name, ".") {
			return nil, &Error{fmt.Sprintf("domain %q: not a name that a certificate can be had for", name), "give the full name under which clients reach this machine, such as gpu.example.com", err}
		}
		a.names = append(a.names, ascii)
	}
	if st, err := os.Stat(dir); err == nil && (!st.IsDir() || st.Mode().Perm()&0o077 != 0) {
		return nil, &Error{fmt.Sprintf("certificates' directory %s can be read by others (mode %04o)", dir, st.Mode().Perm()), "chmod 700 " + dir, nil}
	}
	a.manager = &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(dir),
		HostPolicy: autocert.HostWhitelist(a.names...),
		Client:     &acme.Client{DirectoryURL: directory, UserAgent: "spotinference"},
	}
	if directory == "" {
		a.manager.Client.DirectoryURL = acme.LetsEncryptURL
	}
	return a, nil
}

// TLS is the configuration that shows them, and answers the authority.
func (a *Account) TLS() *tls.Config { return config(a.get, acme.ALPNProto) }

// Run does nothing until ctx ends: renewal is autocert's, by timers of its own.
func (a *Account) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// get fails for names that are not ours without asking anybody.
func (a *Account) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c, err := a.manager.GetCertificate(hello)
	if err != nil && slices.Contains(a.names, strings.ToLower(hello.ServerName)) {
		a.complain(hello.ServerName, err)
	}
	return c, err
}

func (a *Account) complain(name string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); now.Sub(a.said) >= complainEvery {
		a.said = now
		a.log.Warn("no certificate", "domain", name, "err", err, "hint", "port 443 of that name must reach this listener")
	}
}
