package billing_test

import (
	"testing"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/ledger"
)

// What a probe measured of an account is in its samples, and in nobody else's.
func TestCalibrate(t *testing.T) {
	led := newLedger(t, rig.MemoryDir(t))
	defer led.Close()
	now := time.Now()
	for _, c := range []ledger.Calibration{
		{Provider: "cloud", Account: "7", Step: 20 * time.Second, Lag: 10 * time.Minute, At: now},
		{Provider: "cloud", Account: "8", Step: 20 * time.Second, Lag: time.Minute, At: now},
	} {
		if err := led.SetCalibration(c); err != nil {
			t.Fatal(err)
		}
	}
	f := func(account string, wantStep, wantLag time.Duration, wantCalibrated bool) {
		t.Helper()
		p := &past{metered: &metered{bill: steps(time.Minute), sample: func(_ int, s *ledger.Sample) error {
			s.Account = account
			return nil
		}}}
		c := billing.Calibrate(p, led.Reader, time.Minute)
		s, err := c.Sample(t.Context(), now)
		if err != nil || s.Step != wantStep || s.Lag != wantLag || s.Calibrated != wantCalibrated {
			t.Errorf("account %s: step %s, lag %s, calibrated %v, %v; want %s, %s, %v", account, s.Step, s.Lag, s.Calibrated, err, wantStep, wantLag, wantCalibrated)
		}
		at, err := c.(api.Boundary).SampleAt(t.Context(), now.Add(-time.Hour), now)
		if err != nil || at.Step != wantStep || at.Lag != wantLag || at.Calibrated != wantCalibrated {
			t.Errorf("account %s, of an hour ago: step %s, lag %s, calibrated %v, %v", account, at.Step, at.Lag, at.Calibrated, err)
		}
	}
	f("7", 20*time.Second, 10*time.Minute, true)
	f("8", 20*time.Second, 3*time.Minute, true) // three intervals at least
	f("9", time.Minute, 5*time.Minute, false)

	// One that tells no past bill is not made one that does; and a ledger that does not
	// answer is a failed sample, not an uncalibrated one.
	c := billing.Calibrate(&metered{bill: steps(time.Minute)}, led.Reader, time.Minute)
	if _, ok := c.(api.Boundary); ok {
		t.Error("it can be asked for the past")
	}
	led.Close()
	if s, err := c.Sample(t.Context(), now); err == nil || s.Lines != nil {
		t.Errorf("the ledger is closed: %+v", s)
	}
}
