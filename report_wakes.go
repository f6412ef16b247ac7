package main

import (
	"github.com/spf13/cobra"

	"spotinference/ledger/report"
)

func newReportWakes() *cobra.Command {
	c := &cobra.Command{
		Use:   "wakes",
		Short: "How the engine was woken, what each wake was made of, and its share of the bill",
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := ask(cmd, clock())
			if err != nil {
				return err
			}
			defer q.ledger.Close()
			age, err := sampleAge(cmd, "report wakes")
			if err != nil {
				return err
			}
			w, err := report.Wakes(q.ledger, report.WakesQuery{
				Window: q.window, Explicit: q.explicit, Now: q.now, MaxSampleAge: age, Demo: q.demo,
			})
			if err != nil {
				return err
			}
			if err := w.Write(cmd.OutOrStdout(), q.format); err != nil {
				return err
			}
			if w.Refused() {
				return errRefused{"report wakes: no figure: " + w.Reason}
			}
			return nil
		},
	}
	addWindow(c)
	addSampleAge(c)
	return c
}
