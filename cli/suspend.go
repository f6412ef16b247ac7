package cli

import (
	"github.com/spf13/cobra"

	"spotinference/ledger/report"
	"spotinference/server/control"
)

func newSuspend(g *global) *cobra.Command {
	return newControl(g, control.CallSuspend, "Suspend the engine now", `Suspends the engine of the serve that runs with this ledger, as it would be by
itself after --idle without a request. The next request wakes it. While requests
run this is refused.

Note: `+report.SuspendedBill+".")
}
