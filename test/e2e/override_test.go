package e2e_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"spotinference/ledger"
	"spotinference/test/harness"
)

// TestOverrideBesideASilentServe: one that starts or stops holds the ledger and answers
// nobody yet, or any more. To stop it would be no help.
func TestOverrideBesideASilentServe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "l.db")
	led, err := ledger.Open(ledger.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	cmd := exec.Command(harness.Program(t), "budget", "override", "--for", "1h", "--reason", "x", "--ledger", path)
	cmd.Env = harness.Env()
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "hint: a serve starts or stops with this ledger") {
		t.Errorf("%v, %s", err, out)
	}
}
