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
)

// lookEvery is how often the files are read again. They are a few kilobytes; their
// times would not tell a change within one tick, nor one behind a symbolic link.
const lookEvery = 10 * time.Second

// keyMax bounds what is read of a file that was named by mistake.
const keyMax = 1 << 20

// Pair is a certificate and its key in two files.
type Pair struct {
	cert, key string
	log       *slog.Logger
	now       atomic.Pointer[tls.Certificate]

	// Owned by Run, after NewPair.
	taken   [sha256.Size]byte // what the files held when now was read
	refused [sha256.Size]byte // what they held, or why they could not be read, when it was last said
	warned  *tls.Certificate  // whose dates were complained of
}

// NewPair reads both files, and refuses what no client could use.
func NewPair(cert, key string, log *slog.Logger) (*Pair, error) {
	p := &Pair{cert: cert, key: key, log: log}
	c, sum, err := p.read()
	if err != nil {
		return nil, err
	}
	p.now.Store(c)
	p.taken = sum
	p.checkDates()
	return p, nil
}

// TLS is the configuration that shows the newest certificate.
func (p *Pair) TLS() *tls.Config {
	return config(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.now.Load(), nil })
}

// Run takes what the files hold as they change, until ctx ends. What is not a whole
// pair, as in the middle of a renewal, is not taken: the old one stays.
func (p *Pair) Run(ctx context.Context) error {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			p.look()
			p.checkDates()
		}
	}
}

func (p *Pair) look() {
	c, sum, err := p.read()
	switch {
	case err == nil && sum == p.taken:
		p.refused = [sha256.Size]byte{}
	case err == nil:
		p.now.Store(c)
		p.taken = sum
		p.log.Info("certificate taken", "file", p.cert, "until", c.Leaf.NotAfter.UTC())
	default:
		if said := sha256.Sum256(append(sum[:], err.Error()...)); said != p.refused {
			p.refused = said
			p.log.Warn("the certificate's files have changed and cannot be used; the old one stays", "err", err)
		}
	}
}

// checkDates complains once of a certificate that clients refuse.
func (p *Pair) checkDates() {
	c := p.now.Load()
	if c == p.warned {
		return
	}
	switch now := time.Now(); {
	case now.After(c.Leaf.NotAfter):
		p.log.Warn("the certificate has expired: clients will refuse it", "file", p.cert, "since", c.Leaf.NotAfter.UTC())
	case now.Before(c.Leaf.NotBefore):
		p.log.Warn("the certificate is not valid yet: clients will refuse it", "file", p.cert, "from", c.Leaf.NotBefore.UTC())
	default:
		return
	}
	p.warned = c
}

// read returns the pair and the digest of what was read, which is there with an
// error, too.
func (p *Pair) read() (*tls.Certificate, [sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	cert, _, err := readFile(p.cert)
	if err != nil {
		return nil, sum, &Error{fmt.Sprintf("read the certificate: %v", err), "name a file that can be read, with the certificate and those that signed it in PEM", err}
	}
	key, mode, err := readFile(p.key)
	if err != nil {
		return nil, sum, &Error{fmt.Sprintf("read the certificate's key: %v", err), "name a file that can be read, with the key in PEM", err}
	}
	sum = sha256.Sum256(bytes.Join([][]byte{cert, key}, []byte{0}))
	if mode&0o077 != 0 {
		return nil, sum, &Error{fmt.Sprintf("the certificate's key %s can be read by others (mode %04o)", p.key, mode), "chmod 600 " + p.key, nil}
	}
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, sum, &Error{fmt.Sprintf("certificate %s and key %s: %v", p.cert, p.key, err), "give the certificate, before those that signed it, and the key that it was made for, both in PEM", err}
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
	b, err := io.ReadAll(io.LimitReader(f, keyMax))
	return b, st.Mode().Perm(), err
}
