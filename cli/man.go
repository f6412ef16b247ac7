package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"spotinference/internal/hint"
)

func newMan(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual, a page a command, into a directory",
		Example: "  spotinference man /usr/local/share/man/man1",
		Args: func(cmd *cobra.Command, words []string) error {
			if len(words) != 1 {
				return usagef("see "+cmd.CommandPath()+" --help", "%s: want one DIR, not %d", cmd.CommandPath(), len(words))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			if info, err := os.Stat(words[0]); err != nil || !info.IsDir() {
				return hint.Errorf("make it first: mkdir -p "+words[0], "man: %s: not a directory", words[0])
			}
			header := &doc.GenManHeader{Title: "SPOTINFERENCE", Section: "1", Source: "spotinference " + version()}
			if err := doc.GenManTree(cmd.Root(), header, words[0]); err != nil {
				return fmt.Errorf("man: %w", err)
			}
			return nil
		},
	}
}
