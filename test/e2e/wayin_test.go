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
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/server/listener/certtest"
)

// TestServeOverTLS, and tells where.
func TestServeOverTLS(t *testing.T) {
	dir := t.TempDir()
	pair := certtest.Make(t, time.Now().Add(time.Hour))
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string][]byte{certFile: pair.Cert, keyFile: pair.Key} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := serve(t, []string{"SPOTINFERENCE_API_KEY=" + testKey}, "--listen", "0.0.0.0:0", "--provider", "none",
		"--tls-cert", certFile, "--tls-key", keyFile, "--engine", "llama", "--", program(t), "sim-engine", "-m", "sim.gguf")
	if !strings.HasPrefix(s.url, "https://") || strings.Contains(s.stderr(), "without TLS") {
		t.Errorf("%s: %s", s.url, s.stderr())
	}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: pair.Client()}}
	resp, err := client.Get("https://localhost:" + port + "/healthz")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	resp.Body.Close()
	client.CloseIdleConnections()
	s.stop()
}

// TestPlainBeyondLoopback is warned of, once.
func TestPlainBeyondLoopback(t *testing.T) {
	s := serve(t, []string{"SPOTINFERENCE_API_KEY=" + testKey}, "--listen", "0.0.0.0:0", "--provider", "none", "--engine", "llama", "--",
		program(t), "sim-engine", "-m", "sim.gguf")
	if n := strings.Count(s.stderr(), "without TLS"); n != 1 {
		t.Errorf("warned %d times: %s", n, s.stderr())
	}
	s.stop()
}

// TestServeOnAUnixSocket: its file comes and goes with it, and after a kill -9 the
// next one takes its place.
func TestServeOnAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	args := []string{"--listen", "unix:" + path, "--provider", "none", "--engine", "llama", "--", program(t), "sim-engine", "-m", "sim.gguf"}
	s := serve(t, nil, args...)
	if s.url != "unix:"+path {
		t.Errorf("listening at %s", s.url)
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

	second := start(t, program(t), nil, args...)
	<-second.exited
	if second.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(second.stderr(), "somebody listens there already") || !strings.Contains(second.stderr(), "hint: stop what listens there") {
		t.Errorf("a second one: %v %s", second.err, second.stderr())
	}
	healthy()

	s.kill()
	s = serve(t, nil, args...)
	healthy()
	s.stop()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after its end: %v", err)
	}
}

// TestNothingIsAdministeredOverTheAPI: what the control socket answers, and what
// engines answer beside inference, is not there.
func TestNothingIsAdministeredOverTheAPI(t *testing.T) {
	s := serve(t, []string{"SPOTINFERENCE_API_KEY=" + testKey}, "--provider", "none", "--engine", "llama", "--", program(t), "sim-engine", "-m", "sim.gguf").ready()
	paths := []string{
		"/", "/v1", "/v1/", "/admin", "/control", "/debug/pprof/", "/debug/vars", "/config", "/events", "/ledger",
		"/props", "/slots", "/slots/0?action=erase", "/lora-adapters", "/models/load", "/models/unload", "/completion", "/tokenize", "/apply-template",
		"/sleep", "/wake_up", "/is_sleeping", "/shutdown", "/reset_prefix_cache", "/collective_rpc", "/v1/load_lora_adapter", "/v1/unload_lora_adapter",
		"/server_info", "/start_profile", "/pause", "/resume", "/update_weights", "/docs", "/openapi.json",
	}
	names := controlNames(t)
	for _, name := range names {
		for _, before := range []string{"/", "/v1/", "/control/", "/admin/", "/api/", "/v1/../", "/%2e%2e/", "//"} {
			paths = append(paths, before+name)
		}
	}
	for _, path := range paths {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(conn, method+" "+path+" HTTP/1.0\r\nAuthorization: Bearer "+testKey+"\r\nContent-Length: 0\r\n\r\n")
			b, err := io.ReadAll(conn)
			if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 404 ") {
				t.Errorf("%s %s: %.60q, %v, want 404", method, path, b, err)
			}
			conn.Close()
		}
	}
	// The names are those that serve knows: one that it does not is said to be unknown.
	for _, name := range append([]string{"nothing"}, names...) {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", s.ledger+".sock") }}}
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
	s.stop()
}

// controlNames are the calls of the control socket, read off the source.
func controlNames(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range controlCall.FindAllSubmatch(text, -1) {
			names = append(names, string(m[1]))
		}
	}
	for _, known := range []string{"status", "suspend", "wake"} {
		if !slices.Contains(names, known) {
			t.Fatalf("control calls %q: %s is not among them", names, known)
		}
	}
	return names
}

var controlCall = regexp.MustCompile(`"([a-z][a-z_ -]*)": +func\((?:\w+ )?context\.Context, (?:\w+ )?json\.RawMessage\)`)
