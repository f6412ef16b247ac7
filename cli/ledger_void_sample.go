package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"spotinference/ledger"
	"spotinference/server/control"
)

func newLedgerVoidSample(g *global) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "void-sample ID --reason TEXT",
		Short: "Take a sample of the bill out of every sum",
		Long: `Takes one sample of the bill out of every figure: one that was read wrongly, or under
a clock that was ahead, which keeps the gate closed until that time has come. report
cost --explain shows the numbers of samples, and so does ledger export --table samples.
The sample stays in the ledger, and so does this word. A budget counts on what it has
counted, unless the sample lies ahead of the clock. It works with and without a serve
that runs.`,
		Example: `  spotinference ledger void-sample 4711 --reason "the clock was in 2038"`,
		Args: func(cmd *cobra.Command, words []string) error {
			if len(words) != 1 {
				return usagef("see "+cmd.CommandPath()+" --help", "%s: want one ID, not %d", cmd.CommandPath(), len(words))
			}
			return nil
		},
		RunE: g.runWords(func(ctx context.Context, words []string) error { return runLedgerVoidSample(ctx, g, words[0], reason) }),
	}
	f := flagsOf(c)
	f.text(&reason, "reason", "", "why: it stays in the ledger")
	f.once("reason")
	return c
}

func runLedgerVoidSample(ctx context.Context, g *global, word, reason string) error {
	const what = "ledger void-sample"
	id, err := strconv.ParseInt(word, 10, 64)
	if err != nil || id < 1 {
		return usagef("spotinference report cost --explain shows the numbers of samples", "%s: %q: not the number of a sample", what, word)
	}
	if reason, err = checkReason(what, what+" ID", reason); err != nil {
		return err
	}
	path, err := g.ledgerPath()
	if err != nil {
		return err
	}
	call := control.VoidSampleCall{Sample: id, Reason: reason}
	var got control.VoidedSample
	err = control.Call(ctx, control.Path(path), control.VoidSample, call, &got)
	if errors.Is(err, control.ErrNobody) {
		err = g.writeAlone(path, func(led *ledger.Ledger) error {
			v, err := led.VoidSample(call.Sample, call.Reason)
			got.At = v.Sample.At
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	_, err = fmt.Fprintf(g.stdout, "sample #%d of %s is in no sum any more\n", id, got.At.Format(time.RFC3339))
	return err
}
