package e2e_test

import (
	"context"
	"database/sql"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spotinference/billing/sim"
	"spotinference/ledger"
	"spotinference/test/harness"
)

// TestServeUsesTheProbe: what billing probe measured is in the samples of the serve
// that starts after it, from its first sample on.
func TestServeUsesTheProbe(t *testing.T) {
	t.Parallel()
	cloud, err := sim.New(sim.Config{Key: "key-of-the-test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := cloud.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cloud.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	env := []string{"HYPERSTACK_API_KEY=key-of-the-test"}
	path := filepath.Join(t.TempDir(), "ledger.db")
	account := []string{"--provider", "hyperstack", "--provider-url", cloud.URL(), "--instance", "701234", "--ledger", path}
	newest := func(calibrated bool, every time.Duration) ledger.Sample {
		t.Helper()
		args := append(append([]string{}, account...), "--sample-every", every.String(), "--engine", "llama", "--", harness.Program(t), "sim-engine", "-m", "sim.gguf")
		s := harness.Serve(t, env, args...).Ready()
		s.Stop()
		r, err := ledger.OpenReader(path, false)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		sample, ok, err := r.Newest()
		if err != nil || !ok || sample.Calibrated != calibrated {
			t.Fatalf("newest sample %+v, %v, %v, want calibrated %v", sample, ok, err, calibrated)
		}
		return sample
	}
	if s := newest(false, time.Minute); s.Lag != 5*time.Minute {
		t.Errorf("lag %s before the probe, want the adapter's own", s.Lag)
	}
	out, errs, code := harness.Command(t, env, append([]string{"billing", "probe", "--every", "1s", "--for", "10s"}, account...)...)
	if code != 0 || !strings.Contains(out, "Written to "+path) {
		t.Fatalf("probe: %d\n%s%s", code, out, errs)
	}
	// The sim's bill moves every second. What is sampled once a minute cannot be
	// held to three seconds.
	if s := newest(true, time.Minute); s.Step < time.Second || s.Step > 3*time.Second || s.Lag != 3*time.Minute {
		t.Errorf("step %s and lag %s after the probe, want about 1s and 3m", s.Step, s.Lag)
	}
}

// TestServeWarnsOfALowBalance: an account that is low is said once, in the log, the
// ledger and the metrics; it is served all the same.
func TestServeWarnsOfALowBalance(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	s := harness.Serve(t, nil, "--demo", "--low-balance", "1000", "--sample-every", "1s", "--ledger", path).Ready()
	metrics := func() string {
		resp, err := http.Get(s.URL + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	harness.Eventually(t, "the metric says low", func() bool { return strings.Contains(metrics(), "spotinference_balance_low 1\n") })
	s.Ready()
	s.Stop()
	if n := strings.Count(s.Stderr(), "balance is low"); n != 1 {
		t.Errorf("said %d times:\n%s", n, s.Stderr())
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var detail string
	if err := db.QueryRow("SELECT detail FROM event WHERE kind = 'billing' AND subject = 'balance_low'").Scan(&detail); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(detail, `"threshold":"1000","currency":"USD"`) || !strings.Contains(detail, `"left":"99.`) && !strings.Contains(detail, `"left":"100"`) {
		t.Errorf("event %s", detail)
	}
}

// TestReconcileExits: 0 where the invoice and the ledger agree, 1 where they do not.
func TestReconcileExits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "ledger.db")
	led, err := ledger.Open(ledger.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := led.SetProvider("hyperstack"); err != nil {
		t.Fatal(err)
	}
	day := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	for h := range 25 {
		bill := ledger.Nanos(2_500_000_000 * (h + 7))
		if _, err := led.AddSample(t.Context(), ledger.Sample{
			At: day.Add(time.Duration(h) * time.Hour), Provider: "hyperstack", Account: "1", Currency: "USD",
			Truth: ledger.TruthResource, Step: time.Minute, Lag: 5 * time.Minute, Every: time.Hour,
			Lines: []ledger.Line{{Resource: "vm-701234", Kind: ledger.Instance, Running: true, Bill: &bill, Epoch: "e"}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := led.Close(); err != nil {
		t.Fatal(err)
	}
	exits := func(want int, amount string, args ...string) {
		t.Helper()
		file := filepath.Join(dir, "invoice.csv")
		if err := os.WriteFile(file, []byte("resource_id,date,incurred_bill,currency\n701234,2026-01-05,"+amount+",usd\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, errs, code := harness.Command(t, nil, append([]string{"report", "reconcile", "--ledger", path, "--invoice", file}, args...)...)
		if code != want || !strings.Contains(out, "vm-701234") {
			t.Errorf("reconcile %s %v: exit %d, want %d\n%s%s", amount, args, code, want, out, errs)
		}
	}
	exits(0, "60")
	exits(0, "60.00999")
	exits(1, "60.02")
	exits(0, "60.02", "--tolerance", "0.02")
	exits(1, "60.0000001", "--tolerance", "0")
}
