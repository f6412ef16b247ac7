package cli

import (
	"context"

	"github.com/spf13/cobra"

	"spotinference/ledger/report"
)

type reportUsageOptions struct{ windowOptions }

func newReportUsage(g *global) *cobra.Command {
	var o reportUsageOptions
	c := &cobra.Command{
		Use:   "usage",
		Short: "Requests and tokens that were served",
		Args:  noWords,
		RunE:  g.run(func(ctx context.Context) error { return runReportUsage(ctx, g, o) }),
	}
	o.addFlags(flagsOf(c))
	return c
}

func runReportUsage(_ context.Context, g *global, o reportUsageOptions) error {
	q, err := g.ask(o.windowOptions)
	if err != nil {
		return err
	}
	defer q.ledger.Close()
	u, err := report.Usage(q.ledger, q.window, q.demo)
	if err != nil {
		return err
	}
	return u.Write(g.stdout, q.format)
}
