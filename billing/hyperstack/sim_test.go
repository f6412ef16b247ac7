package hyperstack_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/billing/sim"
	"spotinference/internal/hint"
	"spotinference/ledger"
)

// Two hours of everything that can happen to the bill: what the samples say was
// spent is what the simulator's own books say, to the nano-unit, between any two.
func TestSamplesEqualTheBooks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(10*time.Hour + 123*time.Millisecond)
		cloud, p := rig.Simulated(t, open, "hyperstack", sim.Config{
			Volumes: []sim.Volume{
				{ID: 45678, Name: "models", SizeGB: 200, RatePerHour: 21_600_000},
				{ID: 45679, Name: "cache", SizeGB: 50, RatePerHour: 3_600, Born: time.Now().AddDate(-1, 0, 0)},
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
		fault(sim.Fault{Mode: sim.Refund, Nanos: 50_000_000})
		time.Sleep(8 * time.Minute)
		fault(sim.Fault{Mode: sim.Dark})
		time.Sleep(10 * time.Minute)
		froze := time.Now()
		fault(sim.Fault{Mode: sim.Frozen})
		time.Sleep(10 * time.Minute)
		thawed := time.Now()
		fault(sim.Fault{})
		time.Sleep(40 * time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		time.Sleep(1400 * time.Millisecond)
		if err := s.Last(t.Context()); err != nil {
			t.Fatal(err)
		}

		// The tenth dark minute's poll was answered when the fault changed.
		if n := len(st.Failures); n != 9 {
			t.Errorf("%d failed polls, want 9: %+v", n, st.Failures)
		}
		shown := 0
		for i, b := range st.Samples {
			if b.At.After(froze) && !b.At.After(thawed) {
				// Good replies, and none of them true.
				if prev := st.Samples[i-1]; prev.At.After(froze) && rig.Spent(t, prev, b) != 0 {
					t.Errorf("the frozen bill moved at %v", b.At)
				}
				shown++
				continue
			}
			for _, a := range st.Samples[:i] {
				if a.At.After(froze) && !a.At.After(thawed) {
					continue
				}
				if want := cloud.Books(a.At, b.At); rig.Spent(t, a, b) != ledger.Nanos(want.Nanos) {
					t.Fatalf("spent %s between %v and %v, the books say %s", rig.Spent(t, a, b), a.At, b.At, want.Spend)
				}
			}
		}
		if shown != 10 {
			t.Errorf("%d frozen samples", shown)
		}
		first, last := st.Samples[0], st.Samples[len(st.Samples)-1]
		books := cloud.Books(first.At, last.At)
		if got := rig.Spent(t, first, last); got != ledger.Nanos(books.Nanos) || got.String() != books.Spend {
			t.Errorf("spent %s, the books say %s", got, books.Spend)
		}
		if books.Refunds != 50_000_000 {
			t.Errorf("refunds %d", books.Refunds)
		}
		t.Logf("%s in %s, %d samples", books.Spend, last.At.Sub(first.At), len(st.Samples))
	})
}

func TestSimulatedOddities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud, p := rig.Simulated(t, open, "hyperstack", sim.Config{VM: sim.VM{Born: time.Now().Add(-time.Hour)}})
		read := func(fault sim.Fault) ledger.Sample {
			t.Helper()
			if err := cloud.SetFault(fault); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			s, err := p.Sample(t.Context(), time.Now())
			if err != nil {
				t.Fatalf("%s: %v", fault.Mode, err)
			}
			return s
		}
		a := read(sim.Fault{})
		if n := rig.Spent(t, a, read(sim.Fault{Mode: sim.Refund, Nanos: 500_000_000})); n != 60*706_000-500_000_000 {
			t.Errorf("refund: %s", n)
		}
		if len(read(sim.Fault{Mode: sim.MissingVolume}).Lines) != 1 {
			t.Error("the missing volume is there")
		}
		b := read(sim.Fault{Mode: sim.Frozen})
		if c := read(sim.Fault{Mode: sim.ServerError, Times: 2}); rig.Spent(t, b, c) != 120*706_000 {
			t.Errorf("after the frost: %s", rig.Spent(t, b, c)) // two minutes at once
		}
		if got := cloud.Fault().Mode; got != sim.None {
			t.Errorf("the fault for two calls is still %q", got)
		}
	})
}

// A contract machine is refused, with a hint.
func TestSimulatedContract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := rig.Simulated(t, open, "hyperstack", sim.Config{VM: sim.VM{Contract: 9}})
		time.Sleep(time.Minute)
		_, err := p.Sample(t.Context(), time.Now())
		var f *api.Failure
		if !errors.As(err, &f) || f.Class != api.Incomplete || !strings.Contains(hint.Of(f), "--provider none") || !strings.Contains(err.Error(), "contract") {
			t.Errorf("err = %v", err)
		}
	})
}

// Over sockets, with the simulator found by its address, as the demo runs it.
func TestSimulatorOverHTTP(t *testing.T) {
	var ahead atomic.Int64 // of our clock, in seconds: nobody waits for the next
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load()) * time.Second) }
	cloud := rig.Listening(t, sim.Config{Key: rig.Key, Now: clock, VM: sim.VM{Born: time.Now().Add(-90 * time.Minute)}})
	p, err := open(api.Options{
		URL: cloud.URL(), Getenv: rig.Env(map[string]string{"HYPERSTACK_API_KEY": rig.Key}),
		Hostname: func() (string, error) { return "demo-h100", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.Sample(t.Context(), clock())
	if err != nil {
		t.Fatal(err)
	}
	ahead.Add(2)
	b, err := p.Sample(t.Context(), clock())
	if err != nil {
		t.Fatal(err)
	}

	own := strings.TrimSuffix(cloud.URL(), "/v1")
	resp, err := http.Get(own + "/sim/books?" + url.Values{
		"from": {a.At.Format(time.RFC3339)}, "to": {b.At.Format(time.RFC3339)},
	}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var books sim.Books
	if err := json.NewDecoder(resp.Body).Decode(&books); err != nil {
		t.Fatal(err)
	}
	if got := rig.Spent(t, a, b); got == 0 || int64(got) != books.Nanos || got.String() != books.Spend || books.Currency != "USD" {
		t.Errorf("spent %s, books %+v", got, books)
	}
	if resp.Header.Get("Server") != "spotinference-sim" {
		t.Errorf("the simulator calls itself %q", resp.Header.Get("Server"))
	}

	resp, err = http.Post(own+"/sim/fault?mode=401&times=1", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	ahead.Add(1)
	_, err = p.Sample(t.Context(), clock())
	rig.WantClass(t, err, api.HTTP401)
	var f *api.Failure
	if errors.As(err, &f) && !strings.Contains(hint.Of(f), "HYPERSTACK_API_KEY") {
		t.Errorf("hint = %q", hint.Of(f))
	}
	if n := len(cloud.Answers()); n != 4 {
		t.Errorf("%d answers in the books, want 4", n)
	}
}
