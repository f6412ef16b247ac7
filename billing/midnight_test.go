package billing_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/rig"
	"spotinference/ledger"
)

// pastTeller is a provider that can be asked for a past bill.
type pastTeller struct {
	*script
	asked []time.Time
	err   error
}

func (p *pastTeller) SampleAt(_ context.Context, at, _ time.Time) (ledger.Sample, error) {
	p.asked = append(p.asked, at)
	return good(at), p.err
}

// A night asleep is split at midnight by the provider's own word, where it has one.
func TestPitfall32MidnightSplit(t *testing.T) {
	day := func(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }
	f := func(name string, asleep time.Duration, newest time.Duration, err error, want string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now() // midnight
			time.Sleep(asleep)
			p, st := &pastTeller{script: &script{t: t}, err: err}, &rig.Memory{}
			cfg := billing.SamplerConfig{Provider: p, Store: st, DayStart: day}
			if newest != 0 {
				cfg.Newest = begin.Add(newest)
			}
			run(t, cfg, time.Second)
			var at []time.Time
			for _, s := range st.Samples {
				at = append(at, s.At)
			}
			if got := clocks(at); got != want {
				t.Errorf("%s: samples at %s, want %s", name, got, want)
			}
		})
	}
	const night = 8 * time.Hour
	f("asleep over midnight", night, -time.Hour, nil, "00:00:00 08:00:00")
	f("asleep, and the past is not told", night, -time.Hour, errors.New("no"), "08:00:00")
	f("asleep since this morning", night, time.Hour, nil, "08:00:00")
	f("a ledger's first sample", night, 0, nil, "08:00:00")
	f("awake at midnight", 0, -time.Minute, nil, "00:00:00")
	f("a moment late", time.Second, -time.Minute, nil, "00:00:00 00:00:01")
}
