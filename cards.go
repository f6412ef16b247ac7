package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"spotinference/gpu"
	"spotinference/ledger"
	"spotinference/ledger/report"
	"spotinference/server"
	"spotinference/server/engine"
)

// newCards reads the cards into metrics, ledger and log.
func newCards(led *ledger.Ledger, metrics *server.Metrics, log *slog.Logger, event func(ledger.EventDetail)) *gpu.Monitor {
	cards := gpu.New(gpu.Config{
		Log: log,
		OnMinute: func(m gpu.Minute) {
			if err := led.AddGPUMinute(ledgerMinute(m)); err != nil && !errors.Is(err, ledger.ErrClosed) {
				log.Error("write a card's minute", "gpu", m.UUID, "err", err)
			}
		},
		OnXID: func(x gpu.XID, at time.Time) {
			log.Warn("the driver reports an error of a card", "gpu", x.UUID, "xid", x.Code)
			event(ledger.GPUXID{UUID: x.UUID, XID: x.Code, At: at})
		},
		OnState: func(s gpu.State) {
			switch {
			case s.Source == gpu.None:
				log.Info("no GPU readings", "why", s.Reason)
			case s.Reason == "":
				log.Info("reading the GPU", "source", s.Source)
			default:
				log.Info("reading the GPU", "source", s.Source, "why", s.Reason)
			}
			event(ledger.GPUSource{Source: string(s.Source), Reason: s.Reason})
		},
	})
	metrics.Add(func(w io.Writer) { gpu.WriteMetrics(w, cards.Latest(), time.Now()) })
	return cards
}

// newCheckpointer is the driver's way to suspend, nil where nobody wants it. One that
// was asked for is tried now, so that a refusal comes before anything runs; auto has
// time until the engine is idle, and a driver that hangs must not hold up the start.
func newCheckpointer(ctx context.Context, method engine.Method, latest func() gpu.Snapshot) *gpu.Checkpointer {
	switch method {
	case engine.Checkpoint:
		c := gpu.NewCheckpointer(latest)
		_ = c.Probe(ctx) // it says itself why it is not available
		return c
	case engine.Auto:
		return gpu.NewCheckpointer(latest)
	}
	return nil
}

// keepCheckpointer asks the driver, where nobody has, and ends the helper in the end.
func keepCheckpointer(ctx context.Context, c *gpu.Checkpointer, log *slog.Logger) error {
	defer c.Close()
	if c.Available() != nil {
		switch err := c.Probe(ctx); {
		case err == nil, ctx.Err() != nil:
		case errors.Is(err, gpu.ErrNoHelper): // what reads the cards has said so
		default:
			log.Info("the engine cannot be suspended by checkpoint", "why", err)
		}
	}
	<-ctx.Done()
	return nil
}

// gpuStatus is what is known of the cards.
type gpuStatus struct {
	Source gpu.Source   `json:"source"`
	Reason string       `json:"reason,omitempty"` // why there is no better source
	ReadAt *time.Time   `json:"read_at"`          // null before the first reading
	Driver string       `json:"driver,omitempty"`
	Cards  []cardStatus `json:"cards"` // empty where the readings are stale
}

type cardStatus struct {
	UUID        string `json:"uuid"`
	Name        string `json:"name"`
	MemoryUsed  *int64 `json:"memory_used_bytes"` // these are null where not known
	MemoryTotal *int64 `json:"memory_total_bytes"`
	Utilisation *int64 `json:"utilisation_percent"`
}

func gpuStatusOf(s gpu.Snapshot, now time.Time) *gpuStatus {
	out := &gpuStatus{Source: s.Source, Reason: s.Reason, Driver: s.Driver, Cards: []cardStatus{}}
	if !s.At.IsZero() {
		at := s.At.UTC()
		out.ReadAt = &at
	}
	if s.Fresh(now) {
		for _, c := range s.Cards {
			out.Cards = append(out.Cards, cardStatus{c.UUID, c.Name, c.MemoryUsed, c.MemoryTotal, c.Utilisation})
		}
	}
	return out
}

// write prints s for people.
func (s *gpuStatus) write(w io.Writer, now time.Time) {
	if s == nil {
		fmt.Fprintln(w, "gpu      none: the demo has no card")
		return
	}
	fmt.Fprintf(w, "gpu      %s", s.Source)
	if s.Reason != "" {
		fmt.Fprintf(w, ": %s", s.Reason)
	}
	if s.ReadAt != nil {
		fmt.Fprintf(w, "; read %s ago", max(0, now.Sub(*s.ReadAt)).Round(time.Second))
	}
	fmt.Fprintln(w)
	gib := func(n *int64) string {
		if n == nil {
			return "?"
		}
		return fmt.Sprintf("%.1f", float64(*n)/(1<<30))
	}
	for _, c := range s.Cards {
		fmt.Fprintf(w, "card     %s %s, %s of %s GiB used, ", c.Name, c.UUID, gib(c.MemoryUsed), gib(c.MemoryTotal))
		if c.Utilisation == nil {
			fmt.Fprintln(w, "utilisation not known")
		} else {
			fmt.Fprintf(w, "utilisation %d%%\n", *c.Utilisation)
		}
	}
}

// ledgerMinute is m as the ledger keeps it.
func ledgerMinute(m gpu.Minute) ledger.GPUMinute {
	return ledger.GPUMinute{
		UUID: m.UUID, Name: m.Name, Source: string(m.Source), Since: m.From, At: m.To, Readings: m.Readings,
		UtilisationAvg: m.UtilisationAverage, UtilisationMax: m.UtilisationMax, MemoryAvg: m.MemoryAverage, MemoryMax: m.MemoryMax,
		PowerAvg: m.PowerAverage, PowerMax: m.PowerMax, TemperatureMax: m.TemperatureMax, Energy: m.Energy,
	}
}

func newReportGPU() *cobra.Command {
	c := &cobra.Command{
		Use:   "gpu",
		Short: "What the cards did: utilisation, energy, and joules per output token",
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := ask(cmd, clock())
			if err != nil {
				return err
			}
			defer q.ledger.Close()
			age, err := sampleAge(cmd, "report gpu")
			if err != nil {
				return err
			}
			g, err := report.GPU(q.ledger, report.GPUQuery{
				Window: q.window, Explicit: q.explicit, Now: q.now, MaxSampleAge: age, Demo: q.demo,
			})
			if err != nil {
				return err
			}
			if err := g.Write(cmd.OutOrStdout(), q.format); err != nil {
				return err
			}
			if g.Refused() {
				return errRefused{"report gpu: no figure: " + g.Reason}
			}
			return nil
		},
	}
	addWindow(c)
	addSampleAge(c)
	return c
}
