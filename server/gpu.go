package server

import (
	"context"
	"errors"
	"io"
	"time"

	"spotinference/gpu"
	"spotinference/ledger"
	"spotinference/server/engine"
)

// newGPUs reads the GPUs of this machine. It is nil in the demo, whose figures are all
// simulated.
func (g *gateway) newGPUs() *gpu.Monitor {
	if g.cfg.Demo {
		return nil
	}
	return gpu.New(gpu.Config{Now: g.cfg.Now, Log: g.cfg.Log})
}

// runGPUs follows the GPUs until ctx ends.
func (g *gateway) runGPUs(ctx context.Context) error {
	return g.gpus.Run(ctx, gpu.Hooks{OnMinute: g.gpuMinute, OnXID: g.gpuError, OnState: g.gpuState})
}

func (g *gateway) gpuMinute(m gpu.Minute) {
	if err := g.led.AddGPUMinute(ledgerMinute(m)); err != nil && !errors.Is(err, ledger.ErrClosed) {
		g.cfg.Log.Error("write a card's minute", "gpu", m.UUID, "err", err)
	}
}

func (g *gateway) gpuError(x gpu.XID, at time.Time) {
	g.cfg.Log.Warn("the driver reports an error of a card", "gpu", x.UUID, "xid", x.Code)
	g.record.event(ledger.GPUXID{UUID: x.UUID, XID: x.Code, At: at})
}

func (g *gateway) gpuState(s gpu.State) {
	switch {
	case s.Source == gpu.None:
		g.cfg.Log.Info("no GPU readings", "why", s.Reason)
	case s.Reason == "":
		g.cfg.Log.Info("reading the GPU", "source", s.Source)
	default:
		g.cfg.Log.Info("reading the GPU", "source", s.Source, "why", s.Reason)
	}
	g.record.event(ledger.GPUSource{Source: string(s.Source), Reason: s.Reason})
}

// newCheckpointer is the driver's way to suspend, nil where nobody wants it. One that
// was asked for is tried now, so that a refusal comes before anything runs; auto has
// time until the engine is idle, and a driver that hangs must not hold up the start.
func (g *gateway) newCheckpointer(ctx context.Context) *gpu.Checkpointer {
	if g.gpus == nil {
		return nil
	}
	switch g.cfg.Engine.Suspend {
	case engine.Checkpoint:
		c := gpu.NewCheckpointer(g.gpus.Latest)
		_ = c.Probe(ctx) // it says itself why it is not available
		return c
	case engine.Auto:
		return gpu.NewCheckpointer(g.gpus.Latest)
	}
	return nil
}

// keepCheckpointer asks the driver, where nobody has, and ends the helper in the end.
func (g *gateway) keepCheckpointer(ctx context.Context) error {
	c := g.checkpointer
	defer c.Close()
	if c.Available() != nil {
		switch err := c.Probe(ctx); {
		case err == nil, ctx.Err() != nil:
		case errors.Is(err, gpu.ErrNoHelper): // what reads the cards has said so
		default:
			g.cfg.Log.Info("the engine cannot be suspended by checkpoint", "why", err)
		}
	}
	<-ctx.Done()
	return nil
}

func (g *gateway) writeGPUMetrics(w io.Writer) { gpu.WriteMetrics(w, g.gpus.Latest(), g.cfg.Now()) }

// ledgerMinute is m as the ledger keeps it.
func ledgerMinute(m gpu.Minute) ledger.GPUMinute {
	return ledger.GPUMinute{
		UUID: m.UUID, Name: m.Name, Source: string(m.Source), Since: m.From, At: m.To, Readings: m.Readings,
		UtilisationAvg: m.UtilisationAverage, UtilisationMax: m.UtilisationMax, MemoryAvg: m.MemoryAverage, MemoryMax: m.MemoryMax,
		PowerAvg: m.PowerAverage, PowerMax: m.PowerMax, TemperatureMax: m.TemperatureMax, Energy: m.Energy,
	}
}
