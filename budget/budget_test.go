package budget_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/ledger/ledgertest"
)

func TestMain(m *testing.M) { ledgertest.Main(m) }

// world is a gate over a real ledger, with a clock that the test moves.
type world struct {
	t       *testing.T
	cfg     budget.Config
	path    string
	led     *ledger.Ledger
	gate    *budget.Gate
	now     time.Time
	set     time.Duration // by how much the clock was set, in all
	bill    ledger.Nanos
	rate    *ledger.Nanos
	changes []string
}

func newWorld(t *testing.T, now time.Time, change func(*budget.Config)) *world {
	t.Helper()
	w := &world{t: t, now: now, rate: nanos(1), path: filepath.Join(t.TempDir(), "l.db")}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	w.led = ledgertest.Open(t, ledger.Config{Path: w.path, Now: func() time.Time { return w.now }, Log: log})
	none := ledger.Nanos(0)
	cfg := budget.Config{Ledger: w.led, Terms: budget.Terms{Limits: perDay(100), Headroom: &none}, MaxSampleAge: 3 * time.Minute,
		Now: func() time.Time { return w.now }, Elapsed: func() time.Duration { return w.now.Sub(now) - w.set },
		OnChange: func(r *budget.Refusal) {
			if r == nil {
				w.changes = append(w.changes, "open")
			} else {
				w.changes = append(w.changes, r.Reason)
			}
		}}
	if change != nil {
		change(&cfg)
	}
	w.cfg = cfg
	w.restart()
	return w
}

// restart makes a new gate over the same ledger, as after a crash.
func (w *world) restart() {
	w.t.Helper()
	var err error
	if w.gate, err = budget.New(w.cfg); err != nil {
		w.t.Fatal(err)
	}
}

// perDay is a budget.
func perDay(n ledger.Nanos) []budget.Limit { return []budget.Limit{{Per: budget.Day, Amount: n}} }

// step sets the clock.
func (w *world) step(d time.Duration) {
	w.now = w.now.Add(d)
	w.set += d
}

// sample advances the clock and stores a sample whose bill has grown.
func (w *world) sample(after time.Duration, grown ledger.Nanos) {
	w.t.Helper()
	w.now = w.now.Add(after)
	w.bill += grown
	bill := w.bill
	_, err := w.led.AddSample(context.Background(), ledger.Sample{At: w.now, Provider: "p", Currency: "USD", Truth: ledger.TruthResource,
		Step: 2 * time.Minute, Lag: 5 * time.Minute, Every: time.Minute,
		Lines: []ledger.Line{{Resource: "vm", Kind: ledger.Instance, Running: true, Rate: w.rate, Bill: &bill, Epoch: "e"}}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// sql changes the ledger's file behind its back.
func (w *world) sql(statement string) {
	w.t.Helper()
	db, err := sql.Open("sqlite", w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		w.t.Fatal(err)
	}
}

// expect evaluates now and wants the reason, "" for open.
func (w *world) expect(want string) *budget.Refusal {
	w.t.Helper()
	w.gate.Evaluate()
	err := w.gate.Allow()
	if err == nil {
		if want != "" {
			w.t.Errorf("at %s: the gate is open, want %q", w.now.Format(time.DateTime), want)
		}
		return nil
	}
	var r *budget.Refusal
	if !errors.As(err, &r) {
		w.t.Fatalf("Allow = %v, not a Refusal", err)
	}
	if r.Reason != want {
		w.t.Errorf("at %s: reason %q (%s), want %q", w.now.Format(time.DateTime), r.Reason, r.Detail, want)
	}
	wantErr := budget.ErrUnobservable
	if want == budget.ReasonExhausted {
		wantErr = budget.ErrExhausted
	}
	if !errors.Is(err, wantErr) {
		w.t.Errorf("Allow = %v, want %v", err, wantErr)
	}
	return r
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestTheZeroGateRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, nil)
	if err := w.gate.Allow(); !errors.Is(err, budget.ErrUnobservable) {
		t.Errorf("Allow before any evaluation = %v", err)
	}
}

func TestAVerdictExpiresByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, nil)
	w.sample(0, 0)
	w.expect("")
	w.now = w.now.Add(3 * time.Second) // nobody evaluates any more
	if err := w.gate.Allow(); !errors.Is(err, budget.ErrUnobservable) {
		t.Errorf("Allow on an expired verdict = %v", err)
	}
}

func TestTheBudgetOfADay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, nil)
	w.expect(budget.ReasonNoSample)
	w.sample(time.Minute, 5000) // the bill before us is not our spend
	w.expect("")
	w.sample(time.Minute, 99)
	w.expect("")
	w.sample(time.Minute, 1)
	r := w.expect(budget.ReasonExhausted)
	if want := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC).Sub(w.now); r.RetryAfter != want {
		t.Errorf("RetryAfter = %s, want %s", r.RetryAfter, want)
	}
	w.sample(time.Minute, -60) // a refund
	w.expect(budget.ReasonExhausted)
	for w.now.Before(time.Date(2026, 11, 24, 0, 0, 30, 0, time.UTC)) {
		w.sample(30*time.Minute, 1)
	}
	w.expect("") // a new day
	if want := []string{"no_sample", "open", "exhausted", "open"}; !slices.Equal(w.changes, want) {
		t.Errorf("changes = %v, want %v", w.changes, want)
	}
}

func TestTheDayStartsInItsZone(t *testing.T) {
	t.Parallel()
	tokyo := time.FixedZone("JST", 9*3600)
	w := newWorld(t, time.Date(2026, 11, 23, 14, 58, 0, 0, time.UTC), func(c *budget.Config) { c.Location = tokyo })
	w.sample(0, 0)
	w.sample(time.Minute, 100)
	w.expect(budget.ReasonExhausted)
	w.sample(time.Minute, 1) // 15:00 UTC is midnight there
	w.expect("")
}

// TestTheNextMidnight walks through days whose clocks change.
func TestTheNextMidnight(t *testing.T) {
	t.Parallel()
	for _, zone := range []string{"UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "America/Havana", "Africa/Cairo", "Asia/Beirut", "Australia/Lord_Howe"} {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		for now := time.Date(2026, 1, 1, 0, 30, 0, 0, time.UTC); now.Year() < 2028; now = now.Add(time.Hour) {
			midnight, next := budget.Day.Bounds(now, loc)
			if now.Before(midnight) || !now.Before(next) || next.Sub(midnight) < 23*time.Hour || next.Sub(midnight) > 25*time.Hour ||
				midnight.In(loc).Day() != now.In(loc).Day() || midnight.Add(-time.Nanosecond).In(loc).Day() == now.In(loc).Day() {
				t.Fatalf("%s: the day of %s is %s to %s", zone, now.In(loc), midnight, next)
			}
		}
	}
}

func TestSpendAsleepOverMidnightIsNotTodays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC), nil)
	w.sample(0, 0)
	w.sample(12*time.Hour, 5000)
	w.expect("")
	w.sample(time.Minute, 100)
	w.expect(budget.ReasonExhausted)
}

func TestDarkness(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, func(c *budget.Config) { c.Limits = nil })
	w.sample(0, 0)
	w.expect("")
	w.now = w.now.Add(3 * time.Minute)
	w.expect("")
	w.now = w.now.Add(time.Second)
	if r := w.expect(budget.ReasonStale); r.RetryAfter != time.Minute {
		t.Errorf("RetryAfter = %s", r.RetryAfter)
	}
	w.sample(time.Second, 5)
	w.expect("") // opens by itself on a healthy sample
	for range 4 {
		w.sample(time.Minute, 0)
		w.expect("")
	}
	w.sample(time.Minute, 0)
	w.expect("")
	w.sample(time.Minute, 0)
	w.expect(budget.ReasonFrozen)
	w.sample(time.Minute, 1)
	w.expect("")
}

func TestAClockThatMovedBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, nil)
	w.sample(0, 0)
	w.now = w.now.Add(2 * time.Minute)
	w.expect("")
	w.step(-time.Minute) // the newest sample is still in the past
	w.expect(budget.ReasonClockBack)
	w.expect(budget.ReasonClockBack) // until a bill is seen under the new time
	w.sample(0, 1)
	w.expect("")
	w.step(-time.Hour)
	w.expect(budget.ReasonClockBack)
}

// A gate that begins after the clock was set back knows it by what was written since
// the newest sample: without, it would take an old bill for a young one.
func TestAClockThatMovedBackBeforeTheGateBegan(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, nil)
	w.sample(0, 0)
	for range 6 { // dark minutes
		w.now = w.now.Add(time.Minute)
		if err := w.led.AddSampleFailure(context.Background(), ledger.SampleFailure{At: w.now, Call: "GET /bill", Class: "timeout"}); err != nil {
			t.Fatal(err)
		}
	}
	w.expect(budget.ReasonFailed)
	w.step(-5 * time.Minute)
	w.restart()
	w.expect(budget.ReasonClockBack)
	w.restart() // nor is it forgotten
	w.expect(budget.ReasonClockBack)
	w.sample(time.Minute, 1)
	w.expect("")
	w.restart() // the dark minutes are still to come, again
	w.expect(budget.ReasonClockBack)
	w.sample(10*time.Minute, 1)
	w.restart()
	w.expect("")
}

func TestAClockThatJumped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, nil)
	w.step(time.Hour)
	w.sample(0, 0)
	w.expect("") // it was set before anything was seen
	w.sample(time.Minute, 1)
	w.expect("")
	w.step(time.Minute) // by less than would make the sample old
	w.expect(budget.ReasonClockJump)
	w.sample(time.Minute, 1)
	w.expect("")
	w.step(time.Hour)
	w.expect(budget.ReasonClockJump)
	w.sample(time.Minute, 1)
	w.expect("")
}

func TestRatesAreNoBill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, nil)
	rate := ledger.Nanos(5)
	if _, err := w.led.AddSample(context.Background(), ledger.Sample{At: noon, Provider: "p", Currency: "USD", Truth: ledger.TruthNone,
		Lines: []ledger.Line{{Resource: "vm", Kind: ledger.Instance, Running: true, Rate: &rate, Epoch: "e"}}}); err != nil {
		t.Fatal(err)
	}
	w.expect(budget.ReasonNoTruth)
}

// sick is a ledger whose writes or reads fail.
type sick struct {
	*ledger.Ledger
	write, read error
}

func (s *sick) Err() error   { return s.write }
func (s *sick) Probe() error { return s.write }
func (s *sick) Spent(from, to time.Time) (ledger.Spend, error) {
	if s.read != nil {
		return ledger.Spend{}, s.read
	}
	return s.Ledger.Spent(from, to)
}

func TestASickLedger(t *testing.T) {
	t.Parallel()
	s := &sick{}
	w := newWorld(t, noon, func(c *budget.Config) { s.Ledger = c.Ledger.(*ledger.Ledger); c.Ledger = s })
	w.sample(0, 0)
	w.expect("")
	s.write = errors.New("disk I/O error")
	w.expect(budget.ReasonUnwritable)
	s.write = fmt.Errorf("write ledger: %w", ledger.ErrFull)
	w.expect(budget.ReasonDiskFull)
	s.write = nil
	w.expect("")
	s.read = errors.New("disk I/O error")
	w.sample(time.Minute, 1)
	w.expect(budget.ReasonUnreadable)

	blind := newWorld(t, noon, func(c *budget.Config) {
		c.Blind = true
		c.Ledger = &sick{Ledger: c.Ledger.(*ledger.Ledger), write: errors.New("disk full")}
	})
	blind.expect(budget.ReasonUnwritable)
}

// A table that is away makes writes fail, as a broken disk would; the file that is
// closed, reads.
func TestALedgerThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, nil)
	w.sample(0, 0)
	w.expect("")
	w.sql("ALTER TABLE meta RENAME TO away")
	if err := w.led.SetProvider("p"); err == nil {
		t.Fatal("the ledger is well")
	}
	w.expect(budget.ReasonUnwritable)
	w.sql("ALTER TABLE away RENAME TO meta")
	w.expect("") // by itself
	w.led.Reader.Close()
	w.expect(budget.ReasonUnreadable)
}

func TestTrip(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, nil)
	w.sample(0, 0)
	w.expect("")
	w.gate.Trip(errors.New("disk full"))
	if err := w.gate.Allow(); !errors.Is(err, budget.ErrUnobservable) {
		t.Errorf("Allow after Trip = %v", err)
	}
	w.expect("") // the ledger is well: the next evaluation opens
	if want := []string{"open", "ledger_unwritable", "open"}; !slices.Equal(w.changes, want) {
		t.Errorf("changes = %v, want %v", w.changes, want)
	}
}

func TestALineWithoutItsBill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, nil)
	if _, err := w.led.AddSample(context.Background(), ledger.Sample{At: noon, Provider: "p", Currency: "USD", Truth: ledger.TruthAccount,
		Lines: []ledger.Line{{Resource: "account", Kind: ledger.AccountKind, Running: true, Epoch: "e"}}}); err != nil {
		t.Fatal(err)
	}
	w.expect(budget.ReasonUnknown)
}

// A volume with a bill does not speak for the machine.
func TestAMachineWithoutItsBill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, nil)
	bill := ledger.Nanos(5)
	if _, err := w.led.AddSample(context.Background(), ledger.Sample{At: noon, Provider: "p", Currency: "USD", Truth: ledger.TruthAccount,
		Lines: []ledger.Line{{Resource: "vm", Kind: ledger.Instance, Running: true, Epoch: "e"}, {Resource: "v", Kind: ledger.Volume, Bill: &bill, Epoch: "e"}}}); err != nil {
		t.Fatal(err)
	}
	w.expect(budget.ReasonUnknown)
}

// TestWhatOnlyAPersonMends says so: it is not asked to be tried again.
func TestWhatOnlyAPersonMends(t *testing.T) {
	t.Parallel()
	const lag = 5 * time.Minute
	sample := func(w *world, ln ledger.Line, truth ledger.Truth) {
		t.Helper()
		if _, err := w.led.AddSample(context.Background(), ledger.Sample{At: w.now, Provider: "p", Currency: "USD", Truth: truth, Lag: lag, Every: time.Minute,
			Lines: []ledger.Line{ln}}); err != nil {
			t.Fatal(err)
		}
	}
	hopeless := func(w *world, reason string, want bool) {
		t.Helper()
		if r := w.expect(reason); (r.RetryAfter == 0) != want {
			t.Errorf("%s: RetryAfter = %s", reason, r.RetryAfter)
		}
	}
	for class, want := range map[string]bool{"http_401": true, "http_403": true, "http_429": false, "http_5xx": false, "network": false, "malformed": false} {
		w := newWorld(t, noon, nil)
		if err := w.led.AddSampleFailure(context.Background(), ledger.SampleFailure{At: w.now, Call: "GET /bill", Class: class}); err != nil {
			t.Fatal(err)
		}
		hopeless(w, budget.ReasonFailed, want)
	}
	w := newWorld(t, noon, nil)
	sample(w, ledger.Line{Resource: "vm", Kind: ledger.Instance, Running: true, Epoch: "e"}, ledger.TruthNone)
	hopeless(w, budget.ReasonNoTruth, true)

	w = newWorld(t, noon, func(c *budget.Config) { c.Headroom = nil })
	w.rate = nil
	w.sample(0, 1)
	hopeless(w, budget.ReasonNoRate, true)

	// A bill comes later than its machine, by the provider's lag.
	for _, born := range []time.Time{noon, {}} { // {}: the provider does not say
		w = newWorld(t, noon, nil)
		for min := range 10 {
			sample(w, ledger.Line{Resource: "vm", Kind: ledger.Instance, Running: true, Epoch: "e", Created: born}, ledger.TruthResource)
			hopeless(w, budget.ReasonUnknown, min > 5)
			w.now = w.now.Add(time.Minute)
		}
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, nil)
	fail := func(after time.Duration) {
		t.Helper()
		w.now = w.now.Add(after)
		if err := w.led.AddSampleFailure(context.Background(), ledger.SampleFailure{At: w.now, Call: "GET /bill", Class: "http_5xx"}); err != nil {
			t.Fatal(err)
		}
	}
	w.expect(budget.ReasonNoSample)
	fail(time.Second)
	w.expect(budget.ReasonFailed)
	w.sample(time.Minute, 1)
	w.expect("")
	fail(time.Minute)
	w.expect("") // the bill is still young enough
	fail(time.Minute)
	fail(2 * time.Minute)
	if r := w.expect(budget.ReasonFailed); !strings.Contains(r.Detail, "GET /bill: http_5xx") {
		t.Errorf("Detail = %q", r.Detail)
	}
	w.sample(time.Minute, 1)
	w.expect("")
	w.now = w.now.Add(4 * time.Minute) // nobody even tries
	w.expect(budget.ReasonStale)
}

func TestBlindServesWithoutABill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, func(c *budget.Config) { c.Blind = true })
	w.expect("")
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	less := ledger.Nanos(-1)
	led := newWorld(t, noon, nil).led
	for _, cfg := range []budget.Config{
		{MaxSampleAge: time.Minute},
		{Ledger: led},
		{Ledger: led, MaxSampleAge: time.Minute, Terms: budget.Terms{Limits: perDay(0)}},
		{Ledger: led, MaxSampleAge: time.Minute, Terms: budget.Terms{Limits: []budget.Limit{{Per: "week", Amount: 1}}}},
		{Ledger: led, MaxSampleAge: time.Minute, Terms: budget.Terms{Headroom: &less}},
	} {
		if _, err := budget.New(cfg); err == nil {
			t.Errorf("New(%+v) = nil error", cfg)
		}
	}
}

func BenchmarkAllow(b *testing.B) {
	g, err := budget.New(budget.Config{Ledger: &sick{}, Blind: true, MaxSampleAge: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	g.Evaluate()
	b.ReportAllocs()
	for b.Loop() {
		if g.Allow() != nil {
			g.Evaluate()
		}
	}
}

// TestAHeadroomAboveTheBudget, by what is spent and by what was before: the bill at the
// budget is a closing; a headroom that leaves nothing of it is a mistake in the settings,
// until the gate was open under that budget; then, and where the rate rises, it is a
// closing as ever.
func TestAHeadroomAboveTheBudget(t *testing.T) {
	t.Parallel()
	headroom := func(n ledger.Nanos, opened bool) func(*budget.Config) {
		return func(c *budget.Config) { c.Headroom, c.Opened = nanos(n), opened }
	}
	w := newWorld(t, noon, headroom(100, false))
	w.expect(budget.ReasonNoSample)
	w.sample(time.Minute, 5000)
	r := w.expect(budget.ReasonHeadroom)
	if r.RetryAfter != 0 || errors.Is(r, budget.ErrExhausted) {
		t.Errorf("refusal %+v", r)
	}
	w.sample(time.Minute, 100)
	w.expect(budget.ReasonExhausted) // the bill alone is at the budget

	w = newWorld(t, noon, headroom(100, true)) // an earlier serve was open
	w.sample(time.Minute, 5000)
	w.expect(budget.ReasonExhausted)

	// The headroom follows from the rate, which rises once the gate is open.
	w = newWorld(t, noon, func(c *budget.Config) { c.Headroom = nil })
	w.sample(time.Minute, 5000)
	w.expect("")
	w.rate = nanos(100 * 60)
	w.sample(time.Minute, 1)
	w.expect(budget.ReasonExhausted)

	// The rate of an earlier serve's last sample says nothing of this start.
	w = newWorld(t, noon, headroom(100, false))
	w.sample(time.Minute, 5000)
	w.restart()
	w.expect(budget.ReasonNoSample)
	w.sample(time.Minute, 1)
	w.expect(budget.ReasonHeadroom)

	w = newWorld(t, noon, headroom(99, false)) // less than the budget
	w.sample(time.Minute, 5000)
	w.expect("")
	w.sample(time.Minute, 1)
	w.expect(budget.ReasonExhausted)
}

// What an earlier serve saw of another provider says nothing of this one: not its failure,
// and not its sample.
func TestAnotherProviderBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon, func(c *budget.Config) { c.Provider = "runpod" })
	if err := w.led.AddSampleFailure(t.Context(), ledger.SampleFailure{At: w.now, Call: "GET /core/virtual-machines", Class: "http_401"}); err != nil {
		t.Fatal(err)
	}
	w.expect(budget.ReasonFailed)
	w.now = w.now.Add(time.Second)
	w.restart()
	if r := w.expect(budget.ReasonNoSample); r.RetryAfter == 0 {
		t.Errorf("only a person can mend it: %+v", r)
	}
	w.sample(time.Second, 5) // of the provider "p"
	w.expect(budget.ReasonNoSample)
	if err := w.led.AddSampleFailure(t.Context(), ledger.SampleFailure{At: w.now.Add(time.Second), Call: "GET /v2/pods/{id}", Class: "http_401"}); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(time.Second)
	if r := w.expect(budget.ReasonFailed); !strings.Contains(r.Detail, "/v2/pods") || r.RetryAfter != 0 {
		t.Errorf("refusal %+v", r)
	}
}

// Each reason has one sentence, which is its own, and says it of the right thing: a full
// disk is no bill that cannot be seen.
func TestSentences(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, reason := range budget.Reasons() {
		s := budget.Sentence(reason)
		if s == "" || seen[s] || strings.HasSuffix(s, ".") || strings.ToLower(s[:1]) != s[:1] {
			t.Errorf("%s: %q", reason, s)
		}
		seen[s] = true
		r := &budget.Refusal{Err: budget.ErrUnobservable, Reason: reason}
		if got := r.Error(); got != s+" ("+reason+")" {
			t.Errorf("%s: %q", reason, got)
		}
		if ledger := strings.HasPrefix(reason, "ledger") || reason == budget.ReasonDiskFull; ledger == strings.Contains(s, "bill") && ledger {
			t.Errorf("%s: %q", reason, s)
		}
	}
	if len(seen) != 15 {
		t.Errorf("%d reasons", len(seen))
	}
}

func TestLimitsText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"40": "40/day", "900/month, 40.50": "40.5/day,900/month", "1/hour": "1/hour"} {
		limits, err := budget.ParseLimits(text)
		if got := budget.LimitsText(limits); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	if got := budget.LimitsText(nil); got != "" {
		t.Errorf("no limits: %q", got)
	}
}
