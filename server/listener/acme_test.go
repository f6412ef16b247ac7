package listener_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"spotinference/server/listener"
)

// authority is an ACME authority (RFC 8555) with one account and one order, which
// proves that a name is ours as real ones do: by a look at the listener (RFC 8737).
type authority struct {
	t      *testing.T
	server *httptest.Server
	listen string // where every name leads
	key    crypto.Signer
	root   *x509.Certificate

	mu         sync.Mutex
	asked      int    // but for authorizations; guarded by mu
	thumbprint string // of the account's key; guarded by mu
	name       string // that the order is for; guarded by mu
	valid      bool   // it was proved; guarded by mu
	issued     []byte // in PEM; guarded by mu
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour * 24 * 365),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key}
	if a.root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.server = httptest.NewServer(a)
	t.Cleanup(a.server.Close)
	return a
}

const token = "a-token"

func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	// Once a certificate is there autocert looks whether authorizations are left over, in a
	// goroutine that nobody can wait for. No certificate comes of these questions alone.
	if r.URL.Path != "/authz" && r.URL.Path != "/nonce" {
		a.asked++
	}
	url := func(path string) string { return a.server.URL + path }
	w.Header().Set("Replay-Nonce", rand.Text())
	var jws struct{ Protected, Payload string }
	var payload []byte
	if r.Method == http.MethodPost {
		if err := json.NewDecoder(r.Body).Decode(&jws); err != nil {
			a.t.Error(err)
		}
		payload = unbase64(a.t, jws.Payload)
	}
	status := "pending"
	if a.valid {
		status = "valid"
	}
	challenge := map[string]string{"type": "tls-alpn-01", "url": url("/challenge"), "token": token, "status": status}
	order := map[string]any{"status": map[bool]string{false: "pending", true: "ready"}[a.valid], "authorizations": []string{url("/authz")}, "finalize": url("/finalize"),
		"identifiers": []any{map[string]string{"type": "dns", "value": a.name}}}
	if a.issued != nil {
		order["status"], order["certificate"] = "valid", url("/certificate")
	}
	answer := func(code int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(v)
	}
	switch r.URL.Path {
	case "/directory":
		answer(200, map[string]string{"newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": url("/order"), "revokeCert": url("/revoke"), "keyChange": url("/change")})
	case "/nonce":
	case "/account":
		var head struct {
			JWK struct{ Crv, Kty, X, Y string }
		}
		if err := json.Unmarshal(unbase64(a.t, jws.Protected), &head); err != nil {
			a.t.Error(err)
		}
		sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":%q,"kty":%q,"x":%q,"y":%q}`, head.JWK.Crv, head.JWK.Kty, head.JWK.X, head.JWK.Y)) // RFC 7638
		a.thumbprint = base64.RawURLEncoding.EncodeToString(sum[:])
		w.Header().Set("Location", url("/account/1"))
		answer(201, map[string]string{"status": "valid"})
	case "/order":
		var want struct{ Identifiers []struct{ Value string } }
		if err := json.Unmarshal(payload, &want); err != nil || len(want.Identifiers) != 1 {
			a.t.Errorf("order %s: %v", payload, err)
		}
		a.name, a.valid, a.issued = want.Identifiers[0].Value, false, nil
		order["identifiers"], order["status"] = want.Identifiers, "pending"
		delete(order, "certificate")
		w.Header().Set("Location", url("/order/1"))
		answer(201, order)
	case "/order/1":
		answer(200, order)
	case "/authz":
		answer(200, map[string]any{"status": status, "identifier": map[string]string{"type": "dns", "value": a.name}, "challenges": []any{challenge}})
	case "/challenge":
		a.prove()
		answer(200, challenge)
	case "/finalize":
		if !a.valid {
			a.t.Error("finalized before it was proved")
		}
		var request struct{ CSR string }
		if err := json.Unmarshal(payload, &request); err != nil {
			a.t.Error(err)
		}
		a.issue(unbase64(a.t, request.CSR))
		order["status"], order["certificate"] = "valid", url("/certificate")
		w.Header().Set("Location", url("/order/1"))
		answer(200, order)
	case "/certificate":
		w.Write(a.issued)
	default:
		a.t.Errorf("asked for %s", r.URL.Path)
		answer(404, map[string]string{"type": "urn:ietf:params:acme:error:malformed"})
	}
}

// prove looks whether who listens there knows the account's key.
func (a *authority) prove() {
	conn, err := tls.Dial("tcp", a.listen, &tls.Config{ServerName: a.name, NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true})
	if err != nil {
		a.t.Errorf("challenge: %v", err)
		return
	}
	defer conn.Close()
	want := sha256.Sum256([]byte(token + "." + a.thumbprint))
	for _, e := range conn.ConnectionState().PeerCertificates[0].Extensions {
		var got []byte
		if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}) && e.Critical {
			if _, err := asn1.Unmarshal(e.Value, &got); err == nil && bytes.Equal(got, want[:]) {
				a.valid = true
			}
		}
	}
}

func (a *authority) issue(csr []byte) {
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		a.t.Error(err)
		return
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: request.DNSNames, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 90),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.root, request.PublicKey, a.key)
	if err != nil {
		a.t.Error(err)
		return
	}
	for _, der := range [][]byte{der, a.root.Raw} {
		a.issued = append(a.issued, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
}

func unbase64(t *testing.T, text string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Error(err)
	}
	return b
}

func (a *authority) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

// client asks for a name, and trusts the authority.
func (a *authority) client(name string) error {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	conn, err := tls.Dial("tcp", a.listen, &tls.Config{ServerName: name, RootCAs: pool})
	if err != nil {
		return err
	}
	return conn.Close()
}

// accept runs the handshakes of a listener's clients.
func (a *authority) accept(l *listener.Listener) (close func()) {
	if err := l.Listen(); err != nil {
		a.t.Fatal(err)
	}
	a.listen = l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.Run(ctx, listener.Hooks{}) })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = conn.Read(make([]byte, 1)) // the handshake comes first
				conn.Close()
			}()
		}
	})
	return func() { l.Close(); stop(); wg.Wait() }
}

// newACME makes a listener whose certificates are the authority's.
func newACME(domains []string, dir, directory string, log *slog.Logger) (*listener.Listener, error) {
	return listener.New(listener.Config{Address: "127.0.0.1:0", Domains: domains, CacheDir: dir, Authority: directory, MaxRequest: 1, Log: log})
}

// TestACertificateByACME is fetched for the first client that asks for our name, kept,
// and not fetched again by the next serve. Other names, and a start, ask nobody.
func TestACertificateByACME(t *testing.T) {
	t.Parallel()
	const name = "gpu.example.com"
	a := newAuthority(t)
	dir := filepath.Join(t.TempDir(), "ledger.db.acme")
	open := func() func() {
		l, err := newACME([]string{"GPU.example.com"}, dir, a.server.URL+"/directory", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return a.accept(l)
	}
	stop := open()
	for _, other := range []string{"other.example.com", "example.com", "", "127.0.0.1", "gpu.example.com.evil.net"} {
		if err := a.client(other); err == nil {
			t.Errorf("there is a certificate for %q", other)
		}
	}
	if n := a.count(); n != 0 {
		t.Fatalf("the authority was asked %d times before anybody asked for our name", n)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the cache is made before there is something to keep: %v", err)
	}
	if err := a.client(name); err != nil {
		t.Fatal(err)
	}
	asked := a.count()
	if asked == 0 {
		t.Error("the authority was never asked")
	}
	if err := a.client(name); err != nil || a.count() != asked {
		t.Errorf("the next client: %v, %d more questions", err, a.count()-asked)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the cache: %v, %v, want mode 0700", st, err)
	}
	stop()
	stop = open()
	defer stop()
	if err := a.client(name); err != nil || a.count() != asked {
		t.Errorf("the next serve: %v, %d more questions", err, a.count()-asked)
	}
}

// TestAnAuthorityThatIsAway is said once, and no other harm.
func TestAnAuthorityThatIsAway(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.server.Close()
	log := &logged{}
	l, err := newACME([]string{"gpu.example.com"}, filepath.Join(t.TempDir(), "c"), a.server.URL+"/directory", log.logger())
	if err != nil {
		t.Fatal(err)
	}
	defer a.accept(l)()
	for range 3 {
		if err := a.client("gpu.example.com"); err == nil {
			t.Error("there is a certificate")
		}
	}
	if said := log.take(); strings.Count(said, "no certificate") != 1 || !strings.Contains(said, "port 443") {
		t.Errorf("says %q", said)
	}
}

func TestNamesThatAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"box": "not a name", "10.0.0.1": "not a name", "*.example.com": "not a name", "a.example.com:443": "not a name", "https://a.example.com": "not a name", "a example.com": "not a name",
		"a.example.com": "can be read by others",
	} {
		if _, err := newACME([]string{name}, dir, "", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
}
