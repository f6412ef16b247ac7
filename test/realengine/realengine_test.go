package realengine_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"spotinference/test/realengine"
)

// child is set in the process that TestFind starts. Find ends the test that calls
// it, so what it does is seen from outside.
const child = "REALENGINE_TEST_CHILD"

func TestFind(t *testing.T) {
	if os.Getenv(child) != "" {
		t.Logf("found %s", realengine.Find(t))
		return
	}
	f := func(server, require, want string, passes bool) {
		t.Helper()
		cmd := exec.Command(os.Args[0], "-test.run=^TestFind$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1", realengine.Server+"="+server, realengine.Require+"="+require)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if (err == nil) != passes || !strings.Contains(string(out), want) {
			t.Errorf("%s=%q %s=%q: %v, want %q and passes = %t:\n%s",
				realengine.Server, server, realengine.Require, require, err, want, passes, out)
		}
	}

	// no engine: loud, and fatal where it is required
	f("", "", "--- SKIP", true)
	f("", "", "scripts/llama-server", true)
	f("", "0", "--- SKIP", true)
	f("", "1", "scripts/llama-server", false)

	// an engine that isn't there or can't be executed is a mistake in either case
	f("/no/such/llama-server", "", "no such file", false)
	plain := filepath.Join(t.TempDir(), "llama-server")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f(plain, "1", realengine.Server, false)

	if err := os.Chmod(plain, 0o700); err != nil {
		t.Fatal(err)
	}
	f(plain, "1", "found "+plain, true)
}

func TestModel(t *testing.T) {
	model := realengine.Model(t)
	content, err := os.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(content), "GGUF") {
		t.Errorf("%s begins with %q, want GGUF", model, content[:4])
	}
}
