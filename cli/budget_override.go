package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"spotinference/ledger"
	"spotinference/server"
	"spotinference/server/control"
)

type budgetOverrideOptions struct {
	long           time.Duration
	reason, amount string
	end            bool
}

func newBudgetOverride(g *global) *cobra.Command {
	var o budgetOverrideOptions
	c := &cobra.Command{
		Use:   "override --for 2h --reason TEXT [--amount N] | --end",
		Short: "Lift the budget for a while",
		Long: `Lets the gate open although a budget is spent: for a while, a day at most, and with
--amount only until so much more is spent, less the headroom. It is written to the
ledger before it counts, stays there, and is shown by status and by every report whose
window it touches. It works with and without a serve that runs.

It lifts a budget that is spent, and nothing else: while the bill cannot be seen the
gate stays closed.`,
		Example: `  spotinference budget override --for 2h --reason "the demo at the fair" --amount 10
  spotinference budget override --end`,
		Args: noWords,
		RunE: g.run(func(ctx context.Context) error { return runBudgetOverride(ctx, g, o) }),
	}
	f := flagsOf(c)
	f.span(&o.long, "for", 0, "how long, a day at most")
	f.text(&o.reason, "reason", "", "why: it stays in the ledger")
	f.amount(&o.amount, "amount", "", "how much more may be spent; as much as comes where it is left out")
	f.on(&o.end, "end", "end the override that is in force")
	f.once("for", "reason", "amount", "end") // it is somebody's word, once: no setting may say it
	return c
}

func runBudgetOverride(ctx context.Context, g *global, o budgetOverrideOptions) error {
	call, err := o.call()
	if err != nil {
		return err
	}
	path, err := g.ledgerPath()
	if err != nil {
		return err
	}
	var got control.Overridden
	err = control.Call(ctx, control.Path(path), control.Override, call, &got)
	if errors.Is(err, control.ErrNobody) {
		err = g.writeAlone(path, func(led *ledger.Ledger) error {
			o, err := server.ApplyOverride(led, call)
			got = o
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("budget override: %w", err)
	}
	switch {
	case call.End:
		fmt.Fprintln(g.stdout, "the override is over")
	case got.Amount != nil:
		fmt.Fprintf(g.stdout, "the budget is lifted until %s, for %s more\n", got.Until.Format(time.RFC3339), *got.Amount)
	default:
		fmt.Fprintf(g.stdout, "the budget is lifted until %s\n", got.Until.Format(time.RFC3339))
	}
	return nil
}

// call is what the flags ask for.
func (o budgetOverrideOptions) call() (c control.OverrideCall, err error) {
	const form = `spotinference budget override --for 2h --reason "why"`
	c.Reason, c.For, c.End = strings.TrimSpace(o.reason), o.long, o.end
	if c.End {
		if c.For != 0 || c.Reason != "" || o.amount != "" {
			return c, usagef("leave out all else", "budget override: --end has no other flag")
		}
		return c, nil
	}
	if o.amount != "" {
		n, err := ledger.ParseNanos(o.amount)
		if err != nil || n <= 0 {
			return c, usagef("give an amount such as --amount 10", "budget override: amount %q: not an amount of money", o.amount)
		}
		c.Amount = &n
	}
	switch {
	case c.For == 0:
		return c, usagef(form, "budget override: --for is missing")
	case c.For < 0 || c.For > ledger.MaxOverride:
		return c, usagef("give a duration of 24h at most; it can be lifted again after that", "budget override: --for %s: not within a day", c.For)
	}
	c.Reason, err = checkReason("budget override", "budget override --for 2h", c.Reason)
	return c, err
}
