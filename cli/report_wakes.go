package cli

import (
	"context"

	"github.com/spf13/cobra"

	"spotinference/ledger/report"
)

type reportWakesOptions struct {
	windowOptions
	ageOptions
}

func newReportWakes(g *global) *cobra.Command {
	var o reportWakesOptions
	c := &cobra.Command{
		Use:   "wakes",
		Short: "How the engine was woken, what each wake was made of, and its share of the bill",
		Args:  noWords,
		RunE:  g.run(func(ctx context.Context) error { return runReportWakes(ctx, g, o) }),
	}
	f := flagsOf(c)
	o.windowOptions.addFlags(f)
	o.ageOptions.addFlags(f)
	return exits(c, refuses3)
}

func runReportWakes(_ context.Context, g *global, o reportWakesOptions) error {
	const what = "report wakes"
	if err := o.check(what); err != nil {
		return err
	}
	q, err := g.ask(o.windowOptions)
	if err != nil {
		return err
	}
	defer q.ledger.Close()
	w, err := report.Wakes(q.ledger, report.WakesQuery{
		Window: q.window, Explicit: q.explicit, Now: q.now, MaxSampleAge: o.maxSampleAge, Demo: q.demo,
	})
	if err != nil {
		return err
	}
	return g.writeFigures(what, w, q.format, w.Reason)
}
