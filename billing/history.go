package billing

import (
	"context"
	"time"

	"spotinference/billing/api"
	"spotinference/ledger"
)

// LedgerHistory is what a ledger remembers of the samples that it holds. A provider may
// be opened with one before there is a ledger; Ledger must be set before its first
// sample.
type LedgerHistory struct{ Ledger *ledger.Reader }

// Newest implements History.
func (h *LedgerHistory) Newest(resource string) (epoch string, bill *ledger.Nanos, ok bool) {
	epoch, ok, err := h.Ledger.Epoch(resource)
	if err != nil || !ok {
		return "", nil, false
	}
	s, ok, err := h.Ledger.Newest()
	if err != nil || !ok {
		return epoch, nil, true
	}
	for _, l := range s.Lines {
		if l.Resource == resource && l.Epoch == epoch {
			bill = l.Bill
		}
	}
	return epoch, bill, true
}

// Open implements History.
func (h *LedgerHistory) Open(provider string) ([]string, error) { return h.Ledger.Open(provider) }

// calibrated is a provider whose samples carry what a probe measured of the account
// that they are of.
type calibrated struct {
	api.Provider
	ledger *ledger.Reader
	every  time.Duration // between two samples
}

// calibratedBoundary is one that can also be asked for a past bill.
type calibratedBoundary struct {
	calibrated
	api.Boundary
}

// Calibrate is p with samples that carry what a probe measured, as the ledger has it.
// They are taken once in every.
func Calibrate(p api.Provider, r *ledger.Reader, every time.Duration) api.Provider {
	c := calibrated{p, r, every}
	if b, ok := p.(api.Boundary); ok {
		return calibratedBoundary{c, b}
	}
	return c
}

func (c calibrated) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
	s, err := c.Provider.Sample(ctx, now)
	return c.apply(s, err)
}

func (c calibratedBoundary) SampleAt(ctx context.Context, at, now time.Time) (ledger.Sample, error) {
	s, err := c.Boundary.SampleAt(ctx, at, now)
	return c.apply(s, err)
}

// apply asks the ledger for each sample: the account is not known before the first,
// and a ledger that cannot tell is a dark minute, not an uncalibrated one.
func (c calibrated) apply(s ledger.Sample, err error) (ledger.Sample, error) {
	if err != nil {
		return s, err
	}
	cal, ok, err := c.ledger.Calibration(s.Provider, s.Account)
	if err != nil {
		return ledger.Sample{}, err
	}
	if ok {
		// A probe looks more often than a sampler. A bill that may stand still for no
		// longer than two samples are apart could never be seen to do so.
		s.Step, s.Lag, s.Calibrated = cal.Step, max(cal.Lag, 3*c.every), true
	}
	return s, nil
}
