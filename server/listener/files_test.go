package listener_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/internal/hint"
	"spotinference/server/listener"
	"spotinference/server/listener/certtest"
)

// logged is a log to look at.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// take returns what was said since it was last asked.
func (l *logged) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.buf.Reset()
	return l.buf.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// files are where a pair lies.
type files struct {
	t         *testing.T
	cert, key string
}

func newFiles(t *testing.T) files {
	dir := t.TempDir()
	return files{t, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
}

func (f files) put(cert, key []byte) {
	f.t.Helper()
	for path, b := range map[string][]byte{f.cert: cert, f.key: key} {
		if b == nil {
			continue
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
}

// listener makes one with the files, which does not listen.
func (f files) listener(log *slog.Logger) (*listener.Listener, error) {
	return listener.New(listener.Config{Address: "127.0.0.1:0", CertFile: f.cert, KeyFile: f.key, MaxRequest: 1, Log: log})
}

// shown is the certificate that clients see now.
func shown(t *testing.T, l *listener.Listener) []byte {
	t.Helper()
	c, err := l.TLS().GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf.Raw
}

// TestRenewal: half of a new pair is not taken, and said once; the whole is.
func TestRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, log := newFiles(t), &logged{}
		first := certtest.Make(t, time.Now().Add(time.Hour))
		next := certtest.Make(t, time.Now().Add(time.Hour))
		f.put(first.Cert, first.Key)
		p, err := f.listener(log.logger())
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go p.Run(ctx, listener.Hooks{})
		was := shown(t, p)
		const look = 10 * time.Second
		steps := []struct {
			what  string
			do    func()
			taken bool
			says  string // "" for nothing
		}{
			{"nothing", func() {}, false, ""},
			{"the new certificate alone", func() { f.put(next.Cert, nil) }, false, "the old one stays"},
			{"still", func() {}, false, ""},
			{"half of the key", func() { f.put(nil, next.Key[:40]) }, false, "the old one stays"},
			{"no key", func() { os.Remove(f.key) }, false, "no such file"},
			{"still none", func() {}, false, ""},
			{"a key for all to read", func() { f.put(nil, next.Key); os.Chmod(f.key, 0o644) }, false, "can be read by others"},
			{"the whole", func() { os.Chmod(f.key, 0o600) }, true, "certificate taken"},
			{"nothing more", func() {}, false, ""},
		}
		for _, s := range steps {
			log.take()
			s.do()
			time.Sleep(look)
			synctest.Wait()
			is, said := shown(t, p), log.take()
			if bytes.Equal(is, was) == s.taken {
				t.Errorf("%s: taken %v, want %v", s.what, !s.taken, s.taken)
			}
			if s.says == "" && said != "" || !strings.Contains(said, s.says) || strings.Count(said, "\n") > 1 {
				t.Errorf("%s: says %q, want one line with %q", s.what, said, s.says)
			}
			was = is
		}
		log.take()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if said := log.take(); strings.Count(said, "expired") != 1 {
			t.Errorf("past its end: %q, want one line", said)
		}
	})
}

func TestPairsThatAreRefused(t *testing.T) {
	t.Parallel()
	a, b := certtest.Make(t, time.Now().Add(time.Hour)), certtest.Make(t, time.Now().Add(time.Hour))
	f := func(change func(files), want, hinted string) {
		t.Helper()
		at := newFiles(t)
		at.put(a.Cert, a.Key)
		change(at)
		_, err := at.listener(slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
			return
		}
		if h := hint.Of(err); !strings.Contains(h, hinted) {
			t.Errorf("hint %q, want %q", h, hinted)
		}
	}
	f(func(at files) { os.Remove(at.cert) }, "read the certificate: open", "name a file")
	f(func(at files) { os.Remove(at.key) }, "read the certificate's key: open", "name a file")
	f(func(at files) { at.put(b.Cert, nil) }, "does not match", "the key that it was made for")
	f(func(at files) { at.put(a.Key, nil) }, "certificate", "both in PEM")
	f(func(at files) { at.put([]byte("garbage"), nil) }, "certificate", "both in PEM")
	f(func(at files) { os.Chmod(at.key, 0o640) }, "can be read by others (mode 0640)", "chmod 600 ")
	f(func(at files) { os.Remove(at.key); os.Mkdir(at.key, 0o700) }, "not a file", "name a file")
}

// TestAnExpiredCertificate is shown, and complained of: the clock may be what is wrong.
func TestAnExpiredCertificate(t *testing.T) {
	t.Parallel()
	f, log := newFiles(t), &logged{}
	old := certtest.Make(t, time.Now().Add(-time.Minute))
	f.put(old.Cert, old.Key)
	if _, err := f.listener(log.logger()); err != nil {
		t.Fatal(err)
	}
	if said := log.take(); !strings.Contains(said, "level=WARN") || !strings.Contains(said, "expired") {
		t.Errorf("says %q", said)
	}
}
