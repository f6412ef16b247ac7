package server

import (
	"errors"
	"time"

	"spotinference/budget"
	"spotinference/gpu"
	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/server/control"
)

// status is what a running gateway says of itself.
func (g *gateway) status() (s control.Status, err error) {
	e := g.engine.Status()
	s.Engine = control.Engine{
		Kind: string(g.engine.Kind()), State: string(e.State), Since: e.Since.UTC(), PID: e.PID, Restarts: e.Restarts,
		LastExit: e.LastExit, Suspended: e.SuspendedBy, NextStart: inUTC(e.NextStart),
	}
	s.Engine.Running, s.Engine.Waiting = g.engine.Load()
	if err := g.gate.Allow(); err != nil {
		s.Gate.Reason = err.Error()
	} else {
		s.Gate.Open = true
	}
	s.OnClose = g.closer.status()
	if s.Budget, err = g.budget(); err != nil {
		return s, err
	}
	if g.gpus != nil {
		s.GPU = gpuStatus(g.gpus.Latest(), g.cfg.Now())
	}
	s.Provider = g.cfg.Provider
	newest, ok, err := g.led.Newest()
	if err != nil {
		return s, err
	}
	if ok && newest.Provider == g.cfg.Provider { // and not an earlier serve's
		s.Bill = &control.Bill{Provider: newest.Provider, At: newest.At.UTC()}
	}
	return s, nil
}

// inUTC is t for JSON, null where it is zero.
func inUTC(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func gpuStatus(s gpu.Snapshot, now time.Time) *control.GPU {
	out := &control.GPU{Source: string(s.Source), Reason: s.Reason, Driver: s.Driver, ReadAt: inUTC(s.At), Cards: []control.Card{}}
	if s.Fresh(now) {
		for _, c := range s.Cards {
			out.Cards = append(out.Cards, control.Card{UUID: c.UUID, Name: c.Name, MemoryUsed: c.MemoryUsed, MemoryTotal: c.MemoryTotal, Utilisation: c.Utilisation})
		}
	}
	return out
}

// budget is how far the budgets are spent, as the gate has it.
func (g *gateway) budget() (control.Budget, error) {
	st, known := g.gate.State()
	return BudgetStatus(g.led.Reader, st, known, g.cfg.Now())
}

// BudgetStatus is a budget's state as commands show it, with the override that r has in
// force at now. known is false where there is no state yet.
func BudgetStatus(r *ledger.Reader, st budget.State, known bool, now time.Time) (b control.Budget, err error) {
	b.Budgets = []control.BudgetWindow{}
	o, ok, err := r.Override(now)
	if err != nil {
		return b, err
	}
	if ok {
		b.Override = &control.Overridden{From: o.At, Until: o.Until, Amount: o.Amount.Text(), Reason: o.Reason}
	}
	if !known {
		return b, nil
	}
	b.SampledAt, b.Currency, b.Rate, b.Headroom = &st.Sample, st.Currency, st.Rate.Text(), st.Headroom.Text()
	for _, w := range st.Windows {
		out := control.BudgetWindow{Per: string(w.Per), Amount: w.Amount.String(), Spent: w.Gross.String(), From: w.From.UTC(), To: w.To.UTC()}
		if w.Before != 0 {
			out.BeforeLedger = w.Before.Text()
		}
		out.CountedSince = inUTC(w.CountedSince)
		if cost, ok := st.Projected(w); ok {
			out.WouldCost, out.Over = cost.Text(), cost > w.Amount
		}
		if at, ok := st.Reached(w); ok {
			at = at.UTC().Round(time.Second)
			out.Reached = &at
		}
		b.Budgets = append(b.Budgets, out)
	}
	return b, nil
}

// ApplyOverride writes an override, or the end of one, to the ledger. It counts as soon
// as it is written.
func ApplyOverride(led *ledger.Ledger, c control.OverrideCall) (control.Overridden, error) {
	do := led.EndOverride
	if !c.End {
		do = func() (ledger.Override, error) { return led.AddOverride(c.For, c.Amount, c.Reason) }
	}
	o, err := do()
	if errors.Is(err, ledger.ErrOverridden) {
		return control.Overridden{}, hint.Wrap(err, "end it first: spotinference budget override --end")
	}
	return control.Overridden{From: o.At, Until: o.End(), Amount: o.Amount.Text(), Reason: o.Reason}, err
}
