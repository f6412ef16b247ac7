package billing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/hint"
	"spotinference/ledger"
)

// How often a provider's bill moves, and how late it shows what was used, is
// documented nowhere. A probe measures both on the account itself, with the
// machine running, and holds the bill against the rate once, to see that both are
// in the same unit.

const (
	// leastChanges is how often the bill must be seen to move: two whole steps.
	leastChanges = 3
	// lagFactor makes a budget of the worst gap that was seen.
	lagFactor = 3
	// unitSlack is how many percent the bill may be off what the rate promises.
	unitSlack = 5
)

// Take reads one sample and checks that it is one: what the sampler would store.
// Any error is a *Failure.
func Take(ctx context.Context, p api.Provider, now time.Time) (ledger.Sample, error) {
	timed, cancel := context.WithTimeout(ctx, api.SampleTimeout)
	defer cancel()
	s, err := p.Sample(timed, now)
	if err == nil {
		err = complete(s)
	}
	if err != nil {
		return ledger.Sample{}, failureOf(err, timed)
	}
	return s, nil
}

// ProbeConfig says what to measure and for how long.
type ProbeConfig struct {
	Provider api.Provider
	Every    time.Duration    // between polls, in whole seconds
	For      time.Duration    // how long; at least ten polls
	Now      func() time.Time // wall clock; time.Now if nil
	OnPoll   func(Poll)       // called with each poll; may be nil
}

// Poll is one poll of the bill.
type Poll struct {
	At    time.Time
	Bill  ledger.Nanos // of what is watched, together
	Moved ledger.Nanos // since the poll before; 0 in the first
	Err   error        // why there is no bill; nil where there is one
}

// Unit is what came of holding the bill against the rate.
type Unit string

const (
	UnitConfirmed    Unit = "confirmed"
	UnitContradicted Unit = "contradicted" // cents for dollars, hours for seconds, or another price than the one shown
	UnitUnknown      Unit = "unknown"      // no rate was known to hold it against
)

// Reread is what came of reading a bill of the past twice.
type Reread string

const (
	RereadSame     Reread = "same"
	RereadRestated Reread = "restated" // a closed window changed afterwards
	RereadNone     Reread = "none"     // the provider tells only what is now, or did not answer
)

// Measured is what a probe found.
type Measured struct {
	Provider string
	Account  string
	Currency string
	Truth    ledger.Truth
	Watched  []string // the resources whose bill was watched
	From, To time.Time
	Polls    int
	Failed   int // of Polls
	Changes  int
	Step     time.Duration // the usual time from one change to the next
	Worst    time.Duration // the longest the bill stood still
	Lag      time.Duration // three times that: for longer it may not stand still
	Billed   ledger.Nanos  // between the first change and the last
	Ratio    string        // Billed over what the rate promised for that time; "" where Unit is unknown
	Unit     Unit
	Reread   Reread
	Windows  Windows
	// Skew is the least difference of the clocks that would have ended the probe;
	// nil where the adapter cannot compare them.
	Skew *time.Duration
}

// Probe polls the bill until For is over and says what it saw. An error means
// that nothing was measured: ctx ended, the machine does not run, the bill is not
// what can be measured, or its unit is not that of the rate. It writes nothing.
func Probe(ctx context.Context, cfg ProbeConfig) (Measured, error) {
	if err := cfg.Check(); err != nil {
		return Measured{}, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.OnPoll == nil {
		cfg.OnPoll = func(Poll) {}
	}
	p := &probe{cfg: cfg}
	if err := p.measure(ctx); err != nil {
		return Measured{}, fmt.Errorf("probe: %w", err)
	}
	m, err := p.verdict()
	if err != nil {
		return m, fmt.Errorf("probe: %w", err)
	}
	m.Reread = p.reread(ctx, m.Lag)
	m.Windows = p.windows(ctx)
	if ctx.Err() != nil {
		return Measured{}, fmt.Errorf("probe: %w", ctx.Err())
	}
	return m, nil
}

// probe is a measurement under way.
type probe struct {
	cfg      ProbeConfig
	first    ledger.Sample
	watched  []string // of first, sorted
	observed []observation
	polls    int
	failed   int
	from     time.Time
	to       time.Time
}

// observation is a poll that told the bill.
type observation struct {
	at   time.Time
	bill ledger.Nanos
	rate *ledger.Nanos // nil where it is not known
}

// Check refuses what cannot be probed so.
func (c ProbeConfig) Check() error {
	if c.Provider == nil {
		return errors.New("probe: a provider is required")
	}
	if c.Every < time.Second || c.Every%time.Second != 0 {
		return hint.Errorf("give whole seconds", "probe every %s", c.Every)
	}
	if least := c.Provider.MinInterval(); c.Every < least {
		return hint.Errorf(fmt.Sprintf("give %s or more", least), "probe every %s: too often for %s", c.Every, c.Provider.Name())
	}
	if c.For < 10*c.Every {
		return hint.Errorf(fmt.Sprintf("give %s or more", 10*c.Every), "probe for %s: too short to see anything at one poll every %s", c.For, c.Every)
	}
	return nil
}

// measure polls until the time is over.
func (p *probe) measure(ctx context.Context) error {
	p.from = p.cfg.Now()
	end := p.from.Add(p.cfg.For)
	for {
		now := p.cfg.Now()
		pause, err := p.poll(ctx, now)
		if err != nil {
			return err
		}
		p.to = now
		// On multiples of the interval, so that the time that a poll takes does not
		// add up; and later, where the provider asked for a longer wait.
		due := now.Truncate(p.cfg.Every).Add(p.cfg.Every)
		if until := now.Add(pause); until.After(due) {
			due = until.Truncate(p.cfg.Every).Add(p.cfg.Every)
		}
		if due.After(end) {
			return nil
		}
		t := time.NewTimer(due.Sub(p.cfg.Now()))
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// poll takes one sample. What may be over by the next poll is counted; what will not
// be, or makes a measurement of no worth, ends the probe.
func (p *probe) poll(ctx context.Context, now time.Time) (pause time.Duration, err error) {
	p.polls++
	s, err := Take(ctx, p.cfg.Provider, now)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if f := new(api.Failure); errors.As(err, &f) {
		if !passing(f.Class) {
			return 0, f
		}
		p.failed++
		p.cfg.OnPoll(Poll{At: now, Err: f})
		return f.RetryAfter, nil
	}
	s.Lines = unmoved(s.Lines)
	if len(p.observed) == 0 {
		if err := p.choose(s); err != nil {
			return 0, err
		}
	}
	one, err := p.observe(s)
	if err != nil {
		return 0, err
	}
	poll := Poll{At: one.at, Bill: one.bill}
	if n := len(p.observed); n > 0 {
		if poll.Moved, err = one.bill.Sub(p.observed[n-1].bill); err != nil {
			return 0, err
		}
		if poll.Moved < 0 {
			return 0, hint.Errorf("probe again: a refund, a credit or a restatement came in between",
				"the bill fell by %s %s at %s", -poll.Moved, s.Currency, one.at.UTC().Format(time.RFC3339))
		}
	}
	p.observed = append(p.observed, one)
	p.cfg.OnPoll(poll)
	return 0, nil
}

// unmoved undoes the moving of bills to another epoch: a probe stores no sample, so
// that each goes on where it was, and what the new line says of now is true of it.
func unmoved(lines []ledger.Line) []ledger.Line {
	var old []ledger.Line
	for _, l := range lines {
		i := slices.IndexFunc(old, func(o ledger.Line) bool { return o.Resource == l.Resource && o.Status == ledger.StatusMoved })
		if i < 0 {
			old = append(old, l)
			continue
		}
		old[i].Status, old[i].Running, old[i].Rate = l.Status, l.Running, l.Rate
	}
	return old
}

// passing tells trouble that may be gone at the next poll.
func passing(c api.Class) bool {
	return c.Retriable() || c == api.Incomplete || c == api.Malformed
}

// choose chooses what to watch: what is sure to be billed by the minute. A small
// volume's bill may stand still for half an hour and be right.
func (p *probe) choose(s ledger.Sample) error {
	kind := ledger.Instance
	switch s.Truth {
	case ledger.TruthResource:
	case ledger.TruthAccount:
		kind = ledger.AccountKind
	default:
		return hint.Errorf("serve with --provider none", "%s shows rates and no bill: there is nothing to measure", s.Provider)
	}
	for _, l := range s.Lines {
		if l.Kind == kind && l.Bill != nil && (l.Running || kind == ledger.AccountKind) {
			p.watched = append(p.watched, l.Resource)
		}
	}
	if !runs(s) || len(p.watched) == 0 {
		return hint.Errorf("start the machine first: a bill that stands still tells nothing", "no machine of this bill runs")
	}
	slices.Sort(p.watched)
	p.first = s
	return nil
}

// runs tells whether a machine runs, by its own line or by its account's.
func runs(s ledger.Sample) bool {
	return slices.ContainsFunc(s.Lines, func(l ledger.Line) bool {
		return l.Running && (l.Kind == ledger.Instance || l.Kind == ledger.AccountKind)
	})
}

// observe adds up what is watched. It must be the same throughout, or two polls are
// no difference.
func (p *probe) observe(s ledger.Sample) (observation, error) {
	again := func(format string, args ...any) error {
		return hint.Errorf("probe again", format, args...)
	}
	if s.Account != p.first.Account || s.Currency != p.first.Currency || s.Truth != p.first.Truth {
		return observation{}, again("the bill became another one's: account %q, then %q", p.first.Account, s.Account)
	}
	one, found := observation{at: s.At}, 0
	for _, l := range s.Lines {
		if !slices.Contains(p.watched, l.Resource) {
			continue
		}
		was := p.epoch(l.Resource)
		switch {
		case l.Bill == nil:
			return observation{}, again("the bill of %s is not known", l.Resource)
		case l.Epoch != was:
			return observation{}, again("the bill of %s began anew: epoch %s, then %s", l.Resource, was, l.Epoch)
		case l.Kind == ledger.Instance && !l.Running:
			return observation{}, again("%s stopped running: it is %s", l.Resource, l.Status)
		}
		found++
		var err error
		if one.bill, err = one.bill.Add(*l.Bill); err != nil {
			return observation{}, err
		}
	}
	if found != len(p.watched) {
		return observation{}, again("%d of %d watched resources are in the bill", found, len(p.watched))
	}
	if !runs(s) {
		return observation{}, again("no machine of this bill runs any more")
	}
	var err error
	one.rate, err = p.rate(s)
	return one, err
}

func (p *probe) epoch(resource string) string {
	for _, l := range p.first.Lines {
		if l.Resource == resource {
			return l.Epoch
		}
	}
	return ""
}

// rate is what the watched bill should grow by in an hour: the rates of what is
// watched or, where that is an account's total without one, of all that the
// sample knows. Nil where one of them is not known.
func (p *probe) rate(s ledger.Sample) (*ledger.Nanos, error) {
	var sum, all ledger.Nanos
	known, allKnown, others := true, true, 0
	for _, l := range s.Lines {
		into, ok := &all, &allKnown
		if slices.Contains(p.watched, l.Resource) {
			into, ok = &sum, &known
		} else {
			others++
		}
		if l.Rate == nil {
			*ok = false
			continue
		}
		var err error
		if *into, err = into.Add(*l.Rate); err != nil {
			return nil, err
		}
	}
	switch {
	case known:
		return &sum, nil
	case s.Truth == ledger.TruthAccount && others > 0 && allKnown:
		return &all, nil
	}
	return nil, nil
}
