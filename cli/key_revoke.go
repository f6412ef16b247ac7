package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"spotinference/ledger"
	"spotinference/server/control"
)

func newKeyRevoke(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME|ID",
		Short: "End an API key at once",
		Long: `Ends an API key: from now on it is refused, also by a serve that runs. An answer that
runs is finished. There is no way back.`,
		Args: func(_ *cobra.Command, words []string) error {
			if len(words) != 1 {
				return usagef("spotinference key list shows names and ids", "key revoke: name one key")
			}
			return nil
		},
		RunE: g.runWords(func(ctx context.Context, words []string) error { return runKeyRevoke(ctx, g, words[0]) }),
	}
}

// runKeyRevoke ends the key that word names, by its name or id.
func runKeyRevoke(ctx context.Context, g *global, word string) error {
	var k ledger.Key
	err := changeKeys(ctx, g, control.KeyRevoke, word, &k, func(led *ledger.Ledger) (err error) {
		k, err = led.RevokeKey(word, g.now())
		return err
	})
	if err != nil {
		return fmt.Errorf("key revoke: %w", err)
	}
	_, err = fmt.Fprintf(g.stdout, "%s %s revoked\n", k.Name, k.ID)
	return err
}
