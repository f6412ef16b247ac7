// Package budget answers one question: may a new request start? It decides
// from what the ledger recorded and asks no provider.
//
//	gate, err := budget.New(budget.Config{Ledger: led, PerDay: &limit, Location: time.UTC})
//	go gate.Run(ctx)
//	if err := gate.Allow(); err != nil { ... } // a nil error is the only yes
//
// An unreadable or unwritable ledger, a missing, stale or frozen bill and a
// clock that moved back are all refusals. The zero Gate refuses everything.
package budget

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"spotinference/ledger"
)

var (
	// ErrExhausted is the refusal of a spent budget.
	ErrExhausted = errors.New("the budget is spent")
	// ErrUnobservable is the refusal to spend what cannot be seen.
	ErrUnobservable = errors.New("the bill cannot be seen")
)

// Reasons for which the gate is closed: the words of bodies, logs, metrics and
// events.
const (
	ReasonExhausted = "exhausted"     // today's spend has reached the budget
	ReasonStart     = "not_evaluated" // no verdict yet, or the last one expired
	ReasonNoSample  = "no_sample"     // the bill was never seen
	ReasonStale     = "stale"         // the newest sample is too old
	ReasonFrozen    = "frozen"        // the bill of a running instance stands still
	ReasonClock     = "clock"         // the clock moved back
	ReasonLedger    = "ledger"        // the ledger cannot be read or written
	ReasonNoTruth   = "no_truth"      // the provider has rates only
)

// Refusal is the error of Allow. It wraps ErrExhausted or ErrUnobservable.
type Refusal struct {
	Err        error
	Reason     string        // one of the Reason constants
	RetryAfter time.Duration // when asking again may help
	// Detail is for the operator's log: it may hold amounts and paths.
	Detail string
}

func (r *Refusal) Error() string { return fmt.Sprintf("%v (%s)", r.Err, r.Reason) }
func (r *Refusal) Unwrap() error { return r.Err }

// Ledger is what the gate reads. *ledger.Ledger has it.
type Ledger interface {
	Newest() (ledger.Sample, bool, error)
	Frozen() (resource string, since time.Time, frozen bool, err error)
	Spent(from, to time.Time) (ledger.Spend, error)
	SampleBefore(t time.Time) (time.Time, bool, error)
	SampleAfter(t time.Time) (time.Time, bool, error)
	Err() error
	Probe() error
}

// Config says what to keep to.
type Config struct {
	Ledger Ledger
	// PerDay is the most to spend between two midnights of Location; nil for
	// no cap, and then the gate still closes in the dark.
	PerDay       *ledger.Nanos
	Location     *time.Location
	MaxSampleAge time.Duration // a bill older than this is not seen; must be positive
	// Blind serves without a bill at all: the operator's explicit choice. Only
	// the ledger's health closes the gate then.
	Blind bool
	Now   func() time.Time
	Log   *slog.Logger
	// OnChange is told of each change between open and closed, and of each new
	// reason; nil refusal means open. Called from the goroutine that evaluates.
	OnChange func(refusal *Refusal)
}

// tick is how often a verdict is renewed when nothing else happens. A verdict
// lives for two, so that a gate whose Run has died closes by itself.
const (
	tick     = time.Second
	lifetime = 2*tick + tick/2
)

// Gate holds the verdict. Safe for any number of callers.
type Gate struct {
	cfg     Config
	verdict atomic.Pointer[verdict]

	nudged chan struct{} // asks Run to evaluate now

	mu    sync.Mutex // guards what follows: one evaluation at a time
	told  string     // the reason that OnChange heard last; "open", or "" for none yet
	wall  time.Time  // wall clock of the last evaluation, without its monotonic reading
	back  bool       // the clock stepped back, and no sample was seen under the new time yet
	doubt int64      // while back: the newest sample of the old time; 0 where it is not known yet
	spent spentToday
}

// verdict is one answer and how long it stands.
type verdict struct {
	refusal *Refusal // nil: yes
	until   time.Time
}

// spentToday remembers the subtraction until the next sample.
type spentToday struct {
	sample int64
	day    time.Time
	gross  ledger.Nanos
}

// New checks cfg. The gate is closed until the first Refresh.
func New(cfg Config) (*Gate, error) {
	if cfg.Ledger == nil {
		return nil, errors.New("budget: no ledger")
	}
	if cfg.MaxSampleAge <= 0 {
		return nil, fmt.Errorf("budget: max sample age %s: must be positive", cfg.MaxSampleAge)
	}
	if cfg.PerDay != nil && *cfg.PerDay <= 0 {
		return nil, fmt.Errorf("budget: %s a day: must be positive", *cfg.PerDay)
	}
	if cfg.Location == nil {
		cfg.Location = time.UTC
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Gate{cfg: cfg, nudged: make(chan struct{}, 1)}, nil
}

// Allow returns nil when a new request may start, a *Refusal otherwise. It is
// one atomic load on the hot path.
func (g *Gate) Allow() error {
	v := g.verdict.Load()
	if v == nil || !g.cfg.Now().Before(v.until) {
		return &Refusal{Err: ErrUnobservable, Reason: ReasonStart, RetryAfter: time.Second}
	}
	if v.refusal != nil {
		return v.refusal
	}
	return nil
}

// Run renews the verdict until ctx ends.
func (g *Gate) Run(ctx context.Context) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		g.Refresh()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-g.nudged:
		}
	}
}

// Nudge has Run evaluate soon: a sample was stored.
func (g *Gate) Nudge() {
	select {
	case g.nudged <- struct{}{}:
	default: // it is asked to already
	}
}

// Trip closes the gate at once: the ledger could not be written. It waits for
// nothing, since whoever found out has a client to tell.
func (g *Gate) Trip(cause error) {
	g.verdict.Store(&verdict{
		refusal: &Refusal{Err: ErrUnobservable, Reason: ReasonLedger, RetryAfter: time.Minute, Detail: cause.Error()},
		until:   g.cfg.Now().Add(lifetime),
	})
	g.Nudge()
}

// Refresh evaluates now.
func (g *Gate) Refresh() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.cfg.Now()
	wall := now.Round(0) // the wall alone: the monotonic reading would hide a step
	if g.wall.Sub(wall) > clockSlack {
		g.back, g.doubt = true, 0
	}
	g.wall = wall
	refusal := g.evaluate(now)
	g.verdict.Store(&verdict{refusal: refusal, until: now.Add(lifetime)})
	word := "open"
	if refusal != nil {
		word = refusal.Reason
	}
	if word != g.told && g.cfg.OnChange != nil {
		g.cfg.OnChange(refusal)
	}
	g.told = word
}

// evaluate is the rule. Every path that does not end in the last line refuses.
func (g *Gate) evaluate(now time.Time) *Refusal {
	dark := func(reason, format string, args ...any) *Refusal {
		return &Refusal{Err: ErrUnobservable, Reason: reason, RetryAfter: time.Minute, Detail: fmt.Sprintf(format, args...)}
	}
	led := g.cfg.Ledger
	if err := led.Err(); err != nil {
		// Only a write that succeeds shows that the ledger is well again.
		if err := led.Probe(); err != nil {
			return dark(ReasonLedger, "%v", err)
		}
	}
	if g.cfg.Blind {
		return nil
	}
	s, ok, err := led.Newest()
	if err != nil {
		return dark(ReasonLedger, "%v", err)
	}
	if g.back && g.doubt == 0 {
		g.doubt = s.ID
	}
	g.back = g.back && g.doubt == s.ID
	switch age := now.Sub(s.At); {
	case !ok:
		return dark(ReasonNoSample, "no billing sample yet")
	case s.Truth == ledger.TruthNone || !hasBill(s):
		return dark(ReasonNoTruth, "what %s says holds no bill", s.Provider)
	case age < -clockSlack || g.back:
		return dark(ReasonClock, "the newest sample is from %s, the clock says %s", s.At.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case age > g.cfg.MaxSampleAge:
		return dark(ReasonStale, "the newest billing sample is %s old", age.Round(time.Second))
	}
	resource, since, frozen, err := led.Frozen()
	if err != nil {
		return dark(ReasonLedger, "%v", err)
	}
	if frozen {
		return dark(ReasonFrozen, "the bill of %s stands still, at least since %s", resource, since.Format(time.RFC3339))
	}
	if g.cfg.PerDay == nil {
		return nil
	}
	midnight, next := day(now, g.cfg.Location)
	if g.spent.sample != s.ID || !g.spent.day.Equal(midnight) {
		gross, err := g.spentSince(midnight, now)
		if err != nil {
			return dark(ReasonLedger, "%v", err)
		}
		g.spent = spentToday{sample: s.ID, day: midnight, gross: gross}
	}
	if g.spent.gross >= *g.cfg.PerDay {
		return &Refusal{Err: ErrExhausted, Reason: ReasonExhausted, RetryAfter: next.Sub(now),
			Detail: fmt.Sprintf("%s %s spent today of %s", g.spent.gross, s.Currency, *g.cfg.PerDay)}
	}
	return nil
}

// hasBill reports whether any line of s knows its bill.
func hasBill(s ledger.Sample) bool {
	return slices.ContainsFunc(s.Lines, func(ln ledger.Line) bool { return ln.Bill != nil })
}

// clockSlack is how far the wall clock may step back, or a sample lie ahead of
// it, before the clock is not believed: what NTP corrects in passing.
const clockSlack = 5 * time.Second

// spentSince is the gross spend of the day that began at midnight.
func (g *Gate) spentSince(midnight, now time.Time) (ledger.Nanos, error) {
	from, ok, err := CountFrom(g.cfg.Ledger, midnight)
	if err != nil || !ok {
		return 0, err // no sample today yet: nothing is known to be spent
	}
	sp, err := g.cfg.Ledger.Spent(from, now.Add(clockSlack))
	return sp.Gross, err
}

// DayStart is the start of t's day in loc: where that day's budget begins.
func DayStart(t time.Time, loc *time.Location) time.Time {
	midnight, _ := day(t, loc)
	return midnight
}

// NextDay is the start of the day after t's in loc.
func NextDay(t time.Time, loc *time.Location) time.Time {
	_, next := day(t, loc)
	return next
}

// day returns the starts of now's day in loc and of the next. A day has 23 or 25
// hours when the zone's clocks change, and starts at one o'clock where they
// change at midnight.
func day(now time.Time, loc *time.Location) (midnight, next time.Time) {
	y, m, d := now.In(loc).Date()
	return startOfDay(y, m, d, loc), startOfDay(y, m, d+1, loc)
}

func startOfDay(y int, m time.Month, d int, loc *time.Location) time.Time {
	t := time.Date(y, m, d, 0, 0, 0, 0, loc)
	// A midnight that does not exist comes out as an hour of the day before.
	if noon := time.Date(y, m, d, 12, 0, 0, 0, loc); t.Day() != noon.Day() {
		t = t.Add(time.Hour)
	}
	return t
}
