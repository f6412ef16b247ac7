// Package realengine finds the real llama-server for tests, so that all of them
// find the same one and none passes in silence where there is none. It knows
// nothing of how an engine is started. Only tests import it.
//
//	server := realengine.Find(t)
//	model := realengine.Model(t)
//	cmd := exec.Command(server, "-m", model, "--host", socket)
package realengine

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"spotinference/test/tinymodel"
)

const (
	// Server names the variable that holds the path of llama-server's launcher.
	Server = "SPOTINFERENCE_TEST_LLAMA_SERVER"
	// Require names the variable that, set to 1, makes a missing engine a failure.
	Require = "SPOTINFERENCE_TEST_REQUIRE"
)

// Find returns the path of a llama-server that can be executed. Without one the
// test is skipped, or fails where the environment requires the engine.
func Find(t testing.TB) string {
	t.Helper()
	name := os.Getenv(Server)
	if name == "" {
		const missing = "NOT TESTED AGAINST THE REAL ENGINE: " + Server + " is not set; " +
			"run: export " + Server + "=$(scripts/llama-server)"
		if os.Getenv(Require) == "1" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	// A name that is set and wrong is a mistake, which a skip would hide.
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s: %v", Server, err)
	}
	path, err = filepath.Abs(path)
	if err != nil {
		t.Fatalf("%s: %v", Server, err)
	}
	return path
}

// model is made once for all tests of a process.
var model = sync.OnceValues(func() ([]byte, error) {
	var b bytes.Buffer
	err := tinymodel.Write(&b)
	return b.Bytes(), err
})

// Model returns the path of a model that llama-server can load. The file is the
// test's own and goes away with it.
func Model(t testing.TB) string {
	t.Helper()
	content, err := model()
	return write(t, content, err)
}

// Script is Model for a model that always answers with the pieces: see
// [tinymodel.WriteScript].
func Script(t testing.TB, pieces ...string) string {
	t.Helper()
	var b bytes.Buffer
	err := tinymodel.WriteScript(&b, pieces...)
	return write(t, b.Bytes(), err)
}

func write(t testing.TB, content []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatalf("make the model: %v", err)
	}
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatalf("make the model: %v", err)
	}
	return path
}
