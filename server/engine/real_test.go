package engine_test

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/ledger"
	"spotinference/server/engine"
	"spotinference/test/realengine"
)

// TestRealLlamaServer runs llama.cpp's own server through the same life.
func TestRealLlamaServer(t *testing.T) {
	t.Parallel()
	command, model := realengine.Find(t), realengine.Model(t)
	r := start(t, engine.Config{
		Command: []string{command, "-m", model, "--alias", "real", "--host", "0.0.0.0", "--port", "8080"},
		Backoff: 10 * time.Millisecond,
	})
	first := r.waitState(ledger.Ready)
	if code, body := r.get("/v1/models"); code != 200 || !strings.Contains(body, `"real"`) {
		t.Errorf("models = %d %s", code, body)
	}
	if code, body := r.get("/metrics"); code != 200 || !strings.Contains(body, "llamacpp:tokens_predicted_total") {
		t.Errorf("metrics = %d %s", code, body)
	}

	unix.Kill(guardOf(t, first.PID), unix.SIGKILL) // its guard
	waitFor(t, "the second start", func() bool { s := r.Status(); return s.State == ledger.Ready && s.PID != first.PID })
	if alive(first.PID) {
		t.Error("the first process lives")
	}
	second := r.Status().PID
	unix.Kill(second, unix.SIGKILL)
	waitFor(t, "the third start", func() bool { s := r.Status(); return s.State == ledger.Ready && s.PID != second })
	if !strings.Contains(r.stderr.String(), "engine | ") {
		t.Error("the engine's last lines were not printed after a crash")
	}

	asked := time.Now()
	r.cancel()
	if err := r.wait(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if s := r.Status(); s.LastExit != "exit status 0" || s.Restarts != 2 {
		t.Errorf("status at the end = %+v, want two restarts and exit status 0", s)
	}
	t.Logf("stopped in %v; path: %s", time.Since(asked), r.path())
}
