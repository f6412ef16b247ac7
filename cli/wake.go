package cli

import (
	"github.com/spf13/cobra"

	"spotinference/server/control"
)

func newWake(g *global) *cobra.Command {
	return newControl(g, control.CallWake, "Wake the engine now",
		"Wakes the engine of the serve that runs with this ledger, and waits until it is ready.")
}
