package server

import (
	"cmp"
	"context"
	"time"

	"spotinference/ledger"
	"spotinference/server/engine"
)

// newEngine makes the engine that is supervised; it is checked, and nothing is started.
func (g *gateway) newEngine() (*engine.Engine, error) {
	c := g.cfg.Engine
	c.Now, c.Log, c.Stderr = g.cfg.Now, g.cfg.Log, g.cfg.Stderr
	c.Record = g.cfg.Ledger + ".engine"
	if g.gpus != nil {
		c.GPUMemory = g.gpus.Held
	}
	if g.checkpointer != nil {
		c.Checkpointer = g.checkpointer
	}
	eng, err := engine.New(c)
	if err != nil {
		return nil, &ConfigError{err}
	}
	return eng, nil
}

// runEngine supervises the engine until ctx ends.
func (g *gateway) runEngine(ctx context.Context) error {
	return g.engine.Run(ctx, engine.Hooks{OnTransition: g.engineChanged})
}

// engineChanged is told of each change of the engine's state.
func (g *gateway) engineChanged(t engine.Transition) {
	g.record.engine(g.engine.Identity(), t)
	if t.To != ledger.Suspending {
		return
	}
	// Its counters may end with it.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	g.api.SampleCounters(ctx)
}

// learnWakes tells the engine how its own wakes went before this run. A first start was
// by no method, and is what a stopped engine takes to come back.
func learnWakes(eng *engine.Engine, led *ledger.Ledger) error {
	wakes, err := led.EngineWakes(eng.Identity())
	if err != nil {
		return err
	}
	for _, w := range wakes {
		var took time.Duration
		for _, p := range w.Phases {
			took += time.Duration(p)
		}
		eng.Learn(engine.Method(cmp.Or(w.Method, string(engine.Stop))), took)
	}
	return nil
}
