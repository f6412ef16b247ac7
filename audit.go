package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"spotinference/ledger"
	"spotinference/ledger/report"
)

// The commands that look after the ledger itself: prove it, copy it, hand out its rows,
// and tell what happened. They read; serve may run beside them.

func newLedgerVerify() *cobra.Command {
	const what = "ledger verify"
	c := &cobra.Command{
		Use:   "verify",
		Short: "Prove that nothing in the ledger was changed, removed or put in by hand",
		Long: `Reads the whole ledger and names what does not fit: a row that was changed, removed
or put in by hand, links of its chain that are gone, sums that their rows do not make.
Whether its newest rows were cut off, or all of it was made anew, shows only to who
noted a head of the chain before and names it with --head; every report prints one.`,
		Example: `  spotinference ledger verify
  spotinference ledger verify --head 3f9c2a5d0b7e8c61
  spotinference ledger verify --ledger copy.db`,
		Args: noWords,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			asJSON, err := textOrJSON(s, what)
			if err != nil {
				return err
			}
			heads, err := cmd.Flags().GetStringSlice("head")
			if err != nil {
				return err
			}
			for _, h := range heads {
				if err := ledger.CheckHead(h); err != nil {
					return usagef("copy it from a report: 16 digits, or all 64", "%s: %w", what, err)
				}
			}
			r, err := openReader(s)
			if err != nil {
				return err
			}
			defer r.Close()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			v, err := r.Verify(ctx, heads...)
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), verifiedOf(v, s.on("demo")))
			} else {
				err = writeVerified(cmd.OutOrStdout(), v, heads, s.on("demo"))
			}
			if err == nil && len(v.Problems) > 0 {
				err = &hintedError{fmt.Errorf("%s: what does not fit: %s; the first: %s", what, foundText(len(v.Problems)), v.Problems[0]),
					"compare it with a copy from before: spotinference ledger verify --ledger COPY"}
			}
			return err
		},
	}
	f := c.Flags()
	f.StringSlice("head", nil, "a head noted earlier, or its first 16 digits, that must be in the chain; again for more")
	f.String("output", "text", "text or json")
	return c
}

// proven is a verification as ledger verify writes it.
type proven struct {
	OK       bool             `json:"ok"`
	Problems []string         `json:"problems"`
	Rows     map[string]int64 `json:"rows"`
	Chain    report.Chain     `json:"chain"`
	Demo     bool             `json:"demo"`
}

func verifiedOf(v ledger.Verification, demo bool) proven {
	return proven{OK: len(v.Problems) == 0, Problems: append([]string{}, v.Problems...), Rows: v.Rows,
		Chain: report.Chain{Head: v.Chain.Head.String(), Links: v.Chain.Links}, Demo: demo}
}

func writeVerified(w io.Writer, v ledger.Verification, heads []string, demo bool) error {
	var b strings.Builder
	if demo {
		b.WriteString("demo: simulated figures\n")
	}
	for _, p := range v.Problems {
		b.WriteString(p + "\n")
	}
	if len(v.Problems) == 0 {
		var rows int64
		for _, n := range v.Rows {
			rows += n
		}
		fmt.Fprintf(&b, "Verified: %d rows in %d links, and every sum of them.\n", rows, v.Chain.Links)
		for _, h := range heads {
			fmt.Fprintf(&b, "Head %s is in the chain: what was there then is there still.\n", h)
		}
	}
	fmt.Fprintf(&b, "Ledger: head %s, of %s.\n", v.Chain.Head, v.Chain.At.Format(time.RFC3339))
	_, err := io.WriteString(w, b.String())
	return err
}

// foundText says how many problems were found, and not that there are no more where
// Verify named as many as it does.
func foundText(n int) string {
	if n >= ledger.MaxProblems {
		return fmt.Sprintf("%d or more", n)
	}
	return strconv.Itoa(n)
}

func newLedgerBackup() *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a consistent copy of the ledger, also while serve runs",
		Long: `Writes the ledger, as it is at one instant, to FILE, which may not be there yet. serve
goes on meanwhile; on a network volume, where it could not, it must be stopped. The
copy is a ledger like any other: name it with --ledger.`,
		Example: "  spotinference ledger backup /backup/ledger-$(date +%F).db",
		Args: func(cmd *cobra.Command, words []string) error {
			if len(words) != 1 {
				return usagef("see "+cmd.CommandPath()+" --help", "%s: want one FILE, not %d", cmd.CommandPath(), len(words))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			s, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			r, err := openReader(s)
			if err != nil {
				return err
			}
			defer r.Close()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			err = r.Backup(ctx, words[0])
			switch {
			case errors.Is(err, fs.ErrExist):
				return &hintedError{err, "name a file that is not there: none is written over"}
			case errors.Is(err, fs.ErrNotExist):
				return &hintedError{err, "name a file in a directory that is there"}
			case errors.Is(err, ledger.ErrInUse):
				return &hintedError{err, "stop serve first"}
			}
			return err
		},
	}
}

func newLedgerExport() *cobra.Command {
	const what = "ledger export"
	c := &cobra.Command{
		Use:   "export",
		Short: "Print the ledger's rows as CSV or as JSON, an object a line",
		Long: `Prints a row for each request, line of a sample, failed sample, event, reading of the
engine's counters or minute of a card, from the oldest on. Times are UTC, durations
microseconds, amounts exact decimal text; what is not known is null, in CSV empty.`,
		Example: `  spotinference ledger export --output csv > requests.csv
  spotinference ledger export --table samples --window 30d --output json`,
		Args: noWords,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			table, err := report.ParseExportTable(s.text("table"))
			if err != nil {
				return usagef(hintFor(err), "%s: %w", what, err)
			}
			format := report.Format(s.text("output"))
			if format != report.CSV && format != report.JSON {
				return usagef("use csv or json", "%s: format %q: rows are not written so", what, format)
			}
			w := report.All()
			until, explicit, err := report.ParseUntil(s.text("until"), clock())
			if err != nil {
				return usagef(hintFor(err), "%w", err)
			}
			if explicit {
				w.To = until
			}
			if text := s.text("window"); text != "all" {
				span, err := report.ParseWindow(text)
				if err != nil {
					return usagef(hintFor(err)+", or all", "%w", err)
				}
				w.From = until.Add(-span)
			}
			r, err := openReader(s)
			if err != nil {
				return err
			}
			defer r.Close()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return report.Export(ctx, r, table, w, s.on("demo"), cmd.OutOrStdout(), format)
		},
	}
	f := c.Flags()
	f.String("table", "requests", strings.Join(report.ExportTables(), ", "))
	f.String("window", "all", "how far back to look: a duration such as 24h, days such as 7d, or all")
	f.String("until", "now", "where the window ends: now, or a time such as 2026-11-23T12:00:00Z")
	f.String("output", "csv", "csv or json")
	return c
}

func newReportEvents() *cobra.Command {
	c := &cobra.Command{
		Use:   "events",
		Short: "What happened: to the engine, the gate, the keys, the bill",
		Example: `  spotinference report events --window 1h
  spotinference report events --window 7d --kind gate,sample --output csv`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := ask(cmd, clock())
			if err != nil {
				return err
			}
			defer q.ledger.Close()
			kinds, err := cmd.Flags().GetStringSlice("kind")
			if err != nil {
				return err
			}
			if q.format == report.SVG {
				return usagef("use text, json or csv", "report events: format svg: it has no drawing")
			}
			e, err := report.Events(cmd.Context(), q.ledger, q.window, kinds, q.demo)
			if errors.Is(err, report.ErrQuestion) {
				return usagef(hintFor(err), "%w", err)
			}
			if err != nil {
				return err
			}
			return e.Write(cmd.OutOrStdout(), q.format)
		},
	}
	addWindow(c)
	c.Flags().StringSlice("kind", nil, "only these: "+strings.Join(report.EventKinds(), ", "))
	return c
}
