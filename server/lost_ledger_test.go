package server

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	billingapi "spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/billing/sim"
	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/ledger/report"
)

// TestALostLedger: a new ledger, on a machine that was there before it, finds in the
// provider's books what each budget's period has cost already; where it cannot, it says
// from when on it counts. None of that is in what a token costs.
func TestALostLedger(t *testing.T) {
	t.Parallel()
	const (
		all    = "" // all of the period is known
		ledger = "ledger"
	)
	berlin, kathmandu, newYork := "Europe/Berlin", "Asia/Kathmandu", "America/New_York"
	for _, c := range []struct {
		provider, zone string
		age            time.Duration
		// From when on each is counted: all, from the ledger's first sample, or from an
		// instant.
		hour, day, month string
	}{
		{"hyperstack", "UTC", 15 * time.Hour, all, all, all}, // rented today
		{"hyperstack", "UTC", 100 * 24 * time.Hour, all, all, all},
		{"hyperstack", berlin, 100 * 24 * time.Hour, all, all, all},
		{"hyperstack", kathmandu, 10 * 24 * time.Hour, all, all, all},
		{"runpod", "UTC", 15 * time.Hour, all, all, all},
		{"runpod", newYork, 100 * 24 * time.Hour, all, all, all},
		{"runpod", kathmandu, 100 * 24 * time.Hour, ledger, "2000-01-27T19:00:00Z", "1999-12-31T19:00:00Z"}, // it tells by the hour
		{"vast", "UTC", 15 * time.Hour, ledger, all, all},
		{"vast", "UTC", 100 * 24 * time.Hour, ledger, all, all},
		{"vast", berlin, 100 * 24 * time.Hour, ledger, "2000-01-27T00:00:00Z", "2000-01-01T00:00:00Z"}, // by the day, in UTC
		{"verda", "UTC", 100 * 24 * time.Hour, ledger, ledger, ledger},
	} {
		t.Run(strings.ReplaceAll(c.provider+" "+c.zone+" "+c.age.String(), "/", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(26*24*time.Hour + 20*time.Hour + 35*time.Minute) // 2000-01-27, 20:35
				lostLedger(t, c.provider, c.zone, c.age, map[budget.Period]string{budget.Hour: c.hour, budget.Day: c.day, budget.Month: c.month})
			})
		})
	}
}

func lostLedger(t *testing.T, provider, zone string, age time.Duration, since map[budget.Period]string) {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	open := func(o billingapi.Options) (billingapi.Provider, error) { return billing.New(provider, o) }
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(rig.MemoryDir(t), "l.db"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	born := time.Now().Add(-age).Truncate(time.Minute)
	cfg := sim.Config{Key: rig.Key, VM: sim.VM{Born: born}, Credit: 1e15}
	if provider == "runpod" && age < 24*time.Hour {
		cfg.Volumes = []sim.Volume{} // one that does not tell its birth
	}
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := rig.Over(t, open, provider, cloud.Handler(), &billing.LedgerHistory{Ledger: led.Reader})
	limits, err := budget.ParseLimits("10000/hour,10000/day,10000/month")
	if err != nil {
		t.Fatal(err)
	}
	terms := budget.Terms{Limits: limits, Location: loc}
	s, err := billing.NewSampler(billing.SamplerConfig{
		Provider: p, Store: led,
		DayStart:     func(t time.Time) time.Time { return budget.DayStart(t, loc) },
		PeriodStarts: func(t time.Time) []time.Time { return budget.Starts(limits, t, loc) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	st, ok, err := budget.Evaluate(led.Reader, terms, time.Now())
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	first, _, err := led.SampleAfter(time.Time{})
	if err != nil || first.Before(time.Now().Add(-11*time.Minute)) {
		t.Fatalf("the first own sample is of %s, %v", first, err)
	}
	newest, _, err := led.Newest()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range st.Windows {
		from, want := w.From, time.Time{}
		switch text := since[w.Per]; text {
		case "":
		case "ledger":
			from, want = first, first
		default:
			if want, err = time.Parse(time.RFC3339, text); err != nil {
				t.Fatal(err)
			}
			from = want
		}
		if !w.CountedSince.Equal(want) {
			t.Errorf("%s: counted since %s, want %s", w.Per, w.CountedSince, want)
		}
		// Vast.ai rounds to 0.001, its past bills too; Runpod bills a minute late.
		truth := ledger.Nanos(cloud.Books(from, newest.At).Nanos)
		if d := truth - w.Gross; d > 100_000_000 || d < -3_000_000 {
			t.Errorf("%s: %s spent, really %s (from %s)", w.Per, w.Gross, truth, from)
		}
		if w.Before > w.Gross || want.IsZero() && w.Gross > 500_000_000 && w.Before < w.Gross/2 {
			t.Errorf("%s: %s of %s before this ledger", w.Per, w.Before, w.Gross)
		}
	}
	cost, err := report.Cost(led.Reader, report.CostQuery{Window: ledger.Window{From: time.Now().Add(-24 * time.Hour), To: time.Now()}, Now: time.Now(), MaxSampleAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := cost.Write(&text, report.Text); err != nil {
		t.Fatal(err)
	}
	if told := strings.Contains(strings.Join(strings.Fields(text.String()), " "), "before this ledger: $"); told != (cost.BeforeLedger.Gross != nil) || !told && since[budget.Day] == "" {
		t.Errorf("report tells of the time before: %v, %+v\n%s", told, cost.BeforeLedger, text.String())
	}
	truth := cloud.Books(first, newest.At).Nanos
	net, err := ledger.ParseNanos(fmt.Sprint(*cost.Spend.Net))
	if err != nil || !cost.Window.From.Equal(first) || int64(net) > truth+2_000_000 || int64(net) < truth-100_000_000 {
		t.Errorf("report: %s from %s, want %d from %s", net, cost.Window.From, truth, first)
	}
}
