package billing_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/ledger"
)

// metered is a provider whose one machine has cost bill(n) at its n-th poll.
type metered struct {
	born  time.Time
	polls int
	// sample changes what is answered at a poll, or makes it fail. May be nil.
	sample func(n int, s *ledger.Sample) error
	bill   func(age time.Duration) ledger.Nanos
	least  time.Duration
}

const hourly = 2_520_000_000 // 2.52 an hour

func (c *metered) Name() string               { return "cloud" }
func (c *metered) MinInterval() time.Duration { return max(c.least, time.Second) }

func (c *metered) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
	c.polls++
	rate, bill := ledger.Nanos(hourly), c.bill(now.Sub(c.born))
	volume, storage := ledger.Nanos(0), ledger.Nanos(21_600_000)
	s := ledger.Sample{
		At: now, Provider: "cloud", Account: "7", Currency: "USD", Truth: ledger.TruthResource, Step: time.Minute, Lag: 5 * time.Minute,
		Lines: []ledger.Line{
			{Resource: "vm-1", Kind: ledger.Instance, Status: "ACTIVE", Running: true, Rate: &rate, Bill: &bill, Epoch: "e"},
			{Resource: "volume-2", Kind: ledger.Volume, Running: true, Rate: &storage, Bill: &volume, Epoch: "e"},
		},
	}
	if c.sample != nil {
		if err := c.sample(c.polls, &s); err != nil {
			return ledger.Sample{}, err
		}
	}
	return s, ctx.Err()
}

// steps is a bill at hourly that moves once in step.
func steps(step time.Duration) func(time.Duration) ledger.Nanos {
	return func(age time.Duration) ledger.Nanos {
		return ledger.Nanos(hourly / 3600 * int64(age.Truncate(step)/time.Second))
	}
}

// probing runs a probe of c as the command does by default, in fake time.
func probing(t *testing.T, c *metered, change ...func(*billing.ProbeConfig)) (m billing.Measured, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if c.bill == nil {
			c.bill = steps(time.Minute)
		}
		c.born = time.Now().Add(-3 * time.Hour)
		cfg := billing.ProbeConfig{Provider: c, Every: 20 * time.Second, For: 30 * time.Minute}
		for _, f := range change {
			f(&cfg)
		}
		m, err = billing.Probe(t.Context(), cfg)
	})
	return m, err
}

func TestProbe(t *testing.T) {
	var seen []billing.Poll
	m, err := probing(t, &metered{}, func(c *billing.ProbeConfig) {
		c.OnPoll = func(p billing.Poll) { seen = append(seen, p) }
	})
	if err != nil {
		t.Fatal(err)
	}
	skew := time.Minute
	want := billing.Measured{
		Provider: "cloud", Account: "7", Currency: "USD", Truth: ledger.TruthResource, Watched: []string{"vm-1"},
		From: m.From, To: m.From.Add(30 * time.Minute), Polls: 91, Changes: 30,
		Step: time.Minute, Worst: time.Minute, Lag: 3 * time.Minute,
		Billed: 29 * hourly / 60, Ratio: "1.0000", Unit: billing.UnitConfirmed, Reread: billing.RereadNone, Skew: &skew,
		Windows: billing.Windows{EndOmitted: billing.NotAsked, EndFuture: billing.NotAsked, EarlyStart: billing.NotAsked, Account: billing.NotAsked},
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("Probe = %+v\nwant    %+v", m, want)
	}
	moved := 0
	for i, p := range seen {
		if p.Err != nil || i > 0 && p.Bill != seen[i-1].Bill+p.Moved {
			t.Errorf("poll %d = %+v after %+v", i, p, seen[i-1])
		}
		if p.Moved != 0 {
			moved++
		}
	}
	if len(seen) != m.Polls || moved != m.Changes {
		t.Errorf("%d polls and %d changes were told, want %d and %d", len(seen), moved, m.Polls, m.Changes)
	}
}

func TestProbeMeasures(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name             string
		cloud            metered
		step, worst, lag time.Duration
		changes          int
		unit             billing.Unit
		ratio            string
	}{{
		name:  "a bill that moves at every poll",
		cloud: metered{bill: steps(time.Second)},
		step:  20 * time.Second, worst: 20 * time.Second, lag: time.Minute, changes: 90, unit: billing.UnitConfirmed, ratio: "1.0000",
	}, {
		name:  "steps of five minutes",
		cloud: metered{bill: steps(5 * time.Minute)},
		step:  5 * time.Minute, worst: 5 * time.Minute, lag: 15 * time.Minute, changes: 6, unit: billing.UnitConfirmed, ratio: "1.0000",
	}, {
		// One step in the middle comes three minutes late, and brings all.
		name: "a bill that stood still once",
		cloud: metered{bill: func(age time.Duration) ledger.Nanos {
			if over := age - 3*time.Hour - 10*time.Minute; over >= 0 && over < 4*time.Minute {
				age -= over + 1
			}
			return steps(time.Minute)(age)
		}},
		step: time.Minute, worst: 5 * time.Minute, lag: 15 * time.Minute, changes: 26, unit: billing.UnitConfirmed, ratio: "1.0000",
	}, {
		// Known from below only, and the worst for all that.
		name: "a bill that stands still in the end",
		cloud: metered{bill: func(age time.Duration) ledger.Nanos {
			return steps(time.Minute)(min(age, 3*time.Hour+20*time.Minute))
		}},
		step: time.Minute, worst: 10 * time.Minute, lag: 30 * time.Minute, changes: 20, unit: billing.UnitConfirmed, ratio: "1.0000",
	}, {
		name: "a rate that is not known",
		cloud: metered{sample: func(n int, s *ledger.Sample) error {
			s.Lines[0].Rate = nil
			return nil
		}},
		step: time.Minute, worst: time.Minute, lag: 3 * time.Minute, changes: 30, unit: billing.UnitUnknown,
	}, {
		name: "a little dearer than the rate",
		cloud: metered{bill: func(age time.Duration) ledger.Nanos {
			return steps(time.Minute)(age) * 104 / 100
		}},
		step: time.Minute, worst: time.Minute, lag: 3 * time.Minute, changes: 30, unit: billing.UnitConfirmed, ratio: "1.0400",
	}, {
		name: "a change of the rate that the bill follows",
		cloud: metered{
			bill: func(age time.Duration) ledger.Nanos {
				return steps(time.Minute)(age) + max(0, steps(time.Minute)(age-3*time.Hour-15*time.Minute))
			},
			sample: func(n int, s *ledger.Sample) error {
				if n > 46 {
					*s.Lines[0].Rate *= 2
				}
				return nil
			},
		},
		step: time.Minute, worst: time.Minute, lag: 3 * time.Minute, changes: 30, unit: billing.UnitConfirmed, ratio: "1.0000",
	}, {
		// The account's total is held against the rates of all that is known of it.
		name: "an account's bill",
		cloud: metered{sample: func(n int, s *ledger.Sample) error {
			s.Truth = ledger.TruthAccount
			bill := *s.Lines[0].Bill
			s.Lines[0].Bill, s.Lines[1].Bill = nil, nil
			*s.Lines[1].Rate = 0
			s.Lines = append(s.Lines, ledger.Line{Resource: "account-7", Kind: ledger.AccountKind, Bill: &bill, Epoch: "e"})
			return nil
		}},
		step: time.Minute, worst: time.Minute, lag: 3 * time.Minute, changes: 30, unit: billing.UnitConfirmed, ratio: "1.0000",
	}, {
		name:  "an account's bill and nothing else",
		cloud: metered{sample: func(n int, s *ledger.Sample) error { account(true)(s); return nil }},
		step:  time.Minute, worst: time.Minute, lag: 3 * time.Minute, changes: 30, unit: billing.UnitConfirmed, ratio: "1.0000",
	}, {
		// A failed poll hides a change for a while: the gap is a longer one.
		name: "a failure now and then",
		cloud: metered{sample: func(n int, s *ledger.Sample) error {
			if n == 40 {
				return &api.Failure{Class: api.HTTP5xx, Err: errors.New("status 500")}
			}
			return nil
		}},
		step: time.Minute, worst: 80 * time.Second, lag: 4 * time.Minute, changes: 30, unit: billing.UnitConfirmed, ratio: "1.0000",
	}}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, err := probing(t, &test.cloud)
			if err != nil {
				t.Fatal(err)
			}
			if m.Step != test.step || m.Worst != test.worst || m.Lag != test.lag || m.Changes != test.changes || m.Unit != test.unit || m.Ratio != test.ratio {
				t.Errorf("step %s, worst %s, lag %s, changes %d, unit %s, ratio %s; want %s, %s, %s, %d, %s, %s", m.Step, m.Worst, m.Lag, m.Changes, m.Unit, m.Ratio,
					test.step, test.worst, test.lag, test.changes, test.unit, test.ratio)
			}
		})
	}
}

// account makes a sample one whose only line is the account's.
func account(running bool) func(*ledger.Sample) {
	return func(s *ledger.Sample) {
		s.Truth = ledger.TruthAccount
		s.Lines = s.Lines[:1]
		s.Lines[0].Resource, s.Lines[0].Kind, s.Lines[0].Running = "account-7", ledger.AccountKind, running
	}
}

func TestProbeRefuses(t *testing.T) {
	t.Parallel()
	from := func(n int, change func(*ledger.Sample)) func(int, *ledger.Sample) error {
		return func(poll int, s *ledger.Sample) error {
			if poll >= n {
				change(s)
			}
			return nil
		}
	}
	failing := func(class api.Class, every int) func(int, *ledger.Sample) error {
		return func(n int, s *ledger.Sample) error {
			if n%every == 0 {
				return &api.Failure{Class: class, Err: errors.New("of the test")}
			}
			return nil
		}
	}
	tests := []struct {
		name  string
		cloud metered
		want  string
		polls int // after which it gave up; 0: after all of them
	}{
		{"cents", metered{bill: func(a time.Duration) ledger.Nanos { return 100 * steps(time.Minute)(a) }}, "the bill grew by 100.0000 times what the rate promises", 0},
		{"seconds", metered{bill: func(a time.Duration) ledger.Nanos { return steps(time.Minute)(a) / 3600 }}, "the bill grew by 0.0003 times", 0},
		{"a tax", metered{bill: func(a time.Duration) ledger.Nanos { return steps(time.Minute)(a) * 119 / 100 }}, "the bill grew by 1.1900 times", 0},
		{"frozen", metered{bill: func(time.Duration) ledger.Nanos { return 1 }}, "the bill moved 0 times in 30m0s", 0},
		{"steps of an hour", metered{bill: steps(time.Hour)}, "too few to measure a step", 0},
		{"a refund", metered{sample: from(9, func(s *ledger.Sample) { *s.Lines[0].Bill -= 1_000_000_000 })}, "the bill fell by ", 9},
		{"a stopped machine", metered{sample: from(1, func(s *ledger.Sample) { s.Lines[0].Running = false })}, "no machine of this bill runs", 1},
		{"it stops", metered{sample: from(5, func(s *ledger.Sample) { s.Lines[0].Running, s.Lines[0].Status = false, "HIBERNATED" })}, "vm-1 stopped running: it is HIBERNATED", 5},
		{"it leaves", metered{sample: from(5, func(s *ledger.Sample) { s.Lines = s.Lines[1:] })}, "0 of 1 watched resources", 5},
		{"another epoch", metered{sample: from(5, func(s *ledger.Sample) { s.Lines[0].Epoch = "f" })}, "the bill of vm-1 began anew", 5},
		{"another account", metered{sample: from(5, func(s *ledger.Sample) { s.Account = "8" })}, `account "7", then "8"`, 5},
		{"a stopped account", metered{sample: from(1, account(false))}, "no machine of this bill runs", 1},
		{"an account stops", metered{sample: func(n int, s *ledger.Sample) error { account(n < 5)(s); return nil }}, "no machine of this bill runs any more", 5},
		{"rates only", metered{sample: from(1, func(s *ledger.Sample) { s.Truth = ledger.TruthNone })}, "shows rates and no bill", 1},
		{"no key", metered{sample: failing(api.HTTP401, 1)}, "of the test", 1},
		{"a skewed clock", metered{sample: failing(api.ClockSkew, 7)}, "of the test", 7},
		{"mostly dark", metered{sample: failing(api.Network, 3)}, "30 of 91 polls failed", 0},
		{"dark throughout", metered{sample: failing(api.Network, 1)}, "91 of 91 polls failed", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := probing(t, &test.cloud)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Probe = %v, want %q", err, test.want)
			}
			if test.polls == 0 {
				test.polls = 91
			}
			if test.cloud.polls != test.polls {
				t.Errorf("%d polls, want %d", test.cloud.polls, test.polls)
			}
		})
	}
}

func TestProbeSettings(t *testing.T) {
	refused := func(want string, change func(*billing.ProbeConfig)) {
		t.Helper()
		c := &metered{least: 10 * time.Second}
		if _, err := probing(t, c, change); err == nil || !strings.Contains(err.Error(), want) || c.polls > 0 {
			t.Errorf("Probe = %v after %d polls, want %q", err, c.polls, want)
		}
	}
	refused("too often for cloud", func(c *billing.ProbeConfig) { c.Every = 9 * time.Second })
	refused("probe every 0s", func(c *billing.ProbeConfig) { c.Every = 0 })
	refused("probe every 10.5s", func(c *billing.ProbeConfig) { c.Every = 10500 * time.Millisecond })
	refused("too short to see anything", func(c *billing.ProbeConfig) { c.For = 199 * time.Second })
	refused("a provider is required", func(c *billing.ProbeConfig) { c.Provider = nil })
}

// An aborted probe has measured nothing, and ends at once.
func TestProbeAborted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := &metered{born: start.Add(-time.Hour), bill: steps(time.Minute)}
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute+3*time.Second)
		defer cancel()
		m, err := billing.Probe(ctx, billing.ProbeConfig{Provider: c, Every: 20 * time.Second, For: 30 * time.Minute})
		if !errors.Is(err, context.DeadlineExceeded) || !reflect.DeepEqual(m, billing.Measured{}) {
			t.Errorf("Probe = %+v, %v", m, err)
		}
		if took := time.Since(start); took != 25*time.Minute+3*time.Second {
			t.Errorf("it ended after %s", took)
		}
	})
}

// The peace that a provider asks for is kept.
func TestProbeRetryAfter(t *testing.T) {
	var polls []time.Duration
	var start time.Time
	_, err := probing(t, &metered{sample: func(n int, s *ledger.Sample) error {
		if n == 1 {
			start = s.At
		}
		polls = append(polls, s.At.Sub(start))
		if n == 2 {
			return &api.Failure{Class: api.HTTP429, RetryAfter: 50 * time.Second, Err: errors.New("status 429")}
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []time.Duration{0, 20 * time.Second, 80 * time.Second, 100 * time.Second}; !reflect.DeepEqual(polls[:4], want) {
		t.Errorf("polls at %v, want %v", polls[:4], want)
	}
}

// past is a metered provider that can be asked for a bill of then.
type past struct {
	*metered
	asked []time.Time
	grow  ledger.Nanos // by which a past bill is restated at each read
	err   error
}

func (p *past) SampleAt(ctx context.Context, at, now time.Time) (ledger.Sample, error) {
	p.asked = append(p.asked, at)
	s, err := p.metered.Sample(ctx, at)
	if err == nil {
		*s.Lines[0].Bill += p.grow * ledger.Nanos(len(p.asked))
	}
	return s, errors.Join(err, p.err)
}

func TestProbeReadsTwice(t *testing.T) {
	read := func(p *past, want billing.Reread, asked int) {
		t.Helper()
		p.metered = &metered{}
		m, err := probing(t, p.metered, func(c *billing.ProbeConfig) { c.Provider = p })
		if err != nil || m.Reread != want || len(p.asked) != asked {
			t.Errorf("reread = %s, %v after %d reads, want %s after %d", m.Reread, err, len(p.asked), want, asked)
		}
		for _, at := range p.asked {
			if at.Truncate(time.Hour) != at || m.To.Sub(at) < m.Lag {
				t.Errorf("asked for %s, the lag is %s and it is %s", at, m.Lag, m.To)
			}
		}
	}
	read(&past{}, billing.RereadSame, 2)
	read(&past{grow: 1}, billing.RereadRestated, 2)
	read(&past{err: errors.New("not then")}, billing.RereadNone, 1)
}
