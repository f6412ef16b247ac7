package budget_test

import (
	"testing"
	"time"

	"spotinference/budget"
	"spotinference/ledger"
)

func nanos(n ledger.Nanos) *ledger.Nanos { return &n }

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestParseLimits(t *testing.T) {
	t.Parallel()
	f := func(text string, want ...budget.Limit) {
		t.Helper()
		got, err := budget.ParseLimits(text)
		if len(want) == 0 {
			if err == nil {
				t.Errorf("ParseLimits(%q) = %v", text, got)
			}
			return
		}
		if err != nil || len(got) != len(want) {
			t.Fatalf("ParseLimits(%q) = %v, %v", text, got, err)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("ParseLimits(%q)[%d] = %v, want %v", text, i, got[i], want[i])
			}
		}
	}
	const one = 1_000_000_000
	f("40", budget.Limit{Per: budget.Day, Amount: 40 * one})
	f("0.5/hour", budget.Limit{Per: budget.Hour, Amount: one / 2})
	f("40/day, 900/month,2/hour", budget.Limit{Per: budget.Day, Amount: 40 * one}, budget.Limit{Per: budget.Month, Amount: 900 * one}, budget.Limit{Per: budget.Hour, Amount: 2 * one})
	for _, bad := range []string{"", "abc", "0", "-5", "40/", "40/week", "40/Day", "40/day/month", "40,50", "40,40/day", "40,", "/day", "1e30", "40 USD"} {
		f(bad)
	}
}

// TestPeriods walks through two years of zones whose clocks change: each instant lies
// in its period, and the periods follow on each other.
func TestPeriods(t *testing.T) {
	t.Parallel()
	lengths := map[time.Duration]bool{}
	for _, name := range []string{"UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Asia/Kolkata", "Asia/Beirut", "Australia/Lord_Howe"} {
		loc := zone(t, name)
		for now := time.Date(2026, 1, 1, 0, 15, 0, 0, time.UTC); now.Year() < 2028; now = now.Add(30 * time.Minute) {
			for _, p := range []budget.Period{budget.Hour, budget.Day, budget.Month} {
				from, to := p.Bounds(now, loc)
				if now.Before(from) || !now.Before(to) {
					t.Fatalf("%s: the %s of %s is %s to %s", name, p, now.In(loc), from, to)
				}
				if again, _ := p.Bounds(to, loc); !again.Equal(to) && !(p == budget.Hour && name == "Australia/Lord_Howe") {
					t.Fatalf("%s: the %s after %s begins at %s", name, p, to, again)
				}
				if local := from.In(loc); local.Minute() != 0 && name != "Australia/Lord_Howe" || p == budget.Month && local.Day() != 1 {
					t.Fatalf("%s: a %s begins at %s", name, p, local)
				}
				if p == budget.Day {
					lengths[to.Sub(from)] = true
				}
			}
		}
	}
	for _, d := range []time.Duration{23 * time.Hour, 24 * time.Hour, 25 * time.Hour} {
		if !lengths[d] {
			t.Errorf("no day of %s was met", d)
		}
	}
}

// TestDaysOf23And25Hours: the budget begins anew at the zone's own midnights, an hour
// early in spring and an hour late in autumn.
func TestDaysOf23And25Hours(t *testing.T) {
	t.Parallel()
	berlin := zone(t, "Europe/Berlin")
	for midnight, length := range map[time.Time]time.Duration{
		time.Date(2026, 3, 29, 0, 0, 0, 0, berlin):  23 * time.Hour,
		time.Date(2026, 10, 25, 0, 0, 0, 0, berlin): 25 * time.Hour,
	} {
		w := newWorld(t, midnight.UTC(), func(c *budget.Config) { c.Location = berlin })
		w.sample(0, 0)
		w.sample(time.Minute, 100)
		if r := w.expect(budget.ReasonExhausted); r.RetryAfter != length-time.Minute {
			t.Errorf("RetryAfter = %s, want %s", r.RetryAfter, length-time.Minute)
		}
		w.sample(length-2*time.Minute, 0) // a minute before the end
		w.sample(30*time.Second, 1)
		w.expect(budget.ReasonExhausted)
		w.sample(30*time.Second, 1)
		w.expect("")
	}
}

func TestBudgetsOfSeveralPeriods(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, func(c *budget.Config) {
		c.Limits = []budget.Limit{{Per: budget.Hour, Amount: 10}, {Per: budget.Day, Amount: 25}, {Per: budget.Month, Amount: 40}}
	})
	want := func(reason string, per budget.Period, until time.Time) {
		t.Helper()
		if r := w.expect(reason); r != nil && (r.Per != per || !w.now.Add(r.RetryAfter).Equal(until)) {
			t.Errorf("closed by the %s until %s, want the %s until %s", r.Per, w.now.Add(r.RetryAfter), per, until)
		}
	}
	hour := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Hour) }
	w.sample(0, 0)
	w.sample(10*time.Minute, 10)
	want(budget.ReasonExhausted, budget.Hour, hour(1))
	w.sample(50*time.Minute, 0)
	w.expect("") // on the boundary
	w.sample(time.Minute, 10)
	want(budget.ReasonExhausted, budget.Hour, hour(2))
	w.sample(59*time.Minute, 0)
	w.expect("")
	w.sample(time.Minute, 5)
	want(budget.ReasonExhausted, budget.Day, hour(12))
	for w.now.Before(hour(13)) {
		w.sample(59*time.Minute, 0)
	}
	w.sample(time.Minute, 9)
	w.expect("")
	w.sample(time.Hour, 9) // the month's 43 of 40; the day's 18 of 25
	month := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	want(budget.ReasonExhausted, budget.Month, month)
	for w.now.Before(month) {
		w.sample(time.Hour, 0)
	}
	w.sample(time.Minute, 1)
	w.expect("")
}

// TestHeadroom: what can accrue unseen is kept free.
func TestHeadroom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, func(c *budget.Config) { c.Headroom, c.CloseGrace, c.Limits = nil, time.Minute, perDay(1000) })
	w.rate = nanos(600)
	w.sample(0, 0) // a step of 2, a lag of 5 and an interval of 1 minute, and the grace: 9 minutes
	w.expect("")
	if st, ok := w.gate.State(); !ok || *st.Headroom != 90 || *st.Rate != 600 {
		t.Errorf("State = %+v, %v", st, ok)
	}
	w.sample(time.Minute, 909)
	w.expect("")
	w.rate = nanos(60) // a cheaper machine does not take back what may still come of the dearer one
	w.sample(time.Minute, 1)
	w.expect(budget.ReasonExhausted)
	if st, _ := w.gate.State(); *st.Headroom != 90 || *st.Rate != 60 {
		t.Errorf("State = %+v", st)
	}
	for w.now.Before(noon.Add(50 * time.Hour)) { // in two days it does
		w.sample(time.Hour, 0)
	}
	w.sample(time.Minute, 1)
	w.expect("")
	if st, _ := w.gate.State(); *st.Headroom != 9 {
		t.Errorf("two days later: %+v", st)
	}
}

func TestHeadroomThatIsGiven(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, func(c *budget.Config) { c.Headroom = nanos(30) })
	w.rate = nil
	w.sample(0, 0)
	w.sample(time.Minute, 69)
	w.expect("")
	w.sample(time.Minute, 1)
	w.expect(budget.ReasonExhausted)
}

func TestNoRateIsNoHeadroom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, func(c *budget.Config) { c.Headroom = nil })
	w.rate = nil
	w.sample(0, 0)
	w.expect(budget.ReasonNoRate)
	w.rate = nanos(1)
	w.sample(time.Minute, 1)
	w.expect("")

	without := newWorld(t, noon, func(c *budget.Config) { c.Headroom, c.Limits = nil, nil })
	without.rate = nil
	without.sample(0, 0)
	without.expect("") // no budget needs none
}

func TestEstimates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, func(c *budget.Config) { c.Limits = perDay(1000) })
	w.rate = nanos(60)
	look := func() (budget.State, budget.Window) {
		t.Helper()
		st, ok, err := budget.Evaluate(w.led, budget.Terms{Limits: perDay(1000), Headroom: nanos(40)}, w.now)
		if err != nil || !ok {
			t.Fatalf("Evaluate = %v, %v", ok, err)
		}
		return st, st.Windows[0]
	}
	if _, ok, err := budget.Evaluate(w.led, budget.Terms{}, w.now); ok || err != nil {
		t.Errorf("Evaluate nothing = %v, %v", ok, err)
	}
	w.sample(0, 0)
	st, win := look()
	if day, ok := st.Projected(win); !ok || day != 1440 {
		t.Errorf("Projected = %v, %v", day, ok)
	}
	if at, ok := st.Reached(win); ok { // 960 at 60 an hour: 16 hours, and the day has 12
		t.Errorf("Reached = %s", at)
	}
	w.sample(time.Minute, 600)
	st, win = look()
	if at, ok := st.Reached(win); !ok || !at.Equal(w.now.Add(6*time.Hour)) {
		t.Errorf("Reached = %s, %v", at, ok)
	}
	w.sample(time.Minute, 600)
	st, win = look()
	if at, ok := st.Reached(win); !ok || !at.Equal(w.now) {
		t.Errorf("Reached = %s, %v", at, ok)
	}
}

func TestOverride(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, nil)
	w.sample(0, 0)
	w.sample(time.Minute, 120)
	w.expect(budget.ReasonExhausted)
	if _, err := w.led.AddOverride(time.Hour, nil, "a demo"); err != nil {
		t.Fatal(err)
	}
	w.expect("")
	w.sample(30*time.Minute, 1000)
	w.expect("")

	w.now = w.now.Add(4 * time.Minute) // unknown means no, whoever says otherwise
	w.expect(budget.ReasonStale)
	w.sample(time.Minute, 1)
	w.expect("")
	w.sample(25*time.Minute, 1)
	w.expect(budget.ReasonExhausted) // its hour is over

	if _, err := w.led.AddOverride(2*time.Hour, nil, "again"); err != nil {
		t.Fatal(err)
	}
	w.expect("")
	w.now = w.now.Add(time.Second)
	if _, err := w.led.EndOverride(); err != nil {
		t.Fatal(err)
	}
	w.expect(budget.ReasonExhausted)
}

func TestOverrideByAnAmount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, func(c *budget.Config) { c.Headroom = nanos(2) })
	w.sample(0, 0)
	w.sample(time.Minute, 120)
	w.expect(budget.ReasonExhausted)
	if _, err := w.led.AddOverride(time.Hour, nanos(10), "a demo"); err != nil {
		t.Fatal(err)
	}
	w.expect("")
	w.sample(time.Minute, 7)
	w.expect("")
	w.sample(time.Minute, 1) // 8 of 10, and the headroom
	w.expect(budget.ReasonExhausted)
	w.sample(time.Minute, -5) // a refund gives nothing back
	w.expect(budget.ReasonExhausted)
}
