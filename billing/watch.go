package billing

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"spotinference/internal/hint"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

// WatchConfig is what a Watch needs.
type WatchConfig struct {
	Witness Witness

	// Every is the time between two looks at the balance; five minutes if zero.
	Every time.Duration

	// Low is the balance below which to warn. Nil is what a day costs at the rates
	// of the newest sample: a rate makes a warning here, and never a figure.
	Low *ledger.Nanos

	Now func() time.Time // wall clock; time.Now if nil
	Log *slog.Logger     // nowhere if nil

	// OnResidual is told each residual, OnFunds each look at the balance. Either
	// may be nil.
	OnResidual func(ledger.Residual)
	OnFunds    func(Funds)
}

// Funds is what an account has left, held against what is low for it.
type Funds struct {
	Left      ledger.Nanos
	Threshold ledger.Nanos
	Currency  string
	Low       bool
	Turned    bool // Low has just become what it is
}

// Watch looks at what the whole account has left, beside its bill: it warns before the
// money ends, for then machines are stopped and some providers delete their data, and
// it finds what the account pays for that is not sampled. It changes no figure and
// fails no sample. Where the balance cannot be read it says so once.
type Watch struct {
	cfg WatchConfig

	// Owned by the sampler's turn.
	next  time.Time // before then there is no look
	blind bool      // it was said that the balance cannot be read
	told  bool      // it was said that there is a residual
	low   bool
	audit audit
}

const (
	lookEvery   = 5 * time.Minute
	lookTimeout = 10 * time.Second
)

// NewWatch checks cfg and starts nothing; a Sampler makes it look.
func NewWatch(cfg WatchConfig) (*Watch, error) {
	if cfg.Witness == nil {
		return nil, errors.New("watch: a witness is required")
	}
	if cfg.Every == 0 {
		cfg.Every = lookEvery
	}
	if cfg.Every < time.Second {
		return nil, hint.Errorf("give a second or more", "look at the balance every %s", cfg.Every)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.OnResidual == nil {
		cfg.OnResidual = func(ledger.Residual) {}
	}
	if cfg.OnFunds == nil {
		cfg.OnFunds = func(Funds) {}
	}
	return &Watch{cfg: cfg}, nil
}

// see is called after each sample that was stored. It is over before due, when the
// next one is to be taken.
func (w *Watch) see(ctx context.Context, s ledger.Sample, due time.Time) {
	if s.Truth == ledger.TruthResource { // an account's bill is its balance
		w.audit.sample(s)
		defer func() {
			for _, r := range w.audit.judge() {
				w.residual(r)
			}
		}()
	}
	now := w.cfg.Now()
	wait := w.next.Sub(now)
	room := min(lookTimeout, due.Sub(now)-time.Second/2)
	if wait > 0 && wait <= provider.MaxRetryAfter || room <= 0 { // longer: the clock was set back
		return
	}
	timed, cancel := context.WithTimeout(ctx, room)
	defer cancel()
	b, err := w.cfg.Witness.Balances(timed, now)
	if ctx.Err() != nil {
		return
	}
	w.next = now.Truncate(w.cfg.Every).Add(w.cfg.Every)
	if err != nil {
		w.cannot(failureOf(err, timed))
		return
	}
	if s.Truth == ledger.TruthResource {
		w.audit.hear(w.cfg.Now(), b, s.Currency)
	}
	if left, ok := b.left(); ok {
		w.funds(left, s)
	}
}

func (w *Watch) cannot(f *Failure) {
	if until := w.cfg.Now().Add(f.RetryAfter); until.After(w.next) {
		w.next = until
	}
	if !w.blind {
		w.cfg.Log.Info("the account's balance cannot be read: no warning before it ends, no search for costs that are not sampled",
			"err", f, "class", string(f.Class))
	}
	w.blind = true
}

func (w *Watch) residual(r ledger.Residual) {
	if !w.told {
		w.cfg.Log.Warn("the account pays for more than is sampled",
			"paid", r.Paid.String(), "billed", r.Billed.String(), "currency", r.Currency, "from", r.From.UTC(), "to", r.To.UTC(),
			"hint", "look in the provider's console for another machine, a volume, a snapshot, a public address")
	}
	w.told = true
	w.cfg.OnResidual(r)
}

// funds warns once below the threshold, and is over a quarter above it, so that a
// balance near to it is not news every time.
func (w *Watch) funds(left ledger.Nanos, s ledger.Sample) {
	low, ok := dayCost(s.Lines)
	if w.cfg.Low != nil {
		low, ok = *w.cfg.Low, true
	}
	if !ok {
		return
	}
	f := Funds{Left: left, Threshold: low, Currency: s.Currency, Low: left < low}
	if w.low && !f.Low {
		enough, err := low.Add(low / 4)
		f.Low = err == nil && left < enough
	}
	f.Turned, w.low = f.Low != w.low, f.Low
	switch {
	case f.Turned && f.Low:
		w.cfg.Log.Warn("the account's balance is low", "left", left.String(), "below", low.String(), "currency", s.Currency,
			"hint", "top it up: at zero the provider stops what runs, and some delete it")
	case f.Turned:
		w.cfg.Log.Info("the account's balance is no longer low", "left", left.String(), "currency", s.Currency)
	}
	w.cfg.OnFunds(f)
}

// dayCost is what a day costs at the rates that are known, or false where that says
// nothing. It is for a warning only.
func dayCost(lines []ledger.Line) (ledger.Nanos, bool) {
	var rate, day ledger.Nanos
	var err error
	for _, l := range lines {
		if l.Rate == nil {
			continue
		}
		if rate, err = rate.Add(*l.Rate); err != nil {
			return 0, false
		}
	}
	for range 24 {
		if day, err = day.Add(rate); err != nil {
			return 0, false
		}
	}
	return day, day > 0
}
