package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"spotinference/internal/hint"
	"spotinference/ledger"
)

func newLedgerAcceptLoss(g *global) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "accept-loss --reason TEXT",
		Short: "Go on with a ledger that has lost rows",
		Long: `Beside the ledger stands a small file, its head, that names the newest rows that were
committed. serve does not start with a ledger that lacks them: its -wal was removed or
damaged, a backup was put in its place, or the whole file is gone. Put back what is
there still, or say with this command that the ledger goes on without: it is written
into the ledger, and stays there. Where no ledger is, a new one is begun, without the
API keys of the old one.`,
		Example: `  spotinference ledger accept-loss --reason "the disk broke, this is the backup of Monday"`,
		Args:    noWords,
		RunE:    g.run(func(context.Context) error { return runLedgerAcceptLoss(g, reason) }),
	}
	f := flagsOf(c)
	f.text(&reason, "reason", "", "why: it stays in the ledger")
	f.once("reason")
	return c
}

func runLedgerAcceptLoss(g *global, reason string) error {
	const what = "ledger accept-loss"
	reason, err := checkReason(what, what, reason)
	if err != nil {
		return err
	}
	path, err := g.ledgerPath()
	if err != nil {
		return err
	}
	loss, err := ledger.AcceptLoss(ledger.Config{Path: path, Demo: g.demo, Now: g.now, Log: newLog(g.stderr, false)}, reason)
	switch {
	case errors.Is(err, ledger.ErrInUse):
		return hint.Wrap(fmt.Errorf("%s: %w", what, err), "stop serve first")
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	}
	_, err = fmt.Fprintf(g.stdout, "the ledger goes on without what is lost: %s\n", loss)
	return err
}
