package cli

import (
	"context"

	"github.com/spf13/cobra"

	"spotinference/ledger/report"
)

type reportGPUOptions struct {
	windowOptions
	ageOptions
}

func newReportGPU(g *global) *cobra.Command {
	var o reportGPUOptions
	c := &cobra.Command{
		Use:   "gpu",
		Short: "What the cards did: utilisation, energy, and joules per output token",
		Args:  noWords,
		RunE:  g.run(func(ctx context.Context) error { return runReportGPU(ctx, g, o) }),
	}
	f := flagsOf(c)
	o.windowOptions.addFlags(f)
	o.ageOptions.addFlags(f)
	return exits(c, refuses3)
}

func runReportGPU(_ context.Context, g *global, o reportGPUOptions) error {
	const what = "report gpu"
	if err := o.check(what); err != nil {
		return err
	}
	q, err := g.ask(o.windowOptions)
	if err != nil {
		return err
	}
	defer q.ledger.Close()
	r, err := report.GPU(q.ledger, report.GPUQuery{
		Window: q.window, Explicit: q.explicit, Now: q.now, MaxSampleAge: o.maxSampleAge, Demo: q.demo,
	})
	if err != nil {
		return err
	}
	return g.writeFigures(what, r, q.format, r.Reason)
}
