package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spotinference/server/control"
	"spotinference/server/listener/certtest"
	"spotinference/test/harness"
)

// TestServeOverTLS, and tells where.
func TestServeOverTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pair := certtest.Make(t, time.Now().Add(time.Hour))
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string][]byte{certFile: pair.Cert, keyFile: pair.Key} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := harness.Serve(t, []string{"SPOTINFERENCE_API_KEY=" + harness.Key}, "--listen", "0.0.0.0:0", "--provider", "none",
		"--tls-cert", certFile, "--tls-key", keyFile, "--engine", "llama", "--", harness.Program(t), "sim-engine", "-m", "sim.gguf")
	if !strings.HasPrefix(s.URL, "https://") || strings.Contains(s.Stderr(), "without TLS") {
		t.Errorf("%s: %s", s.URL, s.Stderr())
	}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.URL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	// The certificate is of localhost, whose address only some machines know by name.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: pair.Client(), DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	}}}
	resp, err := client.Get("https://localhost:" + port + "/healthz")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	resp.Body.Close()
	client.CloseIdleConnections()
	s.Stop()
}

// TestPlainBeyondLoopback is warned of, once.
func TestPlainBeyondLoopback(t *testing.T) {
	t.Parallel()
	s := harness.Serve(t, []string{"SPOTINFERENCE_API_KEY=" + harness.Key}, "--listen", "0.0.0.0:0", "--provider", "none", "--engine", "llama", "--",
		harness.Program(t), "sim-engine", "-m", "sim.gguf")
	if n := strings.Count(s.Stderr(), "without TLS"); n != 1 {
		t.Errorf("warned %d times: %s", n, s.Stderr())
	}
	s.Stop()
}

// TestServeOnAUnixSocket: its file comes and goes with it, and after a kill -9 the
// next one takes its place.
func TestServeOnAUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "api.sock")
	args := []string{"--listen", "unix:" + path, "--provider", "none", "--engine", "llama", "--", harness.Program(t), "sim-engine", "-m", "sim.gguf"}
	s := harness.Serve(t, nil, args...)
	if s.URL != "unix:"+path {
		t.Errorf("listening at %s", s.URL)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
	healthy := func() {
		t.Helper()
		resp, err := client.Get("http://gateway/healthz")
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", resp, err)
		}
		resp.Body.Close()
	}
	healthy()
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v, want mode 0600", st, err)
	}

	second := harness.Start(t, harness.Program(t), nil, args...)
	ended := second.Wait()
	if second.Cmd.ProcessState.ExitCode() != 1 || !strings.Contains(second.Stderr(), "somebody listens there already") || !strings.Contains(second.Stderr(), "hint: stop what listens there") {
		t.Errorf("a second one: %v %s", ended, second.Stderr())
	}
	healthy()

	s.Kill()
	s = harness.Serve(t, nil, args...)
	healthy()
	s.Stop()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after its end: %v", err)
	}
}

// TestNothingIsAdministeredOverTheAPI: what the control socket answers, and what
// engines answer beside inference, is not there.
func TestNothingIsAdministeredOverTheAPI(t *testing.T) {
	t.Parallel()
	s := harness.Serve(t, []string{"SPOTINFERENCE_API_KEY=" + harness.Key}, "--provider", "none", "--engine", "llama", "--", harness.Program(t), "sim-engine", "-m", "sim.gguf").Ready()
	paths := []string{
		"/", "/v1", "/v1/", "/admin", "/control", "/debug/pprof/", "/debug/vars", "/config", "/events", "/ledger",
		"/props", "/slots", "/slots/0?action=erase", "/lora-adapters", "/models/load", "/models/unload", "/completion", "/tokenize", "/apply-template",
		"/sleep", "/wake_up", "/is_sleeping", "/shutdown", "/reset_prefix_cache", "/collective_rpc", "/v1/load_lora_adapter", "/v1/unload_lora_adapter",
		"/server_info", "/start_profile", "/pause", "/resume", "/update_weights", "/docs", "/openapi.json",
	}
	names := control.Names()
	for _, name := range names {
		for _, before := range []string{"/", "/v1/", "/control/", "/admin/", "/api/", "/v1/../", "/%2e%2e/", "//"} {
			paths = append(paths, before+name)
		}
	}
	for _, path := range paths {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(conn, method+" "+path+" HTTP/1.0\r\nAuthorization: Bearer "+harness.Key+"\r\nContent-Length: 0\r\n\r\n")
			b, err := io.ReadAll(conn)
			if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 404 ") {
				t.Errorf("%s %s: %.60q, %v, want 404", method, path, b, err)
			}
			conn.Close()
		}
	}
	// The names are those that serve knows: one that it does not is said to be unknown.
	for _, name := range append([]string{"nothing"}, names...) {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", s.Ledger+".sock") }}}
		resp, err := client.Post("http://serve/"+name, "application/json", strings.NewReader("null"))
		if err != nil {
			t.Fatal(err)
		}
		var answer struct{ Error string }
		json.NewDecoder(resp.Body).Decode(&answer)
		resp.Body.Close()
		if unknown := strings.Contains(answer.Error, "knows no call"); unknown != (name == "nothing") {
			t.Errorf("control socket, %s: %q", name, answer.Error)
		}
	}
	s.Stop()
}
