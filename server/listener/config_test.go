package listener_test

import (
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"spotinference/internal/hint"
	"spotinference/server/listener"
)

func TestConfigsThatAreRefused(t *testing.T) {
	t.Parallel()
	f := func(cfg listener.Config, want, hinted string) {
		t.Helper()
		if cfg.Address == "" {
			cfg.Address = "127.0.0.1:0"
		}
		if err := cfg.Check(); err == nil || err.Error() != want || !strings.Contains(hint.Of(err), hinted) {
			t.Errorf("%+v: %v (%s), want %q", cfg, err, hint.Of(err), want)
		}
		cfg.MaxRequest = 1
		if _, err := listener.New(cfg); err == nil || err.Error() != want {
			t.Errorf("New(%+v): %v, want %q", cfg, err, want)
		}
	}
	f(listener.Config{CertFile: "cert.pem"}, "--tls-cert and --tls-key belong together", "give both")
	f(listener.Config{KeyFile: "key.pem"}, "--tls-cert and --tls-key belong together", "give both")
	f(listener.Config{CertFile: "cert.pem", KeyFile: "key.pem", Domains: []string{"a.example.com"}}, "a certificate from --tls-cert, and one for --tls-domain", "leave one")
	f(listener.Config{CacheDir: "dir"}, "--tls-cache without a domain", "--tls-domain")
	f(listener.Config{Address: "127.0.0.1"}, `listen on "127.0.0.1": not an address`, "127.0.0.1:8080")
	f(listener.Config{Address: "127.0.0.1:http"}, `listen on "127.0.0.1:http": not an address`, "127.0.0.1:8080")
	f(listener.Config{Address: "127.0.0.1:65536"}, `listen on "127.0.0.1:65536": not an address`, "127.0.0.1:8080")
	f(listener.Config{Address: "unix:"}, `listen on "unix:": no path`, "unix:/run")
	if _, err := listener.New(listener.Config{Address: "127.0.0.1:0"}); err == nil {
		t.Error("requests without a bound were accepted")
	}
}

func TestExposed(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"127.0.0.1:1": false, "localhost:1": false, "[::1]:1": false, "127.1.2.3:1": false, "unix:/x": false,
		"0.0.0.0:1": true, ":1": true, "[::]:1": true, "192.0.2.1:1": true, "gpu.example.com:1": true,
	} {
		if got := (listener.Config{Address: address}).Exposed(); got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}

// TestWhereItListens: by a URL, and by a command to ask it with.
func TestWhereItListens(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "api.sock")
	for address, want := range map[string][2]string{
		"127.0.0.1:0":  {"http://127.0.0.1:", "curl http://127.0.0.1:"},
		"unix:" + path: {"unix:" + path, "curl --unix-socket " + path + " http://localhost"},
	} {
		l, err := listener.New(listener.Config{Address: address, MaxRequest: 1, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Listen(); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(l.URL(), want[0]) || !strings.HasPrefix(l.Curl(), want[1]) || l.Addr() == nil {
			t.Errorf("%s: %s, %s", address, l.URL(), l.Curl())
		}
		second, err := listener.New(listener.Config{Address: "unix:" + path, MaxRequest: 1, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if _, isUnix := l.Addr().(*net.UnixAddr); isUnix {
			if err := second.Listen(); err == nil || !strings.HasPrefix(err.Error(), "listen: socket ") || hint.Of(err) != "" {
				t.Errorf("a second one: %v (%s)", err, hint.Of(err))
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
