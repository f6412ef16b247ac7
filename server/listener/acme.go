package listener

import (
	"context"
	"crypto/tls"
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

	"spotinference/internal/hint"
)

// warnEvery bounds the log: a certificate is tried for again once a minute while clients
// ask for it (autocert's createCertRetryAfter).
const warnEvery = time.Minute

// acmeCertificates are made for our names by an ACME authority as clients ask for them,
// and renewed 30 days before their end. The authority's challenge is answered on the
// listener itself (TLS-ALPN-01, RFC 8737): the authority comes to port 443.
type acmeCertificates struct {
	manager *autocert.Manager
	names   []string // in ASCII
	log     *slog.Logger

	mu     sync.Mutex
	warned time.Time // guarded by mu
}

// newACME checks the names. Nothing is asked of the authority before a client comes.
func newACME(cfg Config) (*acmeCertificates, error) {
	a := &acmeCertificates{log: cfg.Log}
	for _, name := range cfg.Domains {
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil || net.ParseIP(name) != nil || !strings.Contains(strings.Trim(name, "."), ".") || strings.ContainsAny(name, "*:/ ") || strings.HasSuffix(name, ".") {
			return nil, hint.Errorf("give the full name under which clients reach this machine, such as gpu.example.com", "domain %q: not a name that a certificate can be had for", name)
		}
		a.names = append(a.names, ascii)
	}
	if st, err := os.Stat(cfg.CacheDir); err == nil && (!st.IsDir() || st.Mode().Perm()&0o077 != 0) {
		return nil, hint.Errorf("chmod 700 "+cfg.CacheDir, "certificates' directory %s can be read by others (mode %04o)", cfg.CacheDir, st.Mode().Perm())
	}
	a.manager = &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(cfg.CacheDir),
		HostPolicy: autocert.HostWhitelist(a.names...),
		Client:     &acme.Client{DirectoryURL: cfg.Authority, UserAgent: "spotinference"},
	}
	if cfg.Authority == "" {
		a.manager.Client.DirectoryURL = acme.LetsEncryptURL
	}
	return a, nil
}

// config shows the certificates, and answers the authority.
func (a *acmeCertificates) config() *tls.Config { return tlsConfig(a.get, acme.ALPNProto) }

// run does nothing until ctx ends: renewal is autocert's, by timers of its own.
func (a *acmeCertificates) run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// get fails for names that are not ours without asking anybody.
func (a *acmeCertificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c, err := a.manager.GetCertificate(hello)
	if err != nil && slices.Contains(a.names, strings.ToLower(hello.ServerName)) {
		a.warn(hello.ServerName, err)
	}
	return c, err
}

func (a *acmeCertificates) warn(name string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); now.Sub(a.warned) >= warnEvery {
		a.warned = now
		a.log.Warn("no certificate", "domain", name, "err", err, "hint", "port 443 of that name must reach this listener")
	}
}
