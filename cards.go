package main

import (
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
)

// newCards reads the cards into metrics, ledger and log.
func newCards(led *ledger.Ledger, metrics *server.Metrics, log *slog.Logger, event func(kind, subject, detail string)) *gpu.Monitor {
	cards := gpu.New(gpu.Config{
		Log: log,
		OnMinute: func(m gpu.Minute) {
			if err := led.AddGPUMinute(ledgerMinute(m)); err != nil && !errors.Is(err, ledger.ErrClosed) {
				log.Error("write a card's minute", "gpu", m.UUID, "err", err)
			}
		},
		OnXID: func(x gpu.XID, at time.Time) {
			log.Warn("the driver reports an error of a card", "gpu", x.UUID, "xid", x.Code)
			event("gpu", fmt.Sprintf("xid %d", x.Code), jsonText(struct {
				UUID string    `json:"uuid"`
				XID  uint64    `json:"xid"`
				At   time.Time `json:"at"`
			}{x.UUID, x.Code, at.UTC()}))
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
			event("gpu", "source "+string(s.Source), jsonText(struct {
				Reason string `json:"reason"`
			}{s.Reason}))
		},
	})
	metrics.Add(func(w io.Writer) { gpu.WriteMetrics(w, cards.Latest(), time.Now()) })
	return cards
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
			q, err := ask(cmd, time.Now())
			if err != nil {
				return err
			}
			defer q.ledger.Close()
			g, err := report.GPU(q.ledger, report.GPUQuery{
				Window: q.window, Explicit: q.explicit, Now: q.now, MaxSampleAge: defaultMaxSampleAge, Demo: q.demo,
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
	return c
}
