package ledger_test

import (
	"errors"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"spotinference/ledger"
)

func TestCalibration(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	led, err := ledger.Open(ledger.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()

	none := func(provider, account string) {
		t.Helper()
		if c, ok, err := led.Calibration(provider, account); ok || err != nil {
			t.Errorf("Calibration(%q, %q) = %+v, %v, %v, want none", provider, account, c, ok, err)
		}
	}
	none("hyperstack", "1234")

	first := ledger.Calibration{
		Provider: "hyperstack", Account: "1234", Step: time.Minute, Lag: 3 * time.Minute, At: time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC),
	}
	second := first
	second.Step, second.Lag, second.At = 20*time.Second, time.Minute, first.At.Add(time.Hour)
	for _, c := range []ledger.Calibration{first, second} {
		if err := led.SetCalibration(c); err != nil {
			t.Fatal(err)
		}
		if got, ok, err := led.Calibration("hyperstack", "1234"); !ok || err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("Calibration = %+v, %v, %v, want %+v", got, ok, err, c)
		}
	}
	// Another account, another provider, and one that has no account.
	none("hyperstack", "123")
	none("hyperstack", "")
	none("vast", "1234")

	// It outlives the process, and a reader beside it sees it.
	if err := led.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := ledger.OpenReader(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, ok, err := r.Calibration("hyperstack", "1234"); !ok || err != nil || !reflect.DeepEqual(got, second) {
		t.Errorf("Calibration after Close = %+v, %v, %v, want %+v", got, ok, err, second)
	}
}

func TestCalibrationRefused(t *testing.T) {
	t.Parallel()
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	good := ledger.Calibration{Provider: "vast", Step: time.Minute, Lag: time.Minute, At: time.Unix(1, 0)}
	refused := func(why string, change func(*ledger.Calibration)) {
		t.Helper()
		c := good
		change(&c)
		if err := led.SetCalibration(c); !errors.Is(err, ledger.ErrRefused) {
			t.Errorf("%s: SetCalibration = %v, want refused", why, err)
		}
	}
	refused("no provider", func(c *ledger.Calibration) { c.Provider = "" })
	refused("no step", func(c *ledger.Calibration) { c.Step = 0 })
	refused("a lag under the step", func(c *ledger.Calibration) { c.Lag = time.Second })
	refused("no time", func(c *ledger.Calibration) { c.At = time.Time{} })
	if _, ok, err := led.Calibration("vast", ""); ok || err != nil {
		t.Errorf("a refused calibration was written: %v, %v", ok, err)
	}
	if err := led.SetCalibration(good); err != nil {
		t.Errorf("SetCalibration = %v", err)
	}
}
