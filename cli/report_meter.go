package cli

import (
	"context"

	"github.com/spf13/cobra"

	"spotinference/ledger/report"
)

type reportMeterOptions struct{ windowOptions }

func newReportMeter(g *global) *cobra.Command {
	var o reportMeterOptions
	c := &cobra.Command{
		Use:   "meter",
		Short: "The tokens counted here beside the engine's own counters",
		Args:  noWords,
		RunE:  g.run(func(ctx context.Context) error { return runReportMeter(ctx, g, o) }),
	}
	o.addFlags(flagsOf(c))
	return c
}

func runReportMeter(_ context.Context, g *global, o reportMeterOptions) error {
	q, err := g.ask(o.windowOptions)
	if err != nil {
		return err
	}
	defer q.ledger.Close()
	m, err := report.Meter(q.ledger, q.window, q.demo)
	if err != nil {
		return err
	}
	return m.Write(g.stdout, q.format)
}
