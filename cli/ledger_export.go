package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"spotinference/internal/hint"
	"spotinference/ledger/report"
)

type ledgerExportOptions struct{ table, window, until, format string }

func newLedgerExport(g *global) *cobra.Command {
	var o ledgerExportOptions
	c := &cobra.Command{
		Use:   "export",
		Short: "Print the ledger's rows as CSV or as JSON, an object a line",
		Long: `Prints a row for each request, line of a sample, failed sample, event, reading of the
engine's counters or minute of a card, from the oldest on. Times are UTC, durations
microseconds, amounts exact decimal text; what is not known is null, in CSV empty.`,
		Example: `  spotinference ledger export --output csv > requests.csv
  spotinference ledger export --table samples --window 30d --output json`,
		Args: noWords,
		RunE: g.run(func(ctx context.Context) error { return runLedgerExport(ctx, g, o) }),
	}
	f := flagsOf(c)
	f.text(&o.table, "table", "requests", strings.Join(report.ExportTables(), ", "))
	f.text(&o.window, "window", "all", "how far back to look: a duration such as 24h, days such as 7d, or all")
	f.text(&o.until, "until", "now", "where the window ends: now, or a time such as 2026-11-23T12:00:00Z")
	f.text(&o.format, "output", "csv", "csv or json")
	return c
}

func runLedgerExport(ctx context.Context, g *global, o ledgerExportOptions) error {
	const what = "ledger export"
	table, err := report.ParseExportTable(o.table)
	if err != nil {
		return usagef("", "%s: %w", what, err)
	}
	format := report.Format(o.format)
	if format != report.CSV && format != report.JSON {
		return usagef("use csv or json", "%s: format %q: rows are not written so", what, format)
	}
	w := report.All()
	until, explicit, err := report.ParseUntil(o.until, g.now())
	if err != nil {
		return usageError{err}
	}
	if explicit {
		w.To = until
	}
	if o.window != "all" {
		span, err := report.ParseWindow(o.window)
		if err != nil {
			return usagef(hint.Of(err)+", or all", "%w", err)
		}
		w.From = until.Add(-span)
	}
	r, err := g.openReader()
	if err != nil {
		return err
	}
	defer r.Close()
	ctx, stop := untilSignal(ctx)
	defer stop()
	return report.Export(ctx, r, table, w, g.demo, g.stdout, format)
}
