package e2e_test

import (
	"os"
	"path/filepath"
	"slices"
	"spotinference/test/harness"
	"strings"
	"testing"

	"spotinference/gpu"
	"spotinference/server/api"
)

// seldom are the metrics that these runs may not show: they count what does not happen
// here, or what nvidia-smi does not tell.
var seldom = []string{
	"spotinference_tls_handshake_failures_total", "spotinference_sample_failures_total", "spotinference_gpu_energy_joules_total",
	"spotinference_gpu_ecc_corrected_errors_total", "spotinference_gpu_ecc_uncorrected_errors_total", "spotinference_gpu_xid_errors_total",
	"spotinference_balance_low", "spotinference_residuals_total",
}

// TestMetricsAreInTheTables: what a serve with a bill and one with a GPU show is in the
// tables, and all that is in the tables is shown.
func TestMetricsAreInTheTables(t *testing.T) {
	t.Parallel()
	table := map[string]string{} // the type of each
	for _, m := range api.MetricsTable() {
		table[m.Name] = m.Type
	}
	for _, m := range gpu.MetricsTable() {
		table[m.Name] = m.Type
	}
	bin := t.TempDir()
	smi := "#!/bin/sh\nwhile echo '1, 0, GPU-a, Tesla T4, 470.57.02, 12, 100, 15360, 27.31, 70.00, 40, 585, 5000, 0x1, 0x1, [N/A], [N/A]'; do sleep 1; done\n"
	if err := os.WriteFile(filepath.Join(bin, "nvidia-smi"), []byte(smi), 0o700); err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	look := func(s *harness.Gateway, ready string) {
		t.Helper()
		s.Ready().Post("/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"hello"}],"max_tokens":2}`)
		s.Post("/nope", "")
		harness.Eventually(t, ready+" is shown", func() bool { return strings.Contains(s.Get("/metrics"), ready) })
		for line := range strings.Lines(s.Get("/metrics")) {
			if family, ok := strings.CutPrefix(line, "# TYPE "); ok {
				name, kind, _ := strings.Cut(strings.TrimSpace(family), " ")
				shown[name] = true
				if table[name] != kind {
					t.Errorf("%s: a %s, the tables say %q", name, kind, table[name])
				}
			} else if name := strings.TrimSpace(line); !strings.HasPrefix(name, "#") && table[metricName(name)] == "" {
				t.Errorf("%s: not in the tables", name)
			}
		}
		s.Stop()
	}
	look(harness.Serve(t, nil, "--demo"), "spotinference_sample_timestamp_seconds 1")
	look(harness.Serve(t, []string{"PATH=" + bin + ":" + os.Getenv("PATH")}, "--provider", "none", "--engine", "llama", "--", harness.Program(t), "sim-engine", "-m", "x.gguf"), "spotinference_gpu_power_watts{")
	for name := range table {
		if !shown[name] && !slices.Contains(seldom, name) {
			t.Errorf("%s: in the tables, and never shown", name)
		}
	}
}

// metricName is the name of the metric that a line is a series of.
func metricName(line string) string {
	name := line[:strings.IndexAny(line+" ", "{ ")]
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if of, ok := strings.CutSuffix(name, suffix); ok && (strings.HasSuffix(of, "_seconds")) {
			return of
		}
	}
	return name
}
