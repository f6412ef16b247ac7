package ledger_test

import (
	"errors"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"spotinference/ledger"
)

func gpuMinutes(t *testing.T, r *ledger.Reader, from, to time.Time) (all []ledger.GPUMinute) {
	t.Helper()
	if err := r.GPUMinutes(from, to, func(m ledger.GPUMinute) error { all = append(all, m); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestGPUMinutes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "l.db")
	led, err := ledger.Open(ledger.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	n := func(v int64) *int64 { return &v }
	full := ledger.GPUMinute{
		UUID: "GPU-a", Name: "H100", Source: "helper", Since: t0, At: t0.Add(time.Minute), Readings: 60,
		UtilisationAvg: n(3750), UtilisationMax: n(100), MemoryAvg: n(80 << 30), MemoryMax: n(80 << 30), PowerAvg: n(350_000), PowerMax: n(700_000),
		TemperatureMax: n(-1), Energy: n(0),
	}
	unknown := ledger.GPUMinute{UUID: "GPU-b", Name: "H100", Source: "nvidia-smi", Since: t0, At: t0.Add(time.Minute), Readings: 1}
	next := full
	next.Since, next.At, next.Energy = full.At, full.At.Add(time.Minute), nil
	for _, m := range []ledger.GPUMinute{full, unknown, next} {
		if err := led.AddGPUMinute(m); err != nil {
			t.Fatal(err)
		}
	}
	less := func(change func(*ledger.GPUMinute)) ledger.GPUMinute {
		m := next
		m.At = m.At.Add(time.Hour)
		change(&m)
		return m
	}
	for name, m := range map[string]ledger.GPUMinute{
		"there already":  next,
		"without a card": less(func(m *ledger.GPUMinute) { m.UUID = "" }),
		"of nobody":      less(func(m *ledger.GPUMinute) { m.Source = "" }),
		"backwards":      less(func(m *ledger.GPUMinute) { m.Since = m.At.Add(1) }),
		"unread":         less(func(m *ledger.GPUMinute) { m.Readings = 0 }),
		"giving energy":  less(func(m *ledger.GPUMinute) { m.Energy = n(-1) }),
	} {
		if err := led.AddGPUMinute(m); !errors.Is(err, ledger.ErrRefused) {
			t.Errorf("a minute %s: %v, want ErrRefused", name, err)
		}
	}
	if err := led.Err(); err != nil {
		t.Errorf("what was refused made the ledger ill: %v", err)
	}
	if err := led.Close(); err != nil {
		t.Fatal(err)
	}

	r, err := ledger.OpenReader(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, want := gpuMinutes(t, r, t0, t0.Add(time.Hour)), []ledger.GPUMinute{full, unknown, next}; !reflect.DeepEqual(got, want) {
		t.Errorf("minutes\n got %+v\nwant %+v", got, want)
	}
	// (from, to]
	if got := gpuMinutes(t, r, full.At, next.At); !reflect.DeepEqual(got, []ledger.GPUMinute{next}) {
		t.Errorf("minutes after the first: %+v", got)
	}
	if got := gpuMinutes(t, r, next.At, next.At.Add(time.Hour)); got != nil {
		t.Errorf("minutes after the last: %+v", got)
	}
	stop := errors.New("stop")
	if err := r.GPUMinutes(t0, next.At, func(ledger.GPUMinute) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped: %v, want stop", err)
	}
}
