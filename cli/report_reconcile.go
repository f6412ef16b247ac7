package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"spotinference/billing"
	"spotinference/ledger"
	"spotinference/ledger/report"
)

type reportReconcileOptions struct {
	invoice, layout, columns, tolerance, format string
}

func newReportReconcile(g *global) *cobra.Command {
	var o reportReconcileOptions
	c := &cobra.Command{
		Use:   "reconcile --invoice FILE",
		Short: "Hold the provider's own invoice against the ledger, by resource and day",
		Long: `Reads the provider's invoice or usage export (CSV with a header) and compares each
resource's day, in UTC, with what the ledger saw the bill grow by. Each is equal, or
different with its likely cause, or dark: the ledger did not see that day's midnights.`,
		Example: `  spotinference report reconcile --invoice usage.csv
  spotinference report reconcile --invoice usage.csv --columns resource=Item,day=Date,amount=Total,currency=Currency`,
		Args: noWords,
		RunE: g.run(func(ctx context.Context) error { return runReportReconcile(ctx, g, o) }),
	}
	f := flagsOf(c)
	f.text(&o.invoice, "invoice", "", "the provider's invoice or usage export, a CSV file with a header")
	f.text(&o.layout, "format", "", "whose layout it has: "+strings.Join(billing.Layouts(), ", ")+" (default: that of the ledger's provider)")
	f.text(&o.columns, "columns", "", "the names of its columns: resource=...,day=...,amount=... and, where it has one, currency=...")
	f.amount(&o.tolerance, "tolerance", "0.01", "by how much a resource's day may differ and count as equal, in the bill's currency")
	f.text(&o.format, "output", "text", "text, json or csv")
	return exits(c, "0  all that was compared is equal", "1  something differs, or it failed",
		"3  nothing differs, but the ledger cannot say it of every day")
}

func runReportReconcile(_ context.Context, g *global, o reportReconcileOptions) error {
	const what = "report reconcile"
	if o.invoice == "" {
		return usagef("download it from the provider's console and name it with --invoice FILE", "%s: no invoice", what)
	}
	format, err := report.ParseFormat(o.format)
	if err != nil {
		return usagef("", "%s: %w", what, err)
	}
	tolerance, err := ledger.ParseNanos(o.tolerance)
	if err != nil || tolerance < 0 {
		return usagef("give an amount such as 0.01", "%s: tolerance %q: not an amount of money", what, o.tolerance)
	}
	r, err := g.openReader()
	if err != nil {
		return err
	}
	defer r.Close()
	invoice, err := readInvoice(o, r)
	if err != nil {
		return err
	}
	q := report.ReconcileQuery{Currency: invoice.Currency, Tolerance: tolerance, Now: g.now(), Demo: g.demo}
	for _, l := range invoice.Lines {
		q.Invoice = append(q.Invoice, report.Billed(l))
	}
	rep, err := report.Reconcile(r, q)
	if err != nil {
		return err
	}
	if err := rep.Write(g.stdout, format); err != nil {
		return err
	}
	switch {
	case rep.Different > 0:
		return fmt.Errorf("%s: %d of %d rows differ", what, rep.Different, len(rep.Rows))
	case rep.Dark > 0:
		return refusedError{fmt.Sprintf("%s: the ledger cannot say %d of %d rows", what, rep.Dark, len(rep.Rows))}
	}
	return nil
}

// readInvoice reads the invoice in the layout that the flags name or, where they name
// none, in that of the ledger's provider.
func readInvoice(o reportReconcileOptions, r *ledger.Reader) (billing.Invoice, error) {
	const what = "report reconcile"
	var layout billing.Layout
	var err error
	name := o.layout
	switch {
	case o.columns != "" && name != "" && name != "generic":
		return billing.Invoice{}, usagef("leave one of them out", "%s: --format %s and --columns both say how to read it", what, name)
	case o.columns != "":
		layout, err = billing.ParseLayout(o.columns)
	case name != "":
		layout, err = billing.InvoiceLayout(name)
	default:
		if name, err = r.Provider(); err != nil {
			return billing.Invoice{}, err
		}
		if layout, err = billing.InvoiceLayout(name); err != nil {
			return billing.Invoice{}, usagef("name its layout with --format, or its columns with --columns", "%s: no layout is known for the invoice of provider %q", what, name)
		}
	}
	if err != nil {
		return billing.Invoice{}, usagef("", "%s: %w", what, err)
	}
	f, err := os.Open(o.invoice)
	if err != nil {
		return billing.Invoice{}, usagef("name a file that can be read", "%s: %w", what, err)
	}
	defer f.Close()
	invoice, err := billing.ReadInvoice(f, layout)
	if err != nil {
		return billing.Invoice{}, fmt.Errorf("%s: %s: %w", what, o.invoice, err)
	}
	return invoice, nil
}
