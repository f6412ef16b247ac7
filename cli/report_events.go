package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"spotinference/ledger/report"
)

type reportEventsOptions struct {
	windowOptions
	kinds []string
}

func newReportEvents(g *global) *cobra.Command {
	var o reportEventsOptions
	c := &cobra.Command{
		Use:   "events",
		Short: "What happened: to the engine, the gate, the keys, the bill",
		Example: `  spotinference report events --window 1h
  spotinference report events --window 7d --kind gate,sample --output csv`,
		Args: noWords,
		RunE: g.run(func(ctx context.Context) error { return runReportEvents(ctx, g, o) }),
	}
	f := flagsOf(c)
	o.addFlags(f)
	f.list(&o.kinds, "kind", "only these: "+strings.Join(report.EventKinds(), ", "))
	return c
}

func runReportEvents(ctx context.Context, g *global, o reportEventsOptions) error {
	q, err := g.ask(o.windowOptions)
	if err != nil {
		return err
	}
	defer q.ledger.Close()
	if q.format == report.SVG {
		return usagef("use text, json or csv", "report events: format svg: it has no drawing")
	}
	e, err := report.Events(ctx, q.ledger, q.window, o.kinds, q.demo)
	if err != nil {
		return asked(err)
	}
	return e.Write(g.stdout, q.format)
}
