package cli

import (
	"github.com/spf13/cobra"

	"spotinference/ledger/report"
)

func newReportMeter() *cobra.Command {
	c := &cobra.Command{
		Use:   "meter",
		Short: "The tokens counted here beside the engine's own counters",
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := ask(cmd, clock())
			if err != nil {
				return err
			}
			defer q.ledger.Close()
			m, err := report.Meter(q.ledger, q.window, q.demo)
			if err != nil {
				return err
			}
			return m.Write(cmd.OutOrStdout(), q.format)
		},
	}
	addWindow(c)
	return c
}
