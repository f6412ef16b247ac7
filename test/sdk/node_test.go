package sdk_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"spotinference/test/harness"
	"spotinference/test/realengine"
	"spotinference/test/tinymodel"
)

// node runs one part of testdata/node/sdk.mjs against s, each of its checks as a
// subtest, and returns what the SDKs were told. Without Node or its SDKs the test
// skips, or fails where the environment requires them.
func node(t *testing.T, s *harness.Gateway, part string, env ...string) counted {
	t.Helper()
	return runNode(t, s, "node", "node", part, env...)
}

// node22 is node for the SDKs that need Node 22, which is installed with them.
func node22(t *testing.T, s *harness.Gateway, part string) counted {
	t.Helper()
	arch := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	bin, err := filepath.Abs(filepath.Join("testdata", "node22", "node_modules", "node-linux-"+arch, "bin", "node"))
	if err != nil {
		t.Fatal(err)
	}
	return runNode(t, s, "node22", bin, part)
}

func runNode(t *testing.T, s *harness.Gateway, folder, program, part string, env ...string) counted {
	t.Helper()
	dir := filepath.Join("testdata", folder)
	_, sdks := os.Stat(filepath.Join(dir, "node_modules", ".lock"))
	bin, err := exec.LookPath(program)
	if err != nil || sdks != nil {
		const missing = "NOT TESTED WITH THE NODE SDKS: Node or they are missing; run: scripts/node-sdks"
		if os.Getenv(realengine.Require) == "1" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	cmd := exec.Command(bin, "sdk.mjs", part)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BASE_URL="+s.URL, "API_KEY="+harness.Key, "NO_PROXY=127.0.0.1")
	cmd.Env = append(cmd.Env, env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, &stderr)
	}
	var sum counted
	checks := 0
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); checks++ {
		var c struct {
			Name, Error                  string
			Requests, Prompt, Completion int64
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatalf("node: %v in %q", err, lines.Text())
		}
		t.Run(folder+", "+c.Name, func(t *testing.T) {
			if c.Error != "" {
				t.Error(c.Error)
			}
		})
		sum.requests += c.Requests
		sum.prompt += c.Prompt
		sum.completion += c.Completion
	}
	if checks == 0 {
		t.Fatalf("node: no check ran\n%s", &stderr)
	}
	return sum
}

func TestNodeSDKsOverARealEngine(t *testing.T) {
	t.Parallel()
	s := harness.ServeReal(t)
	want := node(t, s, "engine")
	if u := s.Usage(); u.ByStatus.OK != want.requests || u.PromptTokens != want.prompt || u.CompletionTokens != want.completion {
		t.Errorf("report usage = %+v, the clients saw %+v", u, want)
	}
	s.Stop()
}

// TestResponsesOverARealEngine: what the clients that read Responses streams strictly make
// of llama-server's.
func TestResponsesOverARealEngine(t *testing.T) {
	t.Parallel()
	f := func(s *harness.Gateway, part string) {
		t.Helper()
		want := node22(t, s, part)
		if u := s.Usage(); u.ByStatus.OK != want.requests || u.Requests != want.requests || u.PromptTokens != want.prompt || u.CompletionTokens != want.completion {
			t.Errorf("%s: report usage = %+v, the clients saw %+v", part, u, want)
		}
		s.Stop()
	}
	f(harness.ServeReal(t), "text")
	f(harness.ServeModel(t, realengine.Script(t, tinymodel.Caller()...), nil), "calls")
}

// TestTheLockIsWhole: what CI installs is pinned by its content.
func TestTheLockIsWhole(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"node", "node22"} {
		b, err := os.ReadFile(filepath.Join("testdata", folder, "package-lock.json"))
		if err != nil {
			t.Fatal(err)
		}
		var lock struct {
			Packages map[string]struct{ Version, Integrity, Resolved string }
		}
		if err := json.Unmarshal(b, &lock); err != nil {
			t.Fatal(err)
		}
		for name, p := range lock.Packages {
			if name != "" && (p.Integrity == "" || p.Version == "" || p.Resolved != "") {
				t.Errorf("%s: %q: version %q, integrity %q, from %q: want it by content and from any registry", folder, name, p.Version, p.Integrity, p.Resolved)
			}
		}
		if len(lock.Packages) < 3 {
			t.Errorf("%s: %d packages", folder, len(lock.Packages))
		}
	}
}
