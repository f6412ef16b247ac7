package listener

import (
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"spotinference/internal/hint"
	"spotinference/internal/loopback"
)

// UnixPrefix begins an Address that is the path of a Unix socket.
const UnixPrefix = "unix:"

// Config says where clients connect, and what proves to them who we are: two files, an
// ACME authority, or nothing, which is plain HTTP. Address and MaxRequest are required.
type Config struct {
	// Address is a host and a port, or UnixPrefix and the path of a socket that only our
	// own user can reach.
	Address string

	// CertFile is a certificate, its own first and then those that signed it, and KeyFile
	// the key that it was made for, both in PEM. They are read again when they change.
	CertFile, KeyFile string

	// Domains are the names for which certificates are made by ACME, as clients ask for
	// them.
	Domains []string

	// CacheDir is the directory that the keys and certificates of Domains lie in. It is
	// made in mode 0700 when there is something to keep.
	CacheDir string

	// Authority is the URL of the ACME authority's directory, Let's Encrypt's where empty.
	// It is there for tests.
	Authority string

	// MaxConns bounds the connections that are served at once; what the limit on open
	// files allows where zero.
	MaxConns int

	// MaxRequest bounds the bytes that come between two read deadlines: one head, or one
	// body with its framing.
	MaxRequest int64

	// Listener takes the place of one at Address: it listens already.
	Listener net.Listener

	Now func() time.Time // what certificates' dates are held against; time.Now where nil
	Log *slog.Logger     // slog.Default() where nil
}

// Check says what of c contradicts itself, or is no address. It touches nothing.
func (c Config) Check() error {
	switch {
	case (c.CertFile == "") != (c.KeyFile == ""):
		return hint.Errorf("give both", "--tls-cert and --tls-key belong together")
	case c.CertFile != "" && len(c.Domains) > 0:
		return hint.Errorf("leave one of them out", "a certificate from --tls-cert, and one for --tls-domain")
	case len(c.Domains) == 0 && (c.CacheDir != "" || c.Authority != ""):
		return hint.Errorf("name the domain with --tls-domain", "--tls-cache without a domain")
	}
	if c.Listener != nil {
		return nil
	}
	if path, ok := strings.CutPrefix(c.Address, UnixPrefix); ok {
		if path == "" {
			return hint.Errorf("use a path such as unix:/run/spotinference.sock", "listen on %q: no path", c.Address)
		}
		return nil
	}
	_, port, err := net.SplitHostPort(c.Address)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		return hint.Errorf("use an address such as 127.0.0.1:8080", "listen on %q: not an address", c.Address)
	}
	return nil
}

// Exposed reports whether others than this machine's own users can reach Address.
func (c Config) Exposed() bool {
	if strings.HasPrefix(c.Address, UnixPrefix) {
		return false
	}
	host, _, _ := net.SplitHostPort(c.Address)
	return !loopback.Host(host)
}
