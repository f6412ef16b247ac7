package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"spotinference/internal/hint"
	"spotinference/ledger"
)

// global is what every command has: its surroundings, and the flags that all share.
type global struct {
	stdout, stderr io.Writer
	now            func() time.Time

	config string // the settings file that was named
	ledger string // the ledger that was named; "": the default one
	demo   bool

	// Filled in by load.
	settingsFile string          // the one that was read, "" for none
	command      []string        // its "command": what stands after -- where nothing does
	given        map[string]bool // the flags that somebody gave a value
}

func (g *global) addFlags(f flags) {
	f.text(&g.config, "config", "", "settings file in TOML; else ./spotinference.toml, else $XDG_CONFIG_HOME/spotinference/config.toml")
	f.text(&g.ledger, "ledger", "", "the ledger's file (default $XDG_STATE_HOME/spotinference/ledger.db); put it on a volume that survives the machine")
	f.on(&g.demo, "demo", "simulated engine, simulated provider, and a ledger of their own")
}

// run makes f a command's RunE: its flags are filled in from the environment and the
// settings file first.
func (g *global) run(f func(ctx context.Context) error) func(*cobra.Command, []string) error {
	return g.runWords(func(ctx context.Context, _ []string) error { return f(ctx) })
}

// runWords is run for a command that takes words beside its flags.
func (g *global) runWords(f func(ctx context.Context, words []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, words []string) error {
		if err := g.load(cmd); err != nil {
			return err
		}
		return f(cmd.Context(), words)
	}
}

// ledgerPath is where the ledger is: the one that was named, or the default of its sort.
func (g *global) ledgerPath() (string, error) { return g.ledgerPathOf(g.demo) }

func (g *global) ledgerPathOf(demo bool) (string, error) {
	if g.ledger != "" {
		return g.ledger, nil
	}
	dir := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", usagef("give it a place with --ledger", "find the ledger: %w", err)
		}
		dir = filepath.Join(home, ".local", "state")
	}
	name := "ledger.db"
	if demo {
		name = "demo.db"
	}
	return filepath.Join(dir, "spotinference", name), nil
}

// openReader opens the ledger to read it.
func (g *global) openReader() (*ledger.Reader, error) {
	path, err := g.ledgerPath()
	if err != nil {
		return nil, err
	}
	r, err := ledger.OpenReader(path, g.demo)
	if errors.Is(err, ledger.ErrMissing) {
		return nil, g.missingLedger(err)
	}
	return r, err
}

// missingLedger says what to do where there is no ledger yet.
func (g *global) missingLedger(err error) error {
	if g.demo {
		return hint.Wrap(err, "start spotinference serve --demo first")
	}
	if g.maybeDemo() {
		return hint.Wrap(err, "for the demo's figures add --demo; real ones come after spotinference serve, or name the ledger with --ledger")
	}
	return err
}

// maybeDemo tells whether who names no ledger may have meant the demo's: there is one.
func (g *global) maybeDemo() bool {
	if g.demo || g.ledger != "" {
		return false
	}
	demo, err := g.ledgerPathOf(true)
	if err != nil {
		return false
	}
	_, err = os.Stat(demo)
	return err == nil
}

// busyHint is for a ledger that a serve writes which answers no call.
const busyHint = "a serve starts or stops with this ledger, or its log says why no command can reach it: try again"

// writeAlone calls write with the ledger where no serve runs, so that it is ours to write.
// A ledger is not begun for this, nor migrated.
func (g *global) writeAlone(path string, write func(*ledger.Ledger) error) (err error) {
	r, err := g.openReader()
	if err != nil {
		return err
	}
	if err := r.Close(); err != nil {
		return err
	}
	led, err := ledger.Open(ledger.Config{Path: path, Demo: g.demo, Now: g.now, Log: slog.New(slog.DiscardHandler)})
	if errors.Is(err, ledger.ErrInUse) {
		return hint.Wrap(err, busyHint)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, led.Close()) }()
	return write(led)
}

// checkReason is a --reason that must be there and can be shown. form is how the command
// is written.
func checkReason(what, form, reason string) (string, error) {
	form = fmt.Sprintf(`spotinference %s --reason "why"`, form)
	reason = strings.TrimSpace(reason)
	if reason == "" {
		return "", usagef(form, "%s: --reason is missing", what)
	}
	if err := ledger.CheckReason(reason); err != nil {
		return "", usagef(form, "%s: %w", what, err)
	}
	return reason, nil
}

// outputOptions is the --output of a command that has text and JSON.
type outputOptions struct{ format string }

func (o *outputOptions) addFlags(f flags) { f.text(&o.format, "output", "text", "text or json") }

func (o outputOptions) json(what string) (bool, error) {
	switch o.format {
	case "text", "json":
		return o.format == "json", nil
	}
	return false, usagef("use text or json", "%s: format %q: not a format", what, o.format)
}

// untilSignal is ctx that also ends at the first SIGINT or SIGTERM.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}
