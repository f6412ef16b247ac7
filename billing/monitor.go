package billing

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/hint"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

// BalanceConfig is what a BalanceMonitor needs.
type BalanceConfig struct {
	Reader api.BalanceReader

	// Every is the time between two readings of the balance; five minutes if zero.
	Every time.Duration

	// Low is the balance below which to warn. Nil is what a day costs at the rates
	// of the newest sample: a rate makes a warning here, and never a figure.
	Low *ledger.Nanos

	Now func() time.Time // wall clock; time.Now if nil
	Log *slog.Logger     // nowhere if nil

	// OnResidual is called with each residual, OnFunds after each reading of the
	// balance. Either may be nil.
	OnResidual func(ledger.Residual)
	OnFunds    func(Funds)
}

// Funds is what an account has left, beside what is low for it.
type Funds struct {
	Left      ledger.Nanos
	Threshold ledger.Nanos
	Currency  string
	Low       bool
	Turned    bool // Low has just become what it is
}

// BalanceMonitor reads what the whole account has left, beside its bill: it warns before
// the money ends, for then machines are stopped and some providers delete their data,
// and it finds what the account pays for that is not sampled. It changes no figure and
// fails no sample. Where the balance cannot be read it says so once.
type BalanceMonitor struct {
	cfg BalanceConfig

	// Owned by the sampler's turn.
	next           time.Time // before then the balance is not read
	saidUnreadable bool
	saidResidual   bool
	low            bool
	audit          audit
}

const (
	balanceEvery   = 5 * time.Minute
	balanceTimeout = 10 * time.Second
)

// NewBalanceMonitor checks cfg and starts nothing: a Sampler runs it.
func NewBalanceMonitor(cfg BalanceConfig) (*BalanceMonitor, error) {
	if cfg.Reader == nil {
		return nil, errors.New("balance monitor: a reader is required")
	}
	if cfg.Every == 0 {
		cfg.Every = balanceEvery
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
	return &BalanceMonitor{cfg: cfg}, nil
}

// afterSample is called after each sample that was stored. It is over before due, when
// the next one is to be taken.
func (m *BalanceMonitor) afterSample(ctx context.Context, s ledger.Sample, due time.Time) {
	if s.Truth == ledger.TruthResource { // an account's bill is its balance
		m.audit.addSample(s)
		defer func() {
			for _, r := range m.audit.residuals() {
				m.reportResidual(r)
			}
		}()
	}
	now := m.cfg.Now()
	wait := m.next.Sub(now)
	room := min(balanceTimeout, due.Sub(now)-time.Second/2)
	if wait > 0 && wait <= provider.MaxRetryAfter || room <= 0 { // longer: the clock was set back
		return
	}
	timed, cancel := context.WithTimeout(ctx, room)
	defer cancel()
	b, err := m.cfg.Reader.Balances(timed, now)
	if ctx.Err() != nil {
		return
	}
	m.next = now.Truncate(m.cfg.Every).Add(m.cfg.Every)
	if err != nil {
		m.reportUnreadable(failureOf(err, timed))
		return
	}
	if s.Truth == ledger.TruthResource {
		m.audit.addBalances(m.cfg.Now(), b, s.Currency)
	}
	if left, ok := b.Left(); ok {
		m.reportFunds(left, s)
	}
}

func (m *BalanceMonitor) reportUnreadable(f *api.Failure) {
	if until := m.cfg.Now().Add(f.RetryAfter); until.After(m.next) {
		m.next = until
	}
	if !m.saidUnreadable {
		m.cfg.Log.Info("the account's balance cannot be read: no warning before it ends, no search for costs that are not sampled",
			"err", f, "class", string(f.Class))
	}
	m.saidUnreadable = true
}

func (m *BalanceMonitor) reportResidual(r ledger.Residual) {
	if !m.saidResidual {
		m.cfg.Log.Warn("the account pays for more than is sampled",
			"paid", r.Paid.String(), "billed", r.Billed.String(), "currency", r.Currency, "from", r.From.UTC(), "to", r.To.UTC(),
			"hint", "look in the provider's console for another machine, a volume, a snapshot, a public address")
	}
	m.saidResidual = true
	m.cfg.OnResidual(r)
}

// reportFunds warns once below the threshold, and again only after it was over a quarter
// above it, so that a balance near to it is not news every time.
func (m *BalanceMonitor) reportFunds(left ledger.Nanos, s ledger.Sample) {
	low, ok := dayCost(s.Lines)
	if m.cfg.Low != nil {
		low, ok = *m.cfg.Low, true
	}
	if !ok {
		return
	}
	f := Funds{Left: left, Threshold: low, Currency: s.Currency, Low: left < low}
	if m.low && !f.Low {
		enough, err := low.Add(low / 4)
		f.Low = err == nil && left < enough
	}
	f.Turned, m.low = f.Low != m.low, f.Low
	switch {
	case f.Turned && f.Low:
		m.cfg.Log.Warn("the account's balance is low", "left", left.String(), "below", low.String(), "currency", s.Currency,
			"hint", "top it up: at zero the provider stops what runs, and some delete it")
	case f.Turned:
		m.cfg.Log.Info("the account's balance is no longer low", "left", left.String(), "currency", s.Currency)
	}
	m.cfg.OnFunds(f)
}

// dayCost is what a day costs at the rates that are known. It is not ok where that says
// nothing. It is for a warning only.
func dayCost(lines []ledger.Line) (day ledger.Nanos, ok bool) {
	var rate ledger.Nanos
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
