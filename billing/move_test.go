package billing_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/billing/sim"
	"spotinference/ledger"
)

func newLedger(t *testing.T, dir string) *ledger.Ledger {
	t.Helper()
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(dir, "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	return led
}

// cumulative are the adapters whose window starts where we say: what they call the
// simulator's machine and volume, and by how much one of their amounts is rounded.
var cumulative = map[string]struct {
	names [2]string
	unit  ledger.Nanos
}{
	"hyperstack": {[2]string{"vm-701234", "volume-45678"}, 0},
	"runpod":     {[2]string{"pod-pod701234", "volume-vol45678"}, 0},
	"vast":       {[2]string{"instance-701234", "volume-45678"}, 1_000_000},
}

// faulty is a ledger whose writes of samples that hold a moved bill go wrong, each
// in another way.
type faulty struct {
	*ledger.Ledger
	moves int
}

var errDied = errors.New("died")

func (s *faulty) AddSample(ctx context.Context, sample ledger.Sample) (int64, error) {
	if !slices.ContainsFunc(sample.Lines, func(l ledger.Line) bool { return l.Status == ledger.StatusMoved }) {
		return s.Ledger.AddSample(ctx, sample)
	}
	s.moves++
	switch s.moves % 4 {
	case 1:
		return 0, errDied // failed and not written
	case 2:
		return 0, ledger.ErrRefused
	case 3:
		if _, err := s.Ledger.AddSample(ctx, sample); err != nil {
			return 0, err
		}
		return 0, errDied // failed but written
	}
	return s.Ledger.AddSample(ctx, sample)
}

// Row 1 of the pitfalls: a bill that begins anew. A quarter of a year with an anchor that
// moves, through a ledger that takes the sample in which it does, refuses it, or dies
// before or after it has it; with a restart after each of these, and without: the spend
// is what the books say, and nothing is flagged.
func TestPitfall01PeriodReset(t *testing.T) {
	f := func(provider string, restarts bool) {
		t.Helper()
		inBubble(t, fmt.Sprintf("%s/restarts=%v", provider, restarts), func(t *testing.T, dir string) {
			time.Sleep(10*time.Hour + 123*time.Millisecond)
			cloud, err := sim.New(sim.Config{Key: rig.Key})
			if err != nil {
				t.Fatal(err)
			}
			led := newLedger(t, dir)
			defer func() { led.Close() }()
			st := &faulty{Ledger: led}
			p := rig.Over(t, opens(provider), provider, cloud.Handler(), &billing.LedgerHistory{Ledger: led.Reader})
			time.Sleep(time.Hour)
			for i := range 95 {
				time.Sleep(24 * time.Hour)
				switch i % 25 {
				case 10:
					cloud.SetStatus("HIBERNATED")
				case 12:
					cloud.SetStatus("ACTIVE")
				}
				s, err := p.Sample(t.Context(), time.Now())
				if err != nil {
					t.Fatalf("%s: %v", provider, err)
				}
				s.Every = 24 * time.Hour
				if _, err := st.AddSample(t.Context(), s); err == nil {
					continue
				} else if !errors.Is(err, errDied) && !errors.Is(err, ledger.ErrRefused) {
					t.Fatal(err)
				}
				if restarts {
					led.Close()
					led = newLedger(t, dir)
					st.Ledger = led
					p = rig.Over(t, opens(provider), provider, cloud.Handler(), &billing.LedgerHistory{Ledger: led.Reader})
				}
				time.Sleep(time.Minute) // the next poll
			}
			first, _, err := led.SampleAfter(time.Time{}.AddDate(1999, 0, 0))
			if err != nil {
				t.Fatal(err)
			}
			got, err := led.Spent(first, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			want := ledger.Nanos(cloud.Books(got.From.At, got.To.At).Nanos)
			epochs := make(map[string]int)
			for _, r := range got.Resources {
				epochs[r.Resource]++
			}
			for _, name := range cumulative[provider].names {
				if epochs[name] < 4 {
					t.Errorf("%s: the anchor of %s moved %d times", provider, name, epochs[name]-1)
				}
			}
			allowed := cumulative[provider].unit * ledger.Nanos(len(got.Resources))
			if d := got.Net - want; d > allowed || d < -allowed {
				t.Errorf("%s, restarts %v: spent %s, the books say %s", provider, restarts, got.Net, want)
			}
			if !slices.Equal(slices.DeleteFunc(got.Flags, func(f string) bool { return f == ledger.FlagGaps }), []string{ledger.FlagUncalibrated}) {
				t.Errorf("%s, restarts %v: flags %v", provider, restarts, got.Flags)
			}
			if st.moves < 6 {
				t.Errorf("%s: %d samples with a move", provider, st.moves)
			}
			if v, err := led.Verify(t.Context()); err != nil || len(v.Problems) > 0 {
				t.Errorf("verify: %v, %v", v.Problems, err)
			}
		})
	}
	// The longest first.
	for _, provider := range []string{"runpod", "vast", "hyperstack"} {
		f(provider, true)
	}
	f("hyperstack", false)
}

// What puts a move off, and what it looks like. The sample is a good one all the same.
func TestAnchorStays(t *testing.T) {
	// between is called before each bill is read.
	f := func(name string, at time.Duration, spoil func(*sim.Sim), between func(c *sim.Sim, window time.Duration) (fails bool), moves bool) {
		t.Helper()
		inBubble(t, name, func(t *testing.T, dir string) {
			cloud, err := sim.New(sim.Config{Key: rig.Key})
			if err != nil {
				t.Fatal(err)
			}
			led := newLedger(t, dir)
			defer led.Close()
			p := rig.Over(t, opens("hyperstack"), "hyperstack", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				const layout = "2006-01-02T15:04:05"
				start, err1 := time.Parse(layout, r.FormValue("start_date"))
				end, err2 := time.Parse(layout, r.FormValue("end_date"))
				if err1 == nil && err2 == nil && between(cloud, end.Sub(start)) {
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				cloud.Handler().ServeHTTP(w, r)
			}), &billing.LedgerHistory{Ledger: led.Reader})
			read := func() ledger.Sample {
				t.Helper()
				s, err := p.Sample(t.Context(), time.Now())
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if _, err := led.AddSample(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				return s
			}
			time.Sleep(time.Hour)
			read()
			time.Sleep(at - 2*time.Hour)
			read()
			spoil(cloud)
			time.Sleep(time.Hour)
			s := read()
			if got := len(s.Lines) == 4; got != moves || len(s.Lines) != 2 && !moves {
				t.Errorf("%s: %d lines, moves want %v", name, len(s.Lines), moves)
			}
			for _, l := range s.Lines[:2] {
				if moves != (l.Status == ledger.StatusMoved) || moves != (l.Rate == nil) || moves == l.Running {
					t.Errorf("%s: old line %+v", name, l)
				}
			}
			for _, l := range s.Lines[2:] {
				want := api.Epoch(time.Now().Truncate(24*time.Hour).AddDate(0, 0, -7))
				if l.Epoch != want || !l.Running || l.Rate == nil || l.Bill == nil || len(l.Raw) == 0 || l.Created.IsZero() {
					t.Errorf("%s: new line %+v, want epoch %s", name, l, want)
				}
			}
		})
	}
	const day = 24 * time.Hour
	freeze := func(c *sim.Sim) { c.SetFault(sim.Fault{Mode: sim.Frozen}) }
	well, reads := func(*sim.Sim) {}, func(*sim.Sim, time.Duration) bool { return false }
	f("young", 34*day, well, reads, false)
	f("old", 35*day+30*time.Minute, well, reads, true)
	f("the bill stands still", 35*day+30*time.Minute, freeze, reads, false)
	f("the new window cannot be read", 35*day+30*time.Minute, well, func(_ *sim.Sim, window time.Duration) bool { return day < window && window < 9*day }, false)
	late := func(c *sim.Sim) { time.Sleep(30 * time.Minute); freeze(c) } // half of the hour shows, and the rest while it is read
	f("the bill moves between the reads", 35*day+30*time.Minute, late, func(c *sim.Sim, window time.Duration) bool {
		if day < window && window < 9*day {
			c.SetFault(sim.Fault{})
		}
		return false
	}, false)
}

// A write that was given up may still happen, after the next poll has asked the ledger
// and been told of the old epoch. Then the bill moved twice, and counts once.
func TestMovedAnchorWrittenLate(t *testing.T) {
	t.Parallel()
	dir := rig.MemoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		cloud, err := sim.New(sim.Config{Key: rig.Key})
		if err != nil {
			t.Fatal(err)
		}
		led := newLedger(t, dir)
		defer led.Close()
		p := rig.Over(t, opens("hyperstack"), "hyperstack", cloud.Handler(), &billing.LedgerHistory{Ledger: led.Reader})
		var held []ledger.Sample
		poll := func(hold bool) {
			t.Helper()
			s, err := p.Sample(t.Context(), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if held = append(held, s); hold {
				return
			}
			for _, s := range held {
				if _, err := led.AddSample(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
			held = nil
		}
		time.Sleep(time.Hour)
		poll(false)
		time.Sleep(36 * 24 * time.Hour)
		poll(true)
		if len(held[0].Lines) != 4 {
			t.Fatalf("%d lines: no move", len(held[0].Lines))
		}
		for range 5 {
			time.Sleep(20 * time.Minute)
			poll(false)
		}
		first, _, _ := led.SampleAfter(time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC))
		got, err := led.Spent(first, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if want := cloud.Books(got.From.At, got.To.At); got.Net != ledger.Nanos(want.Nanos) || len(got.Resources) != 6 {
			t.Errorf("spent %s in %d series, the books say %s", got.Net, len(got.Resources), want.Spend)
		}
	})
}
