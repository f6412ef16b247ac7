package vast_test

import (
	"context"
	"io"
	"net/http"
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

// thousandths is nanos as the API gives it: rounded to 0.001, half away from zero.
func thousandths(nanos int64) ledger.Nanos {
	half := int64(500_000)
	if nanos < 0 {
		half = -half
	}
	return ledger.Nanos((nanos + half) / 1_000_000 * 1_000_000)
}

// Two days over a midnight: every contract's bill is the simulator's own figure to
// the last digit that the API gives, whatever happened before, and the balance moved
// by what both cost.
func TestVastSamplesEqualTheBooks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(22*time.Hour + 10*time.Minute + 123*time.Millisecond)
		born := time.Now()
		cloud, p := rig.Simulated(t, open, "vast", sim.Config{
			Volumes: []sim.Volume{
				{ID: 45678, Name: "models", SizeGB: 200, RatePerHour: 21_600_000},
				{ID: 45679, Name: "cache", SizeGB: 50, RatePerHour: 3_600_000, Born: born.AddDate(0, 0, -3)},
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
		before, err := p.(api.BalanceReader).Balances(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		first := time.Now()
		fault(sim.Fault{Mode: sim.TooMany, Times: 2}) // and then well, within the minute
		time.Sleep(30 * time.Minute)
		cloud.SetStatus("HIBERNATED")
		time.Sleep(41*time.Minute + 7*time.Second)
		cloud.SetStatus("ACTIVE")
		fault(sim.Fault{Mode: sim.Refund, Nanos: 50_000_000})
		time.Sleep(18 * time.Minute)
		fault(sim.Fault{Mode: sim.Dark})
		time.Sleep(10 * time.Minute)
		fault(sim.Fault{})
		time.Sleep(90 * time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		after, err := p.(api.BalanceReader).Balances(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		// The tenth dark minute's poll was answered when the fault changed.
		if len(st.Failures) != 9 || len(st.Samples) < 190 {
			t.Errorf("%d failed polls, want 9, and %d samples", len(st.Failures), len(st.Samples))
		}
		names := map[string]string{"instance-701234": "vm-701234", "volume-45678": "volume-45678", "volume-45679": "volume-45679"}
		for _, sample := range st.Samples {
			if len(sample.Lines) != 3 {
				t.Fatalf("%d lines at %v", len(sample.Lines), sample.At)
			}
			for _, l := range sample.Lines {
				anchor, err := api.ParseEpoch(l.Epoch)
				if err != nil {
					t.Fatal(err)
				}
				want := thousandths(cloud.Books(anchor, sample.At).Resources[names[l.Resource]].Nanos)
				if *l.Bill != want {
					t.Fatalf("%s at %v: %s, the books say %s", l.Resource, sample.At, *l.Bill, want)
				}
			}
		}
		if got, want := *before.Credit-*after.Credit, cloud.Books(first, time.Now()).Nanos; int64(got) != want || want == 0 {
			t.Errorf("the balance moved by %s, the books say %s", got, ledger.Nanos(want))
		}
		one, last := st.Samples[0], st.Samples[len(st.Samples)-1]
		got, want := rig.Spent(t, one, last), cloud.Books(one.At, last.At)
		if d := got - ledger.Nanos(want.Nanos); d < -3_000_000 || d > 3_000_000 { // two roundings a contract
			t.Errorf("spent %s, the books say %s", got, want.Spend)
		}

		// Midnight is read after the event, and is what the books say.
		midnight := born.Truncate(24 * time.Hour).Add(24 * time.Hour)
		m, err := p.(api.Boundary).SampleAt(t.Context(), midnight, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range m.Lines {
			anchor, _ := api.ParseEpoch(l.Epoch)
			if want := thousandths(cloud.Books(anchor, midnight).Resources[names[l.Resource]].Nanos); *l.Bill != want {
				t.Errorf("%s at midnight: %s, the books say %s", l.Resource, *l.Bill, want)
			}
		}
		t.Logf("%s in %s, %d samples; books %s", got, last.At.Sub(one.At), len(st.Samples), want.Spend)
	})
}

// Over sockets, as a person would run it.
func TestVastSimulatorOverHTTP(t *testing.T) {
	cloud := rig.Listening(t, sim.Config{Key: rig.Key, VM: sim.VM{Born: time.Now().Add(-90 * time.Minute)}})
	root := strings.TrimSuffix(cloud.URL(), "/v1")
	p, err := open(api.Options{URL: root,
		Getenv: rig.Env(map[string]string{"VAST_API_KEY": rig.Key, "VAST_CONTAINERLABEL": "C.701234"})})
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Sample(t.Context(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	answers := cloud.Answers()
	if len(answers) != 2 || len(s.Lines) != 2 {
		t.Fatalf("%d answers in the books for %d lines", len(answers), len(s.Lines))
	}
	for i, l := range s.Lines {
		if int64(*l.Bill) != answers[i].Nanos || *l.Bill == 0 || *l.Bill%1_000_000 != 0 {
			t.Errorf("%s: %s, the books say %+v", l.Resource, *l.Bill, answers[i])
		}
	}
	resp, err := http.Get(root + "/api/v0/charges/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 403 || !strings.Contains(string(b), "auth_error") {
		t.Errorf("without a key: %d %s", resp.StatusCode, b)
	}
}
