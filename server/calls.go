package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/server/control"
	"spotinference/server/engine"
)

// calls are what other commands may ask of a running gateway.
func (g *gateway) calls() control.Calls {
	return control.Calls{
		control.CallStatus:  func(context.Context, json.RawMessage) (any, error) { return g.status() },
		control.CallSuspend: func(ctx context.Context, _ json.RawMessage) (any, error) { return g.suspendNow(ctx) },
		control.CallWake:    func(ctx context.Context, _ json.RawMessage) (any, error) { return g.wakeNow(ctx) },
		control.BudgetShow:  func(context.Context, json.RawMessage) (any, error) { return g.budget() },
		control.Override:    func(_ context.Context, in json.RawMessage) (any, error) { return g.override(in) },
		control.KeyCreate:   func(_ context.Context, in json.RawMessage) (any, error) { return nil, g.createKey(in) },
		control.KeyRevoke:   func(_ context.Context, in json.RawMessage) (any, error) { return g.revokeKey(in) },
		control.VoidSample:  func(_ context.Context, in json.RawMessage) (any, error) { return g.voidSample(in) },
	}
}

func (g *gateway) suspendNow(ctx context.Context) (any, error) {
	err := g.engine.Suspend(ctx)
	switch {
	case errors.Is(err, engine.ErrBusy):
		return nil, hint.Wrap(err, "wait until they have ended: the engine is never suspended under a request")
	case err != nil:
		return nil, err
	}
	return g.status()
}

func (g *gateway) wakeNow(ctx context.Context) (any, error) {
	// What may not be served may not cost a wake either.
	if err := g.gate.Allow(); err != nil {
		return nil, hint.Errorf("spotinference status says more", "the gate is closed: %w", err)
	}
	if err := g.engine.Wake(ctx); err != nil {
		return nil, err
	}
	return g.status()
}

func (g *gateway) override(in json.RawMessage) (any, error) {
	var c control.OverrideCall
	if err := json.Unmarshal(in, &c); err != nil {
		return nil, fmt.Errorf("read the call: %w", err)
	}
	if st, known := g.gate.State(); known && c.Amount != nil && st.Headroom != nil && *c.Amount <= *st.Headroom {
		return nil, hint.Errorf("give an amount above the headroom, or none", "--amount %s: lifts nothing, with a headroom of %s", *c.Amount, *st.Headroom)
	}
	got, err := ApplyOverride(g.led, c)
	g.gate.Refresh()
	return got, err
}

func (g *gateway) voidSample(in json.RawMessage) (any, error) {
	var c control.VoidSampleCall
	if err := json.Unmarshal(in, &c); err != nil {
		return nil, fmt.Errorf("read the call: %w", err)
	}
	v, err := g.led.VoidSample(c.Sample, c.Reason)
	if err != nil {
		return nil, err
	}
	g.cfg.Log.Warn("a sample was taken out of every sum", "sample", v.Sample.ID, "of", v.Sample.At, "reason", v.Reason)
	g.gate.Refresh()
	return control.VoidedSample{At: v.Sample.At}, nil
}

func (g *gateway) createKey(in json.RawMessage) error {
	var k ledger.Key
	if err := json.Unmarshal(in, &k); err != nil {
		return fmt.Errorf("read the key: %w", err)
	}
	if k.PerDay != nil && g.blind() {
		return hint.Errorf("leave out --budget", "no budget holds with --provider none, as serve runs")
	}
	g.keyChange.Lock()
	defer g.keyChange.Unlock()
	if err := g.led.AddKey(k); err != nil {
		return err
	}
	if k.PerDay != nil {
		g.keyBudgets.Enable()
	}
	g.api.PutKey(k)
	return nil
}

func (g *gateway) revokeKey(in json.RawMessage) (any, error) {
	var word string
	if err := json.Unmarshal(in, &word); err != nil {
		return nil, fmt.Errorf("read the key's name: %w", err)
	}
	g.keyChange.Lock()
	defer g.keyChange.Unlock()
	k, err := g.led.RevokeKey(word, g.cfg.Now())
	if err != nil {
		return nil, err
	}
	g.api.PutKey(k)
	return k, nil
}
