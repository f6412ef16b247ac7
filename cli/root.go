package cli

import (
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"

	"spotinference/server/engine"
	"spotinference/server/engine/sim"
)

// newRoot makes the tree of commands.
func newRoot(stdout, stderr io.Writer) *cobra.Command {
	g := &global{stdout: stdout, stderr: stderr, now: clock}
	root := &cobra.Command{
		Use:   "spotinference",
		Short: "Serve a model from a rented GPU box, and know what a token costs",
		Long: `Serve a model from a rented GPU box, and know what a token costs

Begin without a GPU, an account or a model: spotinference serve --demo
Then put it in front of the command that you run already:
  spotinference serve --provider hyperstack --budget 40 -- llama-server -m model.gguf
See what a million output tokens cost: spotinference report cost`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
		RunE:          showHelp,
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetVersionTemplate("spotinference {{.Version}}\n")
	root.SetUsageFunc(usage)
	root.SetHelpFunc(help)
	root.SetFlagErrorFunc(flagError)
	g.addFlags(flags{set: root.PersistentFlags()})

	root.AddCommand(
		newServe(g),
		newStatus(g),
		parent("report", "What the ledger says", newReportCost(g), newReportUsage(g), newReportWakes(g), newReportGPU(g),
			newReportMeter(g), newReportEvents(g), newReportReconcile(g)),
		parent("budget", "What may be spent, and what is", newBudgetShow(g), newBudgetOverride(g)),
		parent("key", "API keys: who may use this gateway, and how much", newKeyCreate(g), newKeyList(g), newKeyRevoke(g)),
		newSuspend(g),
		newWake(g),
		parent("billing", "Look at the provider's bill", newBillingCheck(g), newBillingProbe(g)),
		parent("ledger", "Look after the ledger itself", newLedgerVerify(g), newLedgerBackup(g), newLedgerExport(g), newLedgerAcceptLoss(g)),
		newVersion(g),
		newMan(g),
		hidden("guard", engine.Guard),
		hidden("sim-engine", sim.Main),
	)
	cobra.EnableCommandSorting = false
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	completion, _, _ := root.Find([]string{"completion"})
	completion.Short = "Print the script that completes commands and flags in your shell"
	refuseWords(root)
	return root
}

// showHelp is what a command does that has only subcommands.
func showHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// parent is a command that has only subcommands.
func parent(use, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, RunE: showHelp}
	c.AddCommand(children...)
	return c
}

// hidden is a command that only we start. Its arguments are its own to parse.
func hidden(use string, main func(args []string) int) *cobra.Command {
	return &cobra.Command{
		Use: use, Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if code := main(args); code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
}

// noWords is the Args of a command that takes flags only.
func noWords(cmd *cobra.Command, words []string) error {
	if len(words) > 0 {
		return usagef("see "+cmd.CommandPath()+" --help", "%s: unexpected %q", cmd.CommandPath(), words[0])
	}
	return nil
}

// refuseWords has each command that has only subcommands refuse a word that is none of
// them; so does help.
func refuseWords(root *cobra.Command) {
	helpCommand, _, _ := root.Find([]string{"help"})
	helpCommand.Args = func(_ *cobra.Command, words []string) error {
		if at, rest, err := root.Find(words); err != nil || len(rest) > 0 {
			return noCommand(at, words[len(words)-1])
		}
		return nil
	}
	for _, c := range append(root.Commands(), root) {
		if c.HasSubCommands() {
			c.Args = func(cmd *cobra.Command, words []string) error {
				if len(words) > 0 {
					return noCommand(cmd, words[0])
				}
				return nil
			}
		}
	}
}

// noCommand says that a word is no command, and which one was meant, perhaps.
func noCommand(of *cobra.Command, word string) error {
	help := "see " + of.CommandPath() + " --help"
	of.SuggestionsMinimumDistance = 2
	if near := of.SuggestionsFor(word); len(near) > 0 {
		help = "did you mean " + of.CommandPath() + " " + near[0] + "?"
	}
	return usagef(help, "%s: no such command: %q", of.CommandPath(), word)
}

// version is the module's version where the binary was installed as one, else the
// commit that it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (info.Main.Version == "" || info.Main.Version == "(devel)") {
			return s.Value
		}
	}
	return info.Main.Version
}
