package server

import (
	"context"
	"time"

	"spotinference/billing"
	billingapi "spotinference/billing/api"
	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server/api"
)

// openProvider opens the adapter whose bill is read, nil where none is. history knows the
// series that the ledger holds.
func (g *gateway) openProvider(history billingapi.History) (billingapi.Provider, error) {
	if g.blind() {
		return nil, nil
	}
	o := g.cfg.Billing
	o.History = history
	p, err := billing.New(g.cfg.Provider, o)
	if err != nil {
		return nil, &ConfigError{err}
	}
	return p, nil
}

// newSampler samples the bill into the ledger. It is nil without a provider.
func (g *gateway) newSampler(p billingapi.Provider) (*billing.Sampler, error) {
	if p == nil {
		return nil, nil
	}
	newest, _, err := g.led.Newest()
	if err != nil {
		return nil, err
	}
	balance, err := g.newBalanceMonitor(p)
	if err != nil {
		return nil, err
	}
	s, err := billing.NewSampler(billing.SamplerConfig{
		Provider: billing.Calibrate(p, g.led.Reader, g.cfg.SampleEvery), Store: countFailures{g.led, g.metrics},
		Every: g.cfg.SampleEvery, Newest: newest.At, Balance: balance, OnSample: g.sampled,
		PeriodStarts: func(t time.Time) []time.Time {
			return budget.Starts(g.cfg.Budget.Limits, t, g.cfg.Budget.Location)
		},
		DayStart: func(t time.Time) time.Time { return budget.DayStart(t, g.cfg.Budget.Location) },
		Now:      g.cfg.Now, Log: g.cfg.Log,
	})
	if err != nil {
		return nil, &ConfigError{err}
	}
	return s, nil
}

// sampled is what follows a sample that was stored. Samples are taken one at a time.
func (g *gateway) sampled() {
	g.gate.Refresh()
	g.keyBudgets.Refresh()
	if g.warned {
		return
	}
	g.gate.Evaluate()
	st, ok := g.gate.State()
	if ok && !g.counted {
		g.counted = true
		g.tellBefore(st)
	}
	if ok && st.Rate != nil {
		g.warned = true
		g.warnOfBudget(st)
	}
}

// tellBefore says what of the budgets is known of the time before this ledger.
func (g *gateway) tellBefore(st budget.State) {
	for _, w := range st.Windows {
		if w.Before != 0 {
			g.cfg.Log.Info("before this ledger: in the budget, and in no cost per token", "per", w.Per, "spent", w.Before.String(), "currency", st.Currency)
		}
		if !w.CountedSince.IsZero() {
			g.cfg.Log.Warn("counted since "+w.CountedSince.UTC().Format(time.RFC3339)+"; earlier spend is not known", "per", w.Per, "budget", w.Amount.String(),
				"hint", "docs/budget.md")
		}
	}
}

// warnOfBudget says what the rate would make of the budgets.
func (g *gateway) warnOfBudget(st budget.State) {
	log := g.cfg.Log
	for _, w := range st.Windows {
		if room, err := st.Room(budget.Window{Limit: w.Limit}); st.Headroom != nil && err == nil && room <= 0 {
			log.Warn("the headroom leaves nothing of the budget: nothing will be served", "per", w.Per, "budget", w.Amount.String(), "headroom", st.Headroom.String(),
				"hint", "raise --budget, or lower --budget-headroom")
		}
		cost, ok := st.Projected(w)
		if !ok || cost <= w.Amount {
			continue
		}
		args := []any{"per", w.Per, "budget", w.Amount.String(), "estimate", cost.String(), "currency", st.Currency}
		if at, ok := st.Reached(w); ok {
			args = append(args, "estimated_reached", at.UTC().Round(time.Second).Format(time.RFC3339))
		}
		if g.cfg.OnClose != nil {
			log.Warn("at the sampled rate this budget does not last; --on-close runs when it is spent", args...)
			continue
		}
		log.Warn("at the sampled rate this budget does not last; a closed gate stops the serving, not the machine",
			append(args, "hint", "stop the machine with --on-close, or raise --budget")...)
	}
}

// newBalanceMonitor reads what the provider's account has left. It is nil where the
// provider does not tell.
func (g *gateway) newBalanceMonitor(p billingapi.Provider) (*billing.BalanceMonitor, error) {
	reader, ok := p.(billingapi.BalanceReader)
	if !ok {
		return nil, nil
	}
	return billing.NewBalanceMonitor(billing.BalanceConfig{
		Reader: reader, Low: g.cfg.LowBalance, OnResidual: g.residual, OnFunds: g.funds, Now: g.cfg.Now, Log: g.cfg.Log,
	})
}

func (g *gateway) residual(r ledger.Residual) {
	g.metrics.Residual()
	g.record.event(r)
}

func (g *gateway) funds(f billing.Funds) {
	g.metrics.LowBalance(f.Low)
	left := ledger.Balance{Left: f.Left, Threshold: f.Threshold, Currency: f.Currency}
	switch {
	case f.Turned && f.Low:
		g.record.event(ledger.BalanceLow(left))
	case f.Turned:
		g.record.event(ledger.BalanceOK(left))
	}
}

// lastSample reads the bill once more on the way out.
func (g *gateway) lastSample(ctx context.Context) {
	if g.sampler == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastSampleTime)
	defer cancel()
	if err := g.sampler.Last(ctx); err != nil {
		g.cfg.Log.Warn("the bill could not be read once more", "err", err)
	}
}

// lastSampleTime bounds the sample on the way out: a spot machine has seconds.
const lastSampleTime = 5 * time.Second

// countFailures shows dark minutes in the metrics as they are written.
type countFailures struct {
	*ledger.Ledger
	metrics *api.Metrics
}

func (c countFailures) AddSampleFailure(ctx context.Context, f ledger.SampleFailure) error {
	c.metrics.SampleFailed(f.Class)
	return c.Ledger.AddSampleFailure(ctx, f)
}
