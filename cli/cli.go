// Package cli is the command line: commands, flags, settings, exit codes and the texts
// that people read. It starts nothing itself: serve is package server's.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"spotinference/internal/hint"
	"spotinference/internal/socket"
	"spotinference/ledger"
	"spotinference/ledger/report"
	"spotinference/server/engine"
	"spotinference/server/engine/sim"
)

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
	exitRefused = 3 // a report that would have to guess
)

// usageError is a command line or a setting that cannot be used.
type usageError struct {
	error
	hint string
}

func (e *usageError) Unwrap() error { return e.error }
func (e *usageError) Hint() string  { return e.hint }

// hintedError is a failure with a hint of its own.
type hintedError struct {
	error
	hint string
}

func (e *hintedError) Unwrap() error { return e.error }
func (e *hintedError) Hint() string  { return e.hint }

func usagef(hint, format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), hint}
}

// textOrJSON reads the --output of a command that has these two.
func textOrJSON(s settings, what string) (asJSON bool, err error) {
	switch f := s.text("output"); f {
	case "text", "json":
		return f == "json", nil
	default:
		return false, usagef("use text or json", "%s: format %q: not a format", what, f)
	}
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// errRefused is a report that was printed and is a refusal.
type errRefused struct{ reason string }

func (e errRefused) Error() string { return e.reason }

// Main runs the command that args name and returns the process's exit code. Rules of
// the terminal: results go to stdout; everything else to stderr, as lower-case lines
// with our name before them; one line says what is wrong, one what to do about it.
func Main(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(context.Background())
	var code exitCode
	if err == nil {
		return 0
	} else if errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintf(stderr, "spotinference: error: %v\n", err)
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(stderr, "spotinference: hint: %s\n", hint)
	}
	var usage *usageError
	var refused errRefused
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &refused):
		return exitRefused
	}
	return exitFailure
}

// exitCode is the exit of a hidden command that has said all there is to say.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit %d", int(c)) }

// hintFor finds what to do about err, "" where nothing can be said.
func hintFor(err error) string {
	if h := hint.Of(err); h != "" {
		return h
	}
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	var refused *engine.Error
	if errors.As(err, &refused) {
		return refused.Hint
	}
	var question *report.Error
	if errors.As(err, &question) {
		return question.Hint
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, socket.ErrInUse):
		return "stop what listens there, or name another address with --listen"
	case errors.Is(err, ledger.ErrPlace):
		return "name another place with --ledger"
	case errors.Is(err, ledger.ErrInUse):
		return "stop the other serve, or give this one its own --ledger"
	case errors.Is(err, ledger.ErrOther):
		return "give this account a --ledger of its own, or use the account that the ledger is of"
	case errors.Is(err, ledger.ErrNewer):
		return "use the newer binary, or another --ledger"
	case errors.Is(err, ledger.ErrMissing):
		return "start spotinference serve first, or name the ledger with --ledger"
	case errors.Is(err, ledger.ErrAccess):
		return "ask as the user that runs serve: to read a ledger that may be in use, SQLite writes beside it"
	case errors.Is(err, ledger.ErrForeign):
		return "give --ledger a path of its own"
	case errors.Is(err, ledger.ErrDemo):
		return "--demo reads and writes the demo's ledger only, and no other command does"
	case errors.Is(err, ledger.ErrKeyName):
		return "choose another name, or end the old key first: spotinference key revoke NAME"
	case errors.Is(err, ledger.ErrNoKey):
		return "spotinference key list shows names and ids"
	case errors.Is(err, ledger.ErrLocks):
		return "put the ledger on a volume whose file system keeps locks"
	}
	return ""
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "spotinference",
		Short:         "Serve a model from a rented GPU box, and know what a token costs",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("spotinference {{.Version}}\n")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("see "+cmd.CommandPath()+" --help", "%w", err)
	})
	global := root.PersistentFlags()
	global.String("config", "", "settings file in TOML; else ./spotinference.toml, else $XDG_CONFIG_HOME/spotinference/config.toml")
	global.String("ledger", "", "the ledger's file (default $XDG_STATE_HOME/spotinference/ledger.db); put it on a volume that survives the machine")
	global.Bool("demo", false, "simulated engine, simulated provider, and a ledger of their own")

	root.AddCommand(
		newServe(),
		parent("report", "What the ledger says", newReportUsage(), newReportCost(), newReportGPU(), newReportReconcile(), newReportMeter(), newReportWakes(), newReportEvents()),
		parent("ledger", "Look after the ledger itself", newLedgerVerify(), newLedgerBackup(), newLedgerExport()),
		parent("billing", "Look at the provider's bill", newBillingCheck(), newBillingProbe()),
		parent("budget", "What may be spent, and what is", newBudgetShow(), newBudgetOverride()),
		parent("key", "API keys: who may use this gateway, and how much", newKeyCreate(), newKeyList(), newKeyRevoke()),
		newControl("status", "What the running serve is doing", "Asks the serve that runs with this ledger for its engine's state, the gate and the bill."),
		newControl("suspend", "Suspend the engine now", `Suspends the engine of the serve that runs with this ledger, as it would be by
itself after --idle without a request. The next request wakes it. While requests
run this is refused.

Note: `+report.SuspendedBill+"."),
		newControl("wake", "Wake the engine now", "Wakes the engine of the serve that runs with this ledger, and waits until it is ready."),
		hidden("guard", func(args []string) int { return engine.Guard(args) }),
		hidden("sim-engine", func(args []string) int { return sim.Main(args) }),
	)
	root.InitDefaultHelpCmd()
	help, _, _ := root.Find([]string{"help"})
	help.Args = func(_ *cobra.Command, words []string) error {
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
	return root
}

// noCommand says that a word is no command, and which one was meant, perhaps.
func noCommand(of *cobra.Command, word string) error {
	hint := "see " + of.CommandPath() + " --help"
	of.SuggestionsMinimumDistance = 2
	if near := of.SuggestionsFor(word); len(near) > 0 {
		hint = "did you mean " + of.CommandPath() + " " + near[0] + "?"
	}
	return usagef(hint, "%s: no such command: %q", of.CommandPath(), word)
}

// version is the module's version where the binary was installed as one, else
// the commit that it was built from.
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

func parent(use, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
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

// addWindow adds the flags that every report has.
func addWindow(c *cobra.Command) {
	c.Args = noWords
	f := c.Flags()
	f.String("window", "24h", "how far back to look: a duration such as 90m or 24h, or days such as 7d")
	f.String("until", "now", "where the window ends: now, or a time such as 2026-11-23T12:00:00Z")
	f.String("output", "text", "text, json or csv")
}

func noWords(cmd *cobra.Command, words []string) error {
	if len(words) > 0 {
		return usagef("see "+cmd.CommandPath()+" --help", "%s: unexpected %q", cmd.CommandPath(), words[0])
	}
	return nil
}

// question is what a report is asked.
type question struct {
	window   ledger.Window
	explicit bool
	now      time.Time
	format   report.Format
	demo     bool
	ledger   *ledger.Reader
}

func ask(cmd *cobra.Command, now time.Time) (q question, err error) {
	s, err := loadSettings(cmd)
	if err != nil {
		return q, err
	}
	span, err := report.ParseWindow(s.text("window"))
	if err != nil {
		return q, usagef(hintFor(err), "%w", err)
	}
	until, explicit, err := report.ParseUntil(s.text("until"), now)
	if err != nil {
		return q, usagef(hintFor(err), "%w", err)
	}
	format, err := report.ParseFormat(s.text("output"))
	if err != nil {
		return q, usagef(hintFor(err), "%w", err)
	}
	r, err := openReader(s)
	if err != nil {
		return q, err
	}
	return question{
		window: ledger.Window{From: until.Add(-span), To: until}, explicit: explicit, now: now,
		format: format, demo: s.on("demo"), ledger: r,
	}, nil
}

// openReader opens the ledger that the settings name.
func openReader(s settings) (*ledger.Reader, error) {
	path, err := ledgerPath(s)
	if err != nil {
		return nil, err
	}
	return openReaderAt(s, path)
}

// openReaderAt is openReader where the path is known.
func openReaderAt(s settings, path string) (*ledger.Reader, error) {
	r, err := ledger.OpenReader(path, s.on("demo"))
	if errors.Is(err, ledger.ErrMissing) {
		return nil, missingLedger(s, err)
	}
	return r, err
}

// missingLedger says what to do where there is no ledger yet.
func missingLedger(s settings, err error) error {
	if s.on("demo") {
		return &hintedError{err, "start spotinference serve --demo first"}
	}
	if maybeDemo(s) {
		return &hintedError{err, "for the demo's figures add --demo; real ones come after spotinference serve, or name the ledger with --ledger"}
	}
	return err
}

// maybeDemo tells whether who names no ledger may have meant the demo's: there is one.
func maybeDemo(s settings) bool {
	if s.on("demo") || s.text("ledger") != "" {
		return false
	}
	demo, err := ledgerPathOf(s, true)
	if err != nil {
		return false
	}
	_, err = os.Stat(demo)
	return err == nil
}

func newReportUsage() *cobra.Command {
	c := &cobra.Command{
		Use:   "usage",
		Short: "Requests and tokens that were served",
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := ask(cmd, clock())
			if err != nil {
				return err
			}
			defer q.ledger.Close()
			u, err := report.Usage(q.ledger, q.window, q.demo)
			if err != nil {
				return err
			}
			return u.Write(cmd.OutOrStdout(), q.format)
		},
	}
	addWindow(c)
	return c
}

func newReportCost() *cobra.Command {
	c := &cobra.Command{
		Use:   "cost",
		Short: "What was spent, by the provider's own bill, and what a million output tokens cost",
		Example: `  spotinference report cost --window 7d --bucket 24h
  spotinference report cost --by model
  spotinference report cost --window 1h --explain
  spotinference report cost --window 7d --output svg > cost.svg`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := ask(cmd, clock())
			if err != nil {
				return err
			}
			defer q.ledger.Close()
			f := cmd.Flags()
			age, err := f.GetDuration("max-sample-age")
			if err != nil {
				return err
			}
			if age <= 0 {
				return usagef("give a duration such as 3m", "report cost: --max-sample-age %s: must be positive", age)
			}
			bucket, err := report.ParseBucket(f.Lookup("bucket").Value.String())
			if err != nil {
				return usagef(hintFor(err), "%w", err)
			}
			by, err := report.ParseBy(f.Lookup("by").Value.String())
			if err != nil {
				return usagef(hintFor(err), "%w", err)
			}
			explain := f.Lookup("explain").Value.String() == "true"
			switch {
			case explain && q.format != report.Text:
				return usagef("leave out --output, or --explain", "report cost: --explain is text only")
			case by != report.ByNothing && bucket > 0 && q.format == report.CSV:
				return usagef("leave out --by or --bucket, or use --output json", "report cost: a CSV holds one table")
			}
			cost, err := report.Cost(q.ledger, report.CostQuery{
				Window: q.window, Explicit: q.explicit, Now: q.now, MaxSampleAge: age, Demo: q.demo,
				Bucket: bucket, Chart: q.format == report.SVG, By: by, Proof: explain,
			})
			var refused *report.Error
			if errors.As(err, &refused) {
				return usagef(refused.Hint, "%w", err)
			}
			if err != nil {
				return err
			}
			if err := cost.Write(cmd.OutOrStdout(), q.format); err != nil {
				return err
			}
			if cost.Refused() {
				return errRefused{"report cost: no figure: " + cost.Reason}
			}
			return nil
		},
	}
	addWindow(c)
	f := c.Flags()
	f.Lookup("output").Usage = "text, json, csv or svg"
	f.Duration("max-sample-age", defaultMaxSampleAge, "the oldest bill that still counts as seen")
	f.String("bucket", "auto", "cut the window into buckets such as 1h or 7d; none; auto: an hour where the window is longer than two")
	f.String("by", "", "divide by model or key, too")
	f.Bool("explain", false, "show the samples, the provider's replies and the subtraction, to check by hand")
	return c
}

const defaultMaxSampleAge = 3 * time.Minute
