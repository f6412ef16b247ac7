package cli

import (
	"context"

	"github.com/spf13/cobra"

	"spotinference/ledger/report"
)

type reportCostOptions struct {
	windowOptions
	ageOptions
	bucket, by string
	explain    bool
}

func newReportCost(g *global) *cobra.Command {
	var o reportCostOptions
	c := &cobra.Command{
		Use:   "cost",
		Short: "What was spent, by the provider's own bill, and what a million output tokens cost",
		Example: `  spotinference report cost --window 7d --bucket 24h
  spotinference report cost --by model
  spotinference report cost --window 1h --explain
  spotinference report cost --window 7d --output svg > cost.svg`,
		Args: noWords,
		RunE: g.run(func(ctx context.Context) error { return runReportCost(ctx, g, o) }),
	}
	f := flagsOf(c)
	o.windowOptions.addFlags(f)
	o.ageOptions.addFlags(f)
	c.Flags().Lookup("output").Usage = "text, json, csv or svg"
	f.text(&o.bucket, "bucket", "auto", "cut the window into buckets such as 1h or 7d; none; auto: an hour where the window is longer than two")
	f.text(&o.by, "by", "", "divide by model or key, too")
	f.on(&o.explain, "explain", "show the samples, the provider's replies and the subtraction, to check by hand")
	return exits(c, refuses3)
}

func runReportCost(_ context.Context, g *global, o reportCostOptions) error {
	const what = "report cost"
	q, err := g.ask(o.windowOptions)
	if err != nil {
		return err
	}
	defer q.ledger.Close()
	if err := o.check(what); err != nil {
		return err
	}
	bucket, err := report.ParseBucket(o.bucket)
	if err != nil {
		return usageError{err}
	}
	by, err := report.ParseBy(o.by)
	if err != nil {
		return usageError{err}
	}
	switch {
	case o.explain && q.format != report.Text:
		return usagef("leave out --output, or --explain", "report cost: --explain is text only")
	case by != report.ByNothing && bucket > 0 && q.format == report.CSV:
		return usagef("leave out --by or --bucket, or use --output json", "report cost: a CSV holds one table")
	}
	cost, err := report.Cost(q.ledger, report.CostQuery{
		Window: q.window, Explicit: q.explicit, Now: q.now, MaxSampleAge: o.maxSampleAge, Demo: q.demo,
		Bucket: bucket, Chart: q.format == report.SVG, By: by, Proof: o.explain,
	})
	if err != nil {
		return asked(err)
	}
	return g.writeFigures(what, cost, q.format, cost.Reason)
}
