package billing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/hint"
	"spotinference/ledger"
)

// Store is where samples go: the ledger. It may refuse a sample for what is in it,
// with ledger.ErrRefused.
type Store interface {
	AddSample(context.Context, ledger.Sample) (int64, error)
	AddSampleFailure(context.Context, ledger.SampleFailure) error
}

// SamplerConfig is what a Sampler needs.
type SamplerConfig struct {
	Provider api.Provider
	Store    Store

	// Every is the time between samples, in whole seconds; a minute if zero.
	Every time.Duration

	// Timeout bounds one sample with all its retries; if zero, two thirds of
	// Every, and 45 seconds at most. It may be no more than that: a poll must be
	// over before the next is due.
	Timeout time.Duration

	// DayStart is the start of the budget's day that t lies in: the bill is read as
	// of then, where the provider can tell. Newest is when the last sample of an
	// earlier run was taken. Both may be left out.
	DayStart func(t time.Time) time.Time
	Newest   time.Time

	// PeriodStarts are when the budget's periods began that t lies in, in order. Before
	// the ledger's first own sample the bill is asked for as of each. May be nil.
	PeriodStarts func(t time.Time) []time.Time

	Now func() time.Time // wall clock; time.Now if nil
	Log *slog.Logger     // nowhere if nil

	// Balance reads the account's balance after each sample. May be nil.
	Balance *BalanceMonitor

	// OnSample is called after each sample that was stored, by the goroutine that
	// took it. May be nil.
	OnSample func()
}

// Sampler takes the samples. One poll runs at a time, whoever asks for it.
type Sampler struct {
	cfg  SamplerConfig
	turn chan struct{} // holds one token; who has it may poll

	// Owned by the holder of the turn.
	stored time.Time     // At of the newest sample stored
	sample ledger.Sample // what the last good poll stored
	strict bool          // no poll was good yet: see wrongLedger

	// Owned by Run: what its log last said.
	lastFailure string // why polls fail
	failures    int    // polls in a row that did

	// Both are by the monotonic clock: a wait is a length of time, and the wall clock
	// may be set.
	mu          sync.Mutex // guards what is below
	nextAllowed time.Time  // by the rate limit
	retryAt     time.Time  // by the provider's Retry-After
}

// storeTimeout bounds a write that must not be lost because the poll's time is up.
const storeTimeout = 10 * time.Second

// NewSampler checks cfg and starts nothing.
func NewSampler(cfg SamplerConfig) (*Sampler, error) {
	if cfg.Provider == nil || cfg.Store == nil {
		return nil, errors.New("sampler: provider and store are required")
	}
	if cfg.Every == 0 {
		cfg.Every = time.Minute
	}
	if cfg.Every < time.Second || cfg.Every%time.Second != 0 {
		return nil, hint.Errorf("give whole seconds", "sample interval %s", cfg.Every)
	}
	if least := cfg.Provider.MinInterval(); cfg.Every < least {
		return nil, hint.Errorf(fmt.Sprintf("give %s or more", least), "sample interval %s: too often for %s", cfg.Every, cfg.Provider.Name())
	}
	most := min(cfg.Every*2/3, api.SampleTimeout)
	if cfg.Timeout == 0 {
		cfg.Timeout = most
	}
	if cfg.Timeout < 0 || cfg.Timeout > most {
		return nil, hint.Errorf(fmt.Sprintf("give %s or less", most), "sample timeout %s: a poll could run into the next", cfg.Timeout)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.OnSample == nil {
		cfg.OnSample = func() {}
	}
	s := &Sampler{cfg: cfg, turn: make(chan struct{}, 1), stored: cfg.Newest}
	s.turn <- struct{}{}
	return s, nil
}

// Run takes a sample at once and then on each multiple of Every of the wall clock,
// until ctx ends. A poll that fails is a row in the ledger and a line in the log,
// and no reason to stop; but a ledger of another account or currency is one.
func (s *Sampler) Run(ctx context.Context) error {
	// An earlier run may have ended within this second, and a sample is dated by the
	// second: the next one is a moment away.
	if next := s.stored.Add(time.Second); s.stored.Equal(s.cfg.Now().UTC().Truncate(time.Second)) && !s.sleep(ctx, next) {
		return nil
	}
	for {
		err := s.withTurn(ctx, s.pollStrictly)
		if wrong := (*wrongLedger)(nil); errors.As(err, &wrong) {
			return err
		}
		if err == nil || !errors.Is(err, ctx.Err()) {
			s.logPoll(err)
		}
		due := s.schedule()
		if err == nil && s.cfg.Balance != nil {
			_ = s.withTurn(ctx, func(ctx context.Context) error { // fails only where ctx has ended
				s.cfg.Balance.afterSample(ctx, s.sample, due)
				return nil
			})
		}
		if !s.sleep(ctx, due) {
			return nil
		}
	}
}

// Last takes one more sample: what the engine did in its last seconds is billed
// too. It is for the way out, after Run, and reports what went wrong instead of
// logging it.
func (s *Sampler) Last(ctx context.Context) error {
	return s.withTurn(ctx, func(ctx context.Context) error {
		now := s.cfg.Now()
		if s.stored.Equal(now.UTC().Truncate(time.Second)) {
			return nil // nothing can have been added to it
		}
		wait, asked := s.mustWait()
		if asked {
			return fmt.Errorf("last sample: %s asked for no call before %s", s.cfg.Provider.Name(), now.Add(wait).UTC().Format(time.RFC3339))
		}
		if !s.sleep(ctx, now.Add(wait)) {
			return fmt.Errorf("last sample: %w", ctx.Err())
		}
		if err := s.poll(ctx); err != nil {
			return fmt.Errorf("last sample: %w", err)
		}
		return nil
	})
}

// boundary reads the bill as of the start of the day, where that has passed since
// the last sample: of a day that began between two samples, the spend before and
// after midnight is known all the same. It comes before the poll, since the ledger
// only goes forward. Where it fails, the day starts at its first sample.
func (s *Sampler) boundary(ctx context.Context, now time.Time) {
	b, ok := s.cfg.Provider.(api.Boundary)
	if !ok || s.cfg.DayStart == nil || s.stored.IsZero() {
		return
	}
	start := s.cfg.DayStart(now)
	if !s.stored.Before(start) || !start.Before(now.Truncate(time.Second)) {
		return
	}
	sample, err := b.SampleAt(ctx, start, now)
	if err == nil {
		err = complete(sample)
	}
	if err == nil {
		err = s.store(ctx, sample)
	}
	if err != nil {
		s.cfg.Log.Debug("no bill as of the start of the day", "day", start, "err", err)
		return
	}
	s.stored = sample.At
}

// before reads what was billed before the ledger's first own sample: the bill as of the
// start of each of the budget's periods. Where the provider cannot tell it, the next hour
// and the next midnight (UTC) are tried: a part is more than nothing. It takes no more
// than half of a sample's time.
func (s *Sampler) before(ctx context.Context, now time.Time) {
	b, ok := s.cfg.Provider.(api.Boundary)
	if !ok || s.cfg.PeriodStarts == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout/2)
	defer cancel()
	for _, start := range s.cfg.PeriodStarts(now) {
		hour := start.UTC().Add(time.Hour - 1).Truncate(time.Hour)
		for _, at := range slices.Compact([]time.Time{start.UTC(), hour, hour.Add(24*time.Hour - 1).Truncate(24 * time.Hour)}) {
			if !at.After(s.stored) {
				break // it was read already
			}
			if !at.Before(now.Truncate(time.Second)) {
				continue
			}
			sample, err := b.SampleAt(ctx, at, now)
			if err == nil {
				err = complete(sample)
			}
			if err == nil {
				sample.Past = true
				err = s.store(ctx, sample)
			}
			if err == nil {
				s.stored = sample.At
				break
			}
			s.cfg.Log.Debug("no bill as of the start of a period of the budget", "at", at, "err", err)
			if f := failureOf(err, ctx); f.Class != api.Incomplete && f.Class != api.Internal {
				return // it is no better with the others
			}
		}
	}
}

// withTurn runs f when its turn has come.
func (s *Sampler) withTurn(ctx context.Context, f func(context.Context) error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.turn:
	}
	defer func() { s.turn <- struct{}{} }()
	return f(ctx)
}

// poll takes one sample and stores it, or stores that there is none and returns the
// *Failure. Any other error means that the ledger does not know.
func (s *Sampler) poll(ctx context.Context) error {
	now := s.cfg.Now()
	s.mu.Lock()
	s.nextAllowed = time.Now().Add(s.cfg.Provider.MinInterval() - now.Sub(now.Truncate(time.Second)))
	s.mu.Unlock()
	timed, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	if s.cfg.Newest.IsZero() && s.sample.At.IsZero() {
		s.before(timed, now)
	} else {
		s.boundary(timed, now)
	}
	sample, err := s.cfg.Provider.Sample(timed, now)
	if err == nil {
		err = complete(sample)
	}
	if err == nil {
		err = s.store(ctx, sample)
		if err == nil {
			s.stored, s.sample = sample.At, sample
			return nil
		}
		if errors.Is(err, ledger.ErrOther) && s.strict {
			return &wrongLedger{err}
		}
		if !errors.Is(err, ledger.ErrRefused) {
			return err
		}
		err = &api.Failure{Class: api.Refused, Err: err} // the minute is dark all the same
	} else if ctx.Err() != nil {
		return ctx.Err() // we left, which is no failure of the provider's
	}
	f := failureOf(err, timed)
	if f.RetryAfter > 0 {
		s.mu.Lock()
		s.retryAt = time.Now().Add(f.RetryAfter)
		s.mu.Unlock()
	}
	if err := s.save(ctx, func(ctx context.Context) error {
		return s.cfg.Store.AddSampleFailure(ctx, ledger.SampleFailure{At: now, Call: f.Call, Class: string(f.Class)})
	}); err != nil {
		return errors.Join(f, fmt.Errorf("store failed sample: %w", err))
	}
	return f
}

// wrongLedger is what the first sample found: the ledger is another bill's. Then nothing
// is written, not even that it was dark. Later on it is the provider's reply that is
// wrong.
type wrongLedger struct{ error }

func (e *wrongLedger) Unwrap() error { return e.error }

func (s *Sampler) pollStrictly(ctx context.Context) error {
	s.strict = s.sample.At.IsZero()
	defer func() { s.strict = false }()
	return s.poll(ctx)
}

func (s *Sampler) store(ctx context.Context, sample ledger.Sample) error {
	if sample.Every = s.cfg.Every; sample.Past {
		sample.Every = 0
	}
	if err := s.save(ctx, func(ctx context.Context) error {
		_, err := s.cfg.Store.AddSample(ctx, sample)
		return err
	}); err != nil {
		return fmt.Errorf("store sample: %w", err)
	}
	if !sample.Past {
		s.cfg.OnSample()
	}
	return nil
}

// save writes even while we are being stopped: what was read is known.
func (s *Sampler) save(ctx context.Context, write func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	return write(ctx)
}

// logPoll logs how a poll went: the first failure, each change of its kind, and the
// recovery. Repetitions are in the ledger and at debug level.
func (s *Sampler) logPoll(err error) {
	log := s.cfg.Log.With("provider", s.cfg.Provider.Name())
	if err == nil {
		if s.failures > 0 {
			log.Info("billing sample is back", "failed", s.failures)
		}
		s.lastFailure, s.failures = "", 0
		return
	}
	args, why, loud := []any{"err", err}, "store", slog.LevelWarn
	if f := new(api.Failure); errors.As(err, &f) {
		if f.Class.Lasting() {
			loud = slog.LevelError
		}
		if err == error(f) { // and not joined with trouble of the store's
			why = string(f.Class) + " " + f.Call
		}
		args = append(args, "class", string(f.Class))
		if h := hint.Of(f); h != "" {
			args = append(args, "hint", h)
		}
	}
	level := slog.LevelDebug
	if s.failures == 0 || s.lastFailure != why {
		level = loud
	}
	s.lastFailure, s.failures = why, s.failures+1
	log.Log(context.Background(), level, "no billing sample", args...)
}

// failureOf gives every error its class.
func failureOf(err error, ctx context.Context) *api.Failure {
	var f *api.Failure
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, context.DeadlineExceeded), ctx.Err() != nil:
		return &api.Failure{Class: api.Timeout, Err: err}
	default:
		return &api.Failure{Class: api.Internal, Err: err}
	}
}

// complete refuses what no adapter may return.
func complete(s ledger.Sample) error {
	switch {
	case s.At.IsZero() || s.Provider == "" || s.Currency == "":
		return api.Fail(api.Internal, "sample without its time, provider or currency")
	case len(s.Lines) == 0:
		return api.Fail(api.Incomplete, "sample without a line")
	}
	if s.Truth != ledger.TruthResource {
		return nil
	}
	for _, l := range s.Lines {
		if l.Bill == nil || l.Epoch == "" {
			return api.Fail(api.Incomplete, "no bill for %s", l.Resource)
		}
	}
	return nil
}

// drift is how far the wall clock, by which samples are due, may run from the
// monotonic one, by which we must wait, from one sample to the next.
const drift = 100 * time.Millisecond

// schedule decides when the next sample is due.
func (s *Sampler) schedule() time.Time {
	now := s.cfg.Now()
	wait, _ := s.mustWait()
	next := now.Truncate(s.cfg.Every).Add(s.cfg.Every)
	for next.Sub(now) < wait-drift {
		next = next.Add(s.cfg.Every)
	}
	return next
}

// mustWait is how long no call may be made, and whether the provider asked for that.
func (s *Sampler) mustWait() (wait time.Duration, asked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = max(time.Until(s.nextAllowed), 0)
	if d := time.Until(s.retryAt); d > wait {
		return d, true
	}
	return wait, false
}

// sleep waits until due by the wall clock, and reports whether ctx let it. The
// timer runs on another clock than the wall's: if that fired a moment early, the
// rest is waited for; if the wall clock was set back, it is not, for that would be
// an hour of darkness.
func (s *Sampler) sleep(ctx context.Context, due time.Time) bool {
	for d := due.Sub(s.cfg.Now()); d > 0; {
		t := time.NewTimer(d)
		select {
		case <-ctx.Done():
			t.Stop()
			return false
		case <-t.C:
		}
		if d = due.Sub(s.cfg.Now()); d > time.Second {
			break
		}
	}
	return ctx.Err() == nil
}
