// Package budget answers one question: may a new request start? It decides
// from what the ledger recorded and asks no provider.
//
// A nil error of Allow is the only yes. An unreadable or unwritable ledger, a missing,
// stale or frozen bill and a clock that moved back are all refusals. The zero Gate
// refuses everything.
package budget

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	ReasonExhausted  = "exhausted"         // a budget is spent, but for its headroom
	ReasonHeadroom   = "headroom"          // the headroom leaves nothing of a budget that is not spent
	ReasonStart      = "not_evaluated"     // no verdict yet, or the last one expired
	ReasonNoSample   = "no_sample"         // the bill was never seen
	ReasonStale      = "stale"             // the newest sample is too old, and no try has failed since
	ReasonFailed     = "failed"            // the newest sample is too old or missing, and the last try failed
	ReasonFrozen     = "frozen"            // the bill of a running instance stands still
	ReasonNoTruth    = "no_truth"          // the provider has rates only
	ReasonUnknown    = "unknown_bill"      // something that runs has no bill: an account that was topped up, say
	ReasonNoRate     = "no_rate"           // the headroom follows from the rate, and none is known
	ReasonClockBack  = "clock_back"        // the clock stepped back
	ReasonClockJump  = "clock_jumped"      // the clock jumped ahead
	ReasonUnreadable = "ledger_unreadable" // the ledger cannot be read
	ReasonUnwritable = "ledger_unwritable" // the ledger cannot be written
	ReasonDiskFull   = "disk_full"         // and that is why
)

// sentences say what each reason means, to clients and operators alike: no path, no
// amount, nothing of a provider's.
var sentences = []struct{ reason, sentence string }{
	{ReasonExhausted, "the budget is spent, but for its headroom"},
	{ReasonHeadroom, "the headroom leaves nothing of the budget"},
	{ReasonStart, "what may still be spent is being worked out"},
	{ReasonNoSample, "the provider's bill has not been read yet"},
	{ReasonStale, "the newest sample of the provider's bill is too old"},
	{ReasonFailed, "the provider's bill cannot be read"},
	{ReasonFrozen, "the provider's bill stands still while the machine runs"},
	{ReasonNoTruth, "the provider tells rates, and no bill"},
	{ReasonUnknown, "something runs whose bill is not known"},
	{ReasonNoRate, "no rate is known, from which the headroom follows"},
	{ReasonClockBack, "this machine's clock was set back, and the provider's bill has not been read since"},
	{ReasonClockJump, "this machine's clock was set ahead, and the provider's bill has not been read since"},
	{ReasonUnreadable, "the ledger cannot be read"},
	{ReasonUnwritable, "the ledger cannot be written"},
	{ReasonDiskFull, "the ledger's disk is full"},
}

// Reasons are all of them.
func Reasons() (all []string) {
	for _, s := range sentences {
		all = append(all, s.reason)
	}
	return all
}

// Sentence says what a reason means, without a capital and a full stop; "" for a word
// that is none.
func Sentence(reason string) string {
	for _, s := range sentences {
		if s.reason == reason {
			return s.sentence
		}
	}
	return ""
}

// Refusal is the error of Allow. It wraps ErrExhausted or ErrUnobservable.
type Refusal struct {
	Err        error
	Reason     string        // one of the Reason constants
	Per        Period        // of the budget that is spent; "" for another reason
	RetryAfter time.Duration // when asking again may help; 0: not before a person has done something
	// Detail is for the operator's log: it may hold amounts and paths.
	Detail string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%s (%s)", cmp.Or(Sentence(r.Reason), r.Err.Error()), r.Reason)
}
func (r *Refusal) Unwrap() error { return r.Err }

// Ledger is what the gate reads. *ledger.Ledger has it.
type Ledger interface {
	Reader
	Latest() (time.Time, bool, error)
	Frozen() (resource string, since time.Time, frozen bool, err error)
	NewestFailure() (ledger.SampleFailure, bool, error)
	Override(t time.Time) (ledger.Override, bool, error)
	OlderThanLag(s ledger.Sample, ln ledger.Line) (bool, error)
	Err() error
	Probe() error
}

// Config says what to keep to.
type Config struct {
	Ledger       Ledger
	Terms                      // without a limit, the gate still closes in the dark
	MaxSampleAge time.Duration // a bill older than this is not seen; must be positive
	// Opened says that the gate was open before, in an earlier run, under the same
	// limits. Until it was, a headroom that leaves nothing of a limit is a mistake in
	// the settings (ReasonHeadroom) and no spent budget.
	Opened bool
	// Provider is whose bill is read. A sample of another one is not seen. "" takes any.
	Provider string
	// Blind serves without a bill at all: the operator's explicit choice. Only
	// the ledger's health closes the gate then.
	Blind bool
	Now   func() time.Time
	// Elapsed is a clock that is never set: it shows when Now's is. The time since
	// New, by the machine's monotonic clock, where nil.
	Elapsed func() time.Duration
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
	tripped atomic.Pointer[Refusal] // what Trip said and OnChange has not heard

	refresh chan struct{} // asks Run to evaluate soon

	mu         sync.Mutex // guards what follows: one evaluation at a time
	toldReason string     // the reason that OnChange heard last; "open", or "" for none yet
	clock      clockCheck
	cache      stateCache
	opened     bool // it was open under these limits, in this run or before

	// Of earlier runs: the newest sample and the newest failure when it was made, 0 for
	// none.
	before, failedBefore int64
}

// verdict is one answer and how long it stands.
type verdict struct {
	refusal *Refusal // nil: yes
	until   time.Time
}

// New checks cfg, and the clock by what the ledger holds. The gate is closed until the
// first Evaluate.
func New(cfg Config) (*Gate, error) {
	if cfg.Ledger == nil {
		return nil, errors.New("budget: no ledger")
	}
	if cfg.MaxSampleAge <= 0 {
		return nil, fmt.Errorf("budget: max sample age %s: must be positive", cfg.MaxSampleAge)
	}
	if err := checkLimits(cfg.Limits); err != nil {
		return nil, fmt.Errorf("budget: %w", err)
	}
	if cfg.Headroom != nil && *cfg.Headroom < 0 {
		return nil, fmt.Errorf("budget: headroom %s: must not be negative", *cfg.Headroom)
	}
	if cfg.Location == nil {
		cfg.Location = time.UTC
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Elapsed == nil {
		begun := time.Now()
		cfg.Elapsed = func() time.Duration { return time.Since(begun) }
	}
	g := &Gate{cfg: cfg, refresh: make(chan struct{}, 1), cache: stateCache{led: cfg.Ledger, terms: cfg.Terms}, opened: cfg.Opened}
	if !cfg.Blind {
		latest, _, err := cfg.Ledger.Latest()
		if err != nil {
			return nil, fmt.Errorf("budget: %w", err)
		}
		// It was set back before we began. Here no slack is given: the price of a doubt
		// is to wait for the next sample.
		g.clock.back = latest.After(cfg.Now())
		newest, _, err := cfg.Ledger.Newest()
		if err != nil {
			return nil, fmt.Errorf("budget: %w", err)
		}
		failed, _, err := cfg.Ledger.NewestFailure()
		if err != nil {
			return nil, fmt.Errorf("budget: %w", err)
		}
		g.before, g.failedBefore = newest.ID, failed.ID
	}
	return g, nil
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
		g.Evaluate()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-g.refresh:
		}
	}
}

// Refresh asks Run to evaluate soon: a sample was stored. It does not wait; see
// Evaluate.
func (g *Gate) Refresh() {
	select {
	case g.refresh <- struct{}{}:
	default: // it is asked to already
	}
}

// Trip closes the gate at once: the ledger could not be written. It waits for
// nothing, since whoever found out has a client to tell.
func (g *Gate) Trip(cause error) {
	r := dark(unwritable(cause), "%v", cause)
	g.tripped.Store(r)
	g.verdict.Store(&verdict{refusal: r, until: g.cfg.Now().Add(lifetime)})
	g.Refresh()
}

// Evaluate renews the verdict now.
func (g *Gate) Evaluate() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.tripped.Swap(nil); r != nil {
		g.tellChange(r) // it may be over already, and it was
	}
	now := g.cfg.Now()
	g.clock.observe(now, g.cfg.Elapsed())
	refusal := g.decide(now)
	g.opened = g.opened || refusal == nil
	g.verdict.Store(&verdict{refusal: refusal, until: now.Add(lifetime)})
	g.tellChange(refusal)
}

func (g *Gate) tellChange(r *Refusal) {
	word := "open"
	if r != nil {
		word = r.Reason
	}
	if word != g.toldReason && g.cfg.OnChange != nil {
		g.cfg.OnChange(r)
	}
	g.toldReason = word
}

// State is what the last evaluation knew of the spending, false where it did not get
// so far.
func (g *Gate) State() (State, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cache.state, g.cache.sample != 0
}

func dark(reason, format string, args ...any) *Refusal {
	return &Refusal{Err: ErrUnobservable, Reason: reason, RetryAfter: time.Minute, Detail: fmt.Sprintf(format, args...)}
}

// needsPerson is for what no time mends.
func (r *Refusal) needsPerson() *Refusal {
	r.RetryAfter = 0
	return r
}

func unwritable(err error) (reason string) {
	if errors.Is(err, ledger.ErrFull) {
		return ReasonDiskFull
	}
	return ReasonUnwritable
}

// decide is the rule. Every path that does not end in the last line refuses.
func (g *Gate) decide(now time.Time) *Refusal {
	led := g.cfg.Ledger
	if err := led.Err(); err != nil {
		// Only a write that succeeds shows that the ledger is well again.
		if err := led.Probe(); err != nil {
			return dark(unwritable(err), "%v", err)
		}
	}
	if g.cfg.Blind {
		return nil
	}
	s, seen, err := led.Newest()
	if err != nil {
		return dark(ReasonUnreadable, "%v", err)
	}
	if seen && g.cfg.Provider != "" && s.Provider != g.cfg.Provider {
		seen, s = false, ledger.Sample{}
	}
	old := !seen || now.Sub(s.At) > g.cfg.MaxSampleAge
	if old {
		f, failed, err := led.NewestFailure()
		if err != nil {
			return dark(ReasonUnreadable, "%v", err)
		}
		// What failed in an earlier run, of another provider even, says nothing of this one.
		if failed && f.ID > g.failedBefore && (!seen || f.At.After(s.At)) && !f.At.After(now.Add(clockSlack)) {
			refusal := dark(ReasonFailed, "no healthy billing sample since %s: %s: %s", since(s, seen), f.Call, f.Class)
			if f.KeyRefused() {
				return refusal.needsPerson()
			}
			return refusal
		}
	}
	back, jumped := g.clock.doubts(s.ID)
	switch {
	case !seen:
		return dark(ReasonNoSample, "no billing sample yet")
	case back || s.At.After(now.Add(clockSlack)):
		return dark(ReasonClockBack, "the newest sample is from %s, the clock says %s", s.At.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case jumped:
		return dark(ReasonClockJump, "the clock jumped ahead after the sample of %s, and says %s", s.At.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case old:
		return dark(ReasonStale, "the newest billing sample is %s old", now.Sub(s.At).Round(time.Second))
	case s.Truth == ledger.TruthNone:
		return dark(ReasonNoTruth, "what %s says holds no bill", s.Provider).needsPerson()
	}
	if refusal, err := unknownBill(led, s); refusal != nil || err != nil {
		if err != nil {
			return dark(ReasonUnreadable, "%v", err)
		}
		return refusal
	}
	resource, still, frozen, err := led.Frozen()
	if err != nil {
		return dark(ReasonUnreadable, "%v", err)
	}
	if frozen {
		return dark(ReasonFrozen, "the bill of %s stands still, at least since %s", resource, still.Format(time.RFC3339))
	}
	state, err := g.cache.read(s, now)
	if err != nil {
		return dark(ReasonUnreadable, "%v", err)
	}
	if len(state.Windows) > 0 && state.Headroom == nil {
		return dark(ReasonNoRate, "no rate was sampled, so that the headroom of the budget cannot be told: give --budget-headroom").needsPerson()
	}
	spent, err := exhausted(state, now)
	if err == nil && spent != nil {
		var lifted bool
		if lifted, err = g.lifted(state, now); lifted {
			spent = nil
		}
	}
	if err != nil {
		return dark(ReasonUnreadable, "%v", err)
	}
	if spent != nil && !g.opened {
		switch refusal := onlyHeadroom(state); {
		case refusal == nil:
		case s.ID == g.before:
			return dark(ReasonNoSample, "no billing sample since the start")
		default:
			return refusal
		}
	}
	return spent
}

// onlyHeadroom is the refusal of a state in which no limit is reached by the bill alone,
// and the headroom is as large as one of them; nil where it is another state. What
// follows a spent budget, which may be the end of the machine, is not to follow from
// that.
func onlyHeadroom(state State) *Refusal {
	var refusal *Refusal
	for _, w := range state.Windows {
		switch {
		case w.Gross >= w.Amount:
			return nil
		case refusal == nil && *state.Headroom >= w.Amount:
			refusal = dark(ReasonHeadroom, "the headroom of %s %s leaves nothing of the budget of %s a %s, of which %s is spent",
				*state.Headroom, state.Currency, w.Amount, w.Per, w.Gross).needsPerson()
		}
	}
	return refusal
}

func since(s ledger.Sample, seen bool) string {
	if !seen {
		return "the start"
	}
	return s.At.Format(time.RFC3339)
}

func hasBill(ln ledger.Line) bool { return ln.Bill != nil }

// unknownBill is the refusal of something that runs without a bill, or of a sample without
// any. A bill comes after its resource, by the provider's lag: until then it is waited for.
func unknownBill(led Ledger, s ledger.Sample) (*Refusal, error) {
	any := slices.ContainsFunc(s.Lines, hasBill)
	var refusal *Refusal
	for _, ln := range s.Lines {
		if hasBill(ln) || any && !ln.Running {
			continue
		}
		old, err := led.OlderThanLag(s, ln)
		if err != nil {
			return nil, err
		}
		if refusal == nil {
			refusal = dark(ReasonUnknown, "the bill of %s (%s) is not known", ln.Resource, ln.Status)
		}
		if old {
			return refusal.needsPerson(), nil
		}
	}
	if refusal == nil && !any {
		refusal = dark(ReasonUnknown, "the newest sample has no bill at all")
	}
	return refusal, nil
}

// exhausted is the refusal of the spent budget that is spent for longest, nil where
// there is room in each.
func exhausted(state State, now time.Time) (spent *Refusal, err error) {
	for _, w := range state.Windows {
		room, err := state.Room(w)
		if err != nil {
			return nil, err
		}
		if retry := w.To.Sub(now); room <= 0 && (spent == nil || retry > spent.RetryAfter) {
			spent = &Refusal{Err: ErrExhausted, Reason: ReasonExhausted, Per: w.Per, RetryAfter: retry, Detail: state.text(w)}
		}
	}
	return spent, nil
}

// lifted reports whether an override is in force and not spent itself. It lifts a
// budget: nothing lifts the gate in the dark.
func (g *Gate) lifted(state State, now time.Time) (bool, error) {
	o, ok, err := g.cfg.Ledger.Override(now)
	if err != nil || !ok || o.Amount == nil {
		return ok, err
	}
	w := Window{Limit: Limit{Amount: *o.Amount}, From: o.At}
	if err := w.count(g.cfg.Ledger, now); err != nil {
		return false, err
	}
	room, err := state.Room(w)
	return room > 0, err
}
