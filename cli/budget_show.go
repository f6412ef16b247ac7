package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"spotinference/budget"
	"spotinference/server"
	"spotinference/server/control"
)

type budgetShowOptions struct {
	budgetOptions
	outputOptions
}

func newBudgetShow(g *global) *cobra.Command {
	var o budgetShowOptions
	c := &cobra.Command{
		Use:   "show",
		Short: "How far the budgets are spent, and what lifts them",
		Long: `Asks the serve that runs with this ledger. Where none runs, the ledger is read, and
the budgets are those of this command's flags and settings.`,
		Args: noWords,
		RunE: g.run(func(ctx context.Context) error { return runBudgetShow(ctx, g, o) }),
	}
	f := flagsOf(c)
	o.budgetOptions.addFlags(f)
	o.outputOptions.addFlags(f)
	return c
}

func runBudgetShow(ctx context.Context, g *global, o budgetShowOptions) error {
	const what = "budget show"
	terms, err := o.terms(what)
	if err != nil {
		return err
	}
	asJSON, err := o.json(what)
	if err != nil {
		return err
	}
	path, err := g.ledgerPath()
	if err != nil {
		return err
	}
	var got control.Budget
	err = control.Call(ctx, control.Path(path), control.BudgetShow, nil, &got)
	if errors.Is(err, control.ErrNobody) {
		got, err = g.readBudget(terms)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if asJSON {
		return writeJSON(g.stdout, got)
	}
	if len(got.Budgets) == 0 && got.SampledAt == nil {
		fmt.Fprintln(g.stdout, "bill     never seen")
	} else if len(got.Budgets) == 0 {
		fmt.Fprintln(g.stdout, "budget   none")
	}
	writeBudget(g.stdout, got, g.now())
	return nil
}

// readBudget is what the ledger alone tells.
func (g *global) readBudget(terms budget.Terms) (b control.Budget, err error) {
	r, err := g.openReader()
	if err != nil {
		return b, err
	}
	defer r.Close()
	now := g.now()
	st, known, err := budget.Evaluate(r, terms, now)
	if err != nil {
		return b, err
	}
	return server.BudgetStatus(r, st, known, now)
}
