package listener

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"spotinference/internal/hint"
)

// rereadEvery is how often the files are read again. They are a few kilobytes; their
// times would not tell a change within one tick, nor one behind a symbolic link.
const rereadEvery = 10 * time.Second

// maxFile bounds what is read of a file that was named by mistake.
const maxFile = 1 << 20

// certFiles are a certificate and its key in two files.
type certFiles struct {
	cert, key string
	now       func() time.Time
	log       *slog.Logger
	current   atomic.Pointer[tls.Certificate]

	// Owned by run, after newCertFiles.
	loaded  [sha256.Size]byte // what the files held when current was read
	refused [sha256.Size]byte // what they held, or why they could not be read, when that was last logged
	warned  *tls.Certificate  // the one whose dates were logged
}

// newCertFiles reads both files, and refuses what no client could use.
func newCertFiles(cfg Config) (*certFiles, error) {
	f := &certFiles{cert: cfg.CertFile, key: cfg.KeyFile, now: cfg.Now, log: cfg.Log}
	c, sum, err := f.read()
	if err != nil {
		return nil, err
	}
	f.current.Store(c)
	f.loaded = sum
	f.checkDates()
	return f, nil
}

func (f *certFiles) config() *tls.Config {
	return tlsConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.current.Load(), nil })
}

// run loads what the files hold as they change, until ctx ends. What is not a whole
// pair, as in the middle of a renewal, is not loaded: the old one stays.
func (f *certFiles) run(ctx context.Context) error {
	t := time.NewTicker(rereadEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			f.reread()
			f.checkDates()
		}
	}
}

func (f *certFiles) reread() {
	c, sum, err := f.read()
	switch {
	case err == nil && sum == f.loaded:
		f.refused = [sha256.Size]byte{}
	case err == nil:
		f.current.Store(c)
		f.loaded = sum
		f.log.Info("certificate taken", "file", f.cert, "until", c.Leaf.NotAfter.UTC())
	default:
		if said := sha256.Sum256(append(sum[:], err.Error()...)); said != f.refused {
			f.refused = said
			f.log.Warn("the certificate's files have changed and cannot be used; the old one stays", "err", err)
		}
	}
}

// checkDates logs once a certificate that clients refuse.
func (f *certFiles) checkDates() {
	c := f.current.Load()
	if c == f.warned {
		return
	}
	switch now := f.now(); {
	case now.After(c.Leaf.NotAfter):
		f.log.Warn("the certificate has expired: clients will refuse it", "file", f.cert, "since", c.Leaf.NotAfter.UTC())
	case now.Before(c.Leaf.NotBefore):
		f.log.Warn("the certificate is not valid yet: clients will refuse it", "file", f.cert, "from", c.Leaf.NotBefore.UTC())
	default:
		return
	}
	f.warned = c
}

// read returns the pair and the digest of what was read. The digest comes with an
// error, too.
func (f *certFiles) read() (*tls.Certificate, [sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	cert, _, err := readFile(f.cert)
	if err != nil {
		return nil, sum, hint.Errorf("name a file that can be read, with the certificate and those that signed it in PEM", "read the certificate: %w", err)
	}
	key, mode, err := readFile(f.key)
	if err != nil {
		return nil, sum, hint.Errorf("name a file that can be read, with the key in PEM", "read the certificate's key: %w", err)
	}
	sum = sha256.Sum256(bytes.Join([][]byte{cert, key}, []byte{0}))
	if mode&0o077 != 0 {
		return nil, sum, hint.Errorf("chmod 600 "+f.key, "the certificate's key %s can be read by others (mode %04o)", f.key, mode)
	}
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, sum, hint.Errorf("give the certificate, before those that signed it, and the key that it was made for, both in PEM", "certificate %s and key %s: %w", f.cert, f.key, err)
	}
	return &c, sum, nil
}

// readFile reads a file and the mode of that same file.
func readFile(path string) ([]byte, os.FileMode, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s: not a file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	return b, st.Mode().Perm(), err
}
