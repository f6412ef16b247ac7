package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/ledger/report"
)

type ledgerVerifyOptions struct {
	outputOptions
	heads []string
}

func newLedgerVerify(g *global) *cobra.Command {
	var o ledgerVerifyOptions
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
		RunE: g.run(func(ctx context.Context) error { return runLedgerVerify(ctx, g, o) }),
	}
	f := flagsOf(c)
	f.list(&o.heads, "head", "a head noted earlier, or its first 16 digits, that must be in the chain; again for more")
	o.addFlags(f)
	return exits(c, "1  something does not fit, or it failed")
}

func runLedgerVerify(ctx context.Context, g *global, o ledgerVerifyOptions) error {
	const what = "ledger verify"
	asJSON, err := o.json(what)
	if err != nil {
		return err
	}
	for _, h := range o.heads {
		if err := ledger.CheckHead(h); err != nil {
			return usagef("copy it from a report: 16 digits, or all 64", "%s: %w", what, err)
		}
	}
	r, err := g.openReader()
	if err != nil {
		return err
	}
	defer r.Close()
	ctx, stop := untilSignal(ctx)
	defer stop()
	v, err := r.Verify(ctx, o.heads...)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if asJSON {
		err = writeJSON(g.stdout, verifiedOf(v, g.demo))
	} else {
		err = writeVerified(g.stdout, v, o.heads, g.demo)
	}
	if err == nil && len(v.Problems) > 0 {
		err = hint.Errorf("compare it with a copy from before: spotinference ledger verify --ledger COPY",
			"%s: what does not fit: %s; the first: %s", what, foundText(len(v.Problems)), v.Problems[0])
	}
	return err
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
