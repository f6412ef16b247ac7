package verda_test

import (
	"context"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/billing/sim"
	"spotinference/ledger"
)

func simulatedVerda(t *testing.T, cfg sim.Config, anchors api.History) (*sim.Sim, api.Provider) {
	t.Helper()
	cfg.Key = rig.Key
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cloud, verdaAt(t, cloud, anchors)
}

func verdaAt(t *testing.T, cloud *sim.Sim, anchors api.History) api.Provider {
	t.Helper()
	p, err := open(api.Options{
		URL: "https://sim.test/v1", Instance: cloud.VerdaInstance(), Transport: rig.Direct{Handler: cloud.Handler()}, History: anchors,
		Getenv: rig.Env(map[string]string{"VERDA_CLIENT_ID": rig.VerdaID, "VERDA_CLIENT_SECRET": rig.Key}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Hours of all that can happen to a balance, through a real ledger and over two
// restarts and many tokens: what the ledger says was spent is what the books say,
// to the nano-unit, except across a top-up, where it says that it does not know.
func TestVerdaEqualsTheBooks(t *testing.T) {
	t.Parallel()
	dir := rig.MemoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(10*time.Hour + 123*time.Millisecond)
		led, err := ledger.Open(ledger.Config{Path: filepath.Join(dir, "ledger.db")})
		if err != nil {
			t.Fatal(err)
		}
		defer led.Close()
		cloud, p := simulatedVerda(t, sim.Config{
			VM: sim.VM{Born: time.Now().Add(-90 * time.Minute)},
			Volumes: []sim.Volume{
				{ID: 45678, Name: "models", SizeGB: 200, RatePerHour: 21_600_000},
				{ID: 45679, Name: "cache", SizeGB: 50, RatePerHour: 3_600, Born: time.Now().AddDate(-1, 0, 0)},
			},
		}, &billing.LedgerHistory{Ledger: led.Reader})
		var ats []time.Time
		failed := 0
		sample := func() {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
			defer cancel()
			s, err := p.Sample(ctx, time.Now())
			if err != nil {
				failed++
				return
			}
			s.Every = time.Minute
			if _, err := led.AddSample(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			ats = append(ats, s.At)
		}
		minutes := func(n int) {
			for range n {
				sample()
				time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
			}
		}
		restart := func() { p = verdaAt(t, cloud, &billing.LedgerHistory{Ledger: led.Reader}) }
		fault := func(f sim.Fault) {
			t.Helper()
			if err := cloud.SetFault(f); err != nil {
				t.Fatal(err)
			}
		}
		minutes(17)
		fault(sim.Fault{Mode: sim.ServerError, Times: 2})
		minutes(9)
		cloud.SetStatus("HIBERNATED")
		minutes(20)
		cloud.SetStatus("ACTIVE")
		fault(sim.Fault{Mode: sim.Refund, Nanos: 200_000_000}) // less than ten minutes of 2.5416036
		minutes(8)
		restart()
		minutes(3)
		fault(sim.Fault{Mode: sim.Unauthorized, Times: 1})
		minutes(70) // over the end of a token
		fault(sim.Fault{Mode: sim.Dark})
		minutes(5)
		fault(sim.Fault{})
		minutes(5)
		topped := len(ats)
		cloud.TopUp(50_000_000_000)
		restart() // the ledger's word is all that is known of the balance before
		minutes(30)

		if failed != 5 {
			t.Errorf("%d failed polls, want 5", failed)
		}
		check := func(from, to time.Time) ledger.Spend {
			t.Helper()
			sp, err := led.Spent(from, to)
			if err != nil {
				t.Fatal(err)
			}
			if want := cloud.Books(from, to); sp.Net != ledger.Nanos(want.Nanos) || sp.Net.String() != want.Spend {
				t.Errorf("spent %s between %v and %v, the books say %s", sp.Net, from, to, want.Spend)
			}
			return sp
		}
		for i := 0; i < topped; i += 7 {
			for j := i; j < topped; j += 11 {
				check(ats[i], ats[j])
			}
		}
		before := check(ats[0], ats[topped-1])
		if len(before.Resources) != 1 || !strings.Contains(strings.Join(before.Flags, " "), ledger.FlagAccountTruth) || before.Net <= 0 {
			t.Errorf("before the top-up: %+v", before)
		}
		if before.Gross <= before.Net {
			t.Errorf("gross %s, net %s: the refund lowered it", before.Gross, before.Net)
		}
		check(ats[topped], ats[len(ats)-1])

		across, err := led.Spent(ats[0], ats[len(ats)-1])
		if err != nil {
			t.Fatal(err)
		}
		known := cloud.Books(ats[0], ats[topped-1]).Nanos + cloud.Books(ats[topped], ats[len(ats)-1]).Nanos
		if across.Net != ledger.Nanos(known) || !strings.Contains(strings.Join(across.Flags, " "), ledger.FlagEpochChanged) {
			t.Errorf("across the top-up: %s %v, want %s and a flag", across.Net, across.Flags, ledger.Nanos(known))
		}
		t.Logf("%s in %s, %d samples", across.Net, ats[len(ats)-1].Sub(ats[0]), len(ats))
	})
}

// Over sockets, by the client of its own: the bill is what the simulator wrote down
// that it gave out.
func TestVerdaOverHTTP(t *testing.T) {
	var seconds atomic.Int64
	clock := func() time.Time { return time.Unix(seconds.Load(), 0) }
	seconds.Store(rig.Time(t, "2026-11-23T12:00:00Z").Unix())
	cloud, err := sim.New(sim.Config{Key: rig.Key, Now: clock, VM: sim.VM{Born: clock().Add(-90 * time.Minute)}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(cloud.Handler())
	defer srv.Close()
	p, err := open(api.Options{
		URL: srv.URL + "/v1", Getenv: rig.Env(map[string]string{"VERDA_CLIENT_ID": rig.VerdaID, "VERDA_CLIENT_SECRET": rig.Key}),
	})
	if err != nil {
		t.Fatal(err)
	}
	var samples []ledger.Sample
	for range 3 {
		s, err := p.Sample(t.Context(), clock())
		if err != nil {
			t.Fatal(err)
		}
		samples = append(samples, s)
		seconds.Add(61)
	}
	answers := cloud.Answers()
	if len(answers) != 3 {
		t.Fatalf("%d answers, want 3", len(answers))
	}
	for i, s := range samples[1:] {
		want := ledger.Nanos(answers[i+1].Nanos - answers[i].Nanos)
		if got := rig.Spent(t, samples[i], s); got != want || got != 61*706_000 || !s.At.Equal(answers[i+1].At) {
			t.Errorf("spent %s, given out %s", got, want)
		}
	}
}
