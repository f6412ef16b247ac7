package cli

import (
	"context"
	"errors"
	"io/fs"

	"github.com/spf13/cobra"

	"spotinference/internal/hint"
	"spotinference/ledger"
)

func newLedgerBackup(g *global) *cobra.Command {
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
		RunE: g.runWords(func(ctx context.Context, words []string) error { return runLedgerBackup(ctx, g, words[0]) }),
	}
}

func runLedgerBackup(ctx context.Context, g *global, to string) error {
	r, err := g.openReader()
	if err != nil {
		return err
	}
	defer r.Close()
	ctx, stop := untilSignal(ctx)
	defer stop()
	err = r.Backup(ctx, to)
	switch {
	case errors.Is(err, fs.ErrExist):
		return hint.Wrap(err, "name a file that is not there: none is written over")
	case errors.Is(err, fs.ErrNotExist):
		return hint.Wrap(err, "name a file in a directory that is there")
	case errors.Is(err, ledger.ErrInUse):
		return hint.Wrap(err, "stop serve first")
	}
	return err
}
