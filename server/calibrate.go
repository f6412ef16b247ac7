package server

import (
	"context"
	"time"

	"spotinference/billing"
	"spotinference/ledger"
)

// ledgerAnchors finds where a bill's series began in the ledger.
type ledgerAnchors struct{ led *ledger.Ledger }

func (a *ledgerAnchors) Newest(resource string) (epoch string, bill *ledger.Nanos, ok bool) {
	epoch, ok, err := a.led.Epoch(resource)
	if err != nil || !ok {
		return "", nil, false
	}
	s, ok, err := a.led.Newest()
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

func (a *ledgerAnchors) Open(provider string) ([]string, error) { return a.led.Open(provider) }

// calibrated is a provider whose samples carry what a probe measured of the
// account that they are of.
type calibrated struct {
	billing.Provider
	ledger *ledger.Reader
	every  time.Duration // between two samples
}

// calibratedPast is one that can also be asked for a past bill.
type calibratedPast struct {
	calibrated
	billing.Boundary
}

// calibrate wraps p, whose bill is sampled once in every.
func calibrate(p billing.Provider, r *ledger.Reader, every time.Duration) billing.Provider {
	c := calibrated{p, r, every}
	if b, ok := p.(billing.Boundary); ok {
		return calibratedPast{c, b}
	}
	return c
}

func (c calibrated) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
	s, err := c.Provider.Sample(ctx, now)
	return c.apply(s, err)
}

func (c calibratedPast) SampleAt(ctx context.Context, at, now time.Time) (ledger.Sample, error) {
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

// Anchors knows the series of bills that a ledger holds.
func Anchors(led *ledger.Ledger) billing.Anchors { return &ledgerAnchors{led} }
