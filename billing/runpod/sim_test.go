package runpod_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/billing/sim"
	"spotinference/ledger"
)

// Over sockets, as the demo would run it: each bill is one that the simulator gave out.
func TestRunpodOverHTTP(t *testing.T) {
	cloud := rig.Listening(t, sim.Config{Key: rig.RunpodKey, VM: sim.VM{Born: time.Now().Add(-90 * time.Minute)}})
	p, err := open(api.Options{URL: strings.TrimSuffix(cloud.URL(), "/v1"),
		Getenv: rig.Env(map[string]string{"RUNPOD_API_KEY": rig.RunpodKey, "RUNPOD_POD_ID": "pod701234"})})
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Sample(t.Context(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	given := make(map[string]int64)
	for _, a := range cloud.Answers() {
		given[a.Resource] = a.Nanos
	}
	if len(s.Lines) != 2 || len(given) != 2 || int64(*s.Lines[0].Bill) != given["vm-701234"] || int64(*s.Lines[1].Bill) != given["volume-45678"] || given["vm-701234"] == 0 {
		t.Errorf("lines %+v, given %v", s.Lines, given)
	}
}

// Three hours of everything that can happen to the bill: what the samples say was
// spent is what the simulator's own books say, to the nano-unit, between any two.
func TestRunpodSamplesEqualTheBooks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(10*time.Hour + 37*time.Minute + 123*time.Millisecond)
		cloud, p := rig.Simulated(t, open, "runpod", sim.Config{
			Volumes: []sim.Volume{
				{ID: 45678, Name: "models", SizeGB: 200, RatePerHour: 21_600_000},
				{ID: 45679, Name: "cache", SizeGB: 50, RatePerHour: 3_600, Born: time.Now().AddDate(0, -2, 0)},
			},
		})
		st := &rig.Memory{}
		s, err := billing.NewSampler(billing.SamplerConfig{Provider: p, Store: st})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		fault := func(f sim.Fault) {
			t.Helper()
			if err := cloud.SetFault(f); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(17*time.Minute + 400*time.Millisecond)
		fault(sim.Fault{Mode: sim.ServerError, Times: 2})
		time.Sleep(9 * time.Minute)
		cloud.SetStatus("HIBERNATED")
		time.Sleep(21*time.Minute + 7*time.Second)
		cloud.SetStatus("ACTIVE")
		fault(sim.Fault{Mode: sim.Refund, Nanos: 950_000_000}) // more than this hour has cost: the last is restated
		time.Sleep(8 * time.Minute)
		fault(sim.Fault{Mode: sim.Dark})
		time.Sleep(10 * time.Minute)
		froze := time.Now()
		fault(sim.Fault{Mode: sim.Frozen})
		time.Sleep(10 * time.Minute)
		thawed := time.Now()
		fault(sim.Fault{})
		time.Sleep(100 * time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Second)
		if err := s.Last(t.Context()); err != nil {
			t.Fatal(err)
		}

		// The tenth dark minute's poll was let go when the fault changed.
		if n := len(st.Failures); n != 9 {
			t.Errorf("%d failed polls, want 9: %+v", n, st.Failures)
		}
		shown, fell := 0, false
		for i, b := range st.Samples {
			if b.At.After(froze) && !b.At.After(thawed) {
				if prev := st.Samples[i-1]; prev.At.After(froze) && rig.Spent(t, prev, b) != 0 {
					t.Errorf("the frozen bill moved at %v", b.At)
				}
				shown++
				continue
			}
			fell = fell || i > 0 && rig.Spent(t, st.Samples[i-1], b) < 0
			for _, a := range st.Samples[:i] {
				if a.At.After(froze) && !a.At.After(thawed) {
					continue
				}
				if want := cloud.Books(a.At, b.At); rig.Spent(t, a, b) != ledger.Nanos(want.Nanos) {
					t.Fatalf("spent %s between %v and %v, the books say %s", rig.Spent(t, a, b), a.At, b.At, want.Spend)
				}
			}
		}
		// One more than the frozen minutes: the tenth dark poll got its bill after.
		if shown != 11 || !fell {
			t.Errorf("%d frozen samples; the bill fell: %v", shown, fell)
		}
		first, last := st.Samples[0], st.Samples[len(st.Samples)-1]
		books := cloud.Books(first.At, last.At)
		if got := rig.Spent(t, first, last); got != ledger.Nanos(books.Nanos) || got.String() != books.Spend || books.Refunds != 950_000_000 {
			t.Errorf("spent %s, the books say %s", got, books.Spend)
		}
		t.Logf("%s in %s, %d samples", books.Spend, last.At.Sub(first.At), len(st.Samples))
	})
}

// Asked after a night's sleep, the bill as of an hour is what the books say of then.
func TestRunpodBoundaryEqualsTheBooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(22*time.Hour + 13*time.Minute)
		cloud, p := rig.Simulated(t, open, "runpod", sim.Config{})
		time.Sleep(time.Minute)
		a, err := p.Sample(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Hour)
		midnight := a.At.Truncate(24 * time.Hour).Add(24 * time.Hour)
		b, err := p.(api.Boundary).SampleAt(t.Context(), midnight, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := rig.Spent(t, a, b), cloud.Books(a.At, midnight); got == 0 || got != ledger.Nanos(want.Nanos) {
			t.Errorf("spent %s up to midnight, the books say %s", got, want.Spend)
		}
		c, err := p.Sample(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := rig.Spent(t, b, c), cloud.Books(midnight, c.At); got != ledger.Nanos(want.Nanos) {
			t.Errorf("spent %s since midnight, the books say %s", got, want.Spend)
		}
	})
}

func TestRunpodSimulatedOddities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Second) // on the hour, that hour's bucket is not yet told
		cloud, p := rig.Simulated(t, open, "runpod", sim.Config{})
		read := func() ledger.Sample {
			t.Helper()
			s, err := p.Sample(t.Context(), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		if s := read(); *s.Lines[0].Bill != 0 { // in the second of its birth
			t.Errorf("bill %s at birth", *s.Lines[0].Bill)
		}
		time.Sleep(time.Minute)
		if s := read(); !s.Lines[0].Running || *s.Lines[0].Rate != 2_520_000_000 || *s.Lines[0].Bill != 42_000_000 || *s.Lines[1].Bill != 360_000 {
			t.Errorf("running: %+v", s.Lines)
		}
		cloud.SetStatus("HIBERNATED")
		time.Sleep(61 * time.Second)
		if s := read(); s.Lines[0].Status != "EXITED" || s.Lines[0].Running || s.Lines[0].Rate != nil || *s.Lines[0].Bill != 42_700_000+180_000 {
			t.Errorf("stopped: %+v, bill %s", s.Lines[0], *s.Lines[0].Bill)
		}
		if err := cloud.SetFault(sim.Fault{Mode: sim.MissingVolume}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if s := read(); len(s.Lines) != 1 {
			t.Error("the missing volume is there")
		}
	})
}

// As often as it says that it can be asked, the API's limit allows.
func TestRunpodRateLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Second)
		_, p := rig.Simulated(t, open, "runpod", sim.Config{})
		st := &rig.Memory{}
		s, err := billing.NewSampler(billing.SamplerConfig{Provider: p, Store: st, Every: p.MinInterval()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
		if len(st.Failures) != 0 || len(st.Samples) < 60 {
			t.Errorf("%d samples, failures %+v", len(st.Samples), st.Failures)
		}
	})
}
