package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"spotinference/control"
	"spotinference/ledger"
)

// overrideCall is what `budget override` asks for.
type overrideCall struct {
	End    bool          `json:"end"`
	For    time.Duration `json:"for_nanoseconds"`
	Amount *ledger.Nanos `json:"amount_nanos"`
	Reason string        `json:"reason"`
}

// apply writes it. It counts as soon as it is written.
func (c overrideCall) apply(led *ledger.Ledger) (overrideStatus, error) {
	do := led.EndOverride
	if !c.End {
		do = func() (ledger.Override, error) { return led.AddOverride(c.For, c.Amount, c.Reason) }
	}
	o, err := do()
	if errors.Is(err, ledger.ErrOverridden) {
		return overrideStatus{}, &hintedError{err, "end it first: spotinference budget override --end"}
	}
	return overrideStatus{o.At, o.End(), o.Amount.Text(), o.Reason}, err
}

func newBudgetOverride() *cobra.Command {
	c := &cobra.Command{
		Use:   "override --for 2h --reason TEXT [--amount N] | --end",
		Short: "Lift the budget for a while",
		Long: `Lets the gate open although a budget is spent: for a while, a day at most, and with
--amount only until so much more is spent, less the headroom. It is written to the
ledger before it counts, stays there, and is shown by status and by every report whose
window it touches. It works with and without a serve that runs.

It lifts a budget that is spent, and nothing else: while the bill cannot be seen the
gate stays closed.`,
		Example: `  spotinference budget override --for 2h --reason "the demo at the fair" --amount 10
  spotinference budget override --end`,
		Args: noWords,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			call, err := readOverride(s)
			if err != nil {
				return err
			}
			path, err := ledgerPath(s)
			if err != nil {
				return err
			}
			var got overrideStatus
			err = control.Call(cmd.Context(), control.Path(path), "override", call, &got)
			if errors.Is(err, control.ErrNobody) {
				got, err = overrideOffline(s, path, call)
			}
			if err != nil {
				return fmt.Errorf("budget override: %w", err)
			}
			w := cmd.OutOrStdout()
			switch {
			case call.End:
				fmt.Fprintln(w, "the override is over")
			case got.Amount != nil:
				fmt.Fprintf(w, "the budget is lifted until %s, for %s more\n", got.Until.Format(time.RFC3339), *got.Amount)
			default:
				fmt.Fprintf(w, "the budget is lifted until %s\n", got.Until.Format(time.RFC3339))
			}
			return nil
		},
	}
	f := c.Flags()
	f.Duration("for", 0, "how long, a day at most")
	f.String("reason", "", "why: it stays in the ledger")
	f.String("amount", "", "how much more may be spent; as much as comes where it is left out")
	f.Bool("end", false, "end the override that is in force")
	for _, name := range []string{"for", "reason", "amount", "end"} {
		typed(f, name) // it is somebody's word, once: no setting may say it
	}
	return c
}

func readOverride(s settings) (c overrideCall, err error) {
	const form = `spotinference budget override --for 2h --reason "why"`
	c.Reason = strings.TrimSpace(s.text("reason"))
	if c.For, err = s.flags.GetDuration("for"); err != nil {
		return c, err
	}
	if c.End = s.on("end"); c.End {
		if c.For != 0 || c.Reason != "" || s.text("amount") != "" {
			return c, usagef("leave out all else", "budget override: --end has no other flag")
		}
		return c, nil
	}
	if text := s.text("amount"); text != "" {
		n, err := ledger.ParseNanos(text)
		if err != nil || n <= 0 {
			return c, usagef("give an amount such as --amount 10", "budget override: amount %q: not an amount of money", text)
		}
		c.Amount = &n
	}
	switch {
	case c.For == 0:
		return c, usagef(form, "budget override: --for is missing")
	case c.For < 0 || c.For > ledger.MaxOverride:
		return c, usagef("give a duration of 24h at most; it can be lifted again after that", "budget override: --for %s: not within a day", c.For)
	case c.Reason == "":
		return c, usagef(form, "budget override: --reason is missing")
	}
	if err := ledger.CheckReason(c.Reason); err != nil {
		return c, usagef(form, "budget override: %w", err)
	}
	return c, nil
}

// overrideOffline writes it where no serve runs: then the ledger is ours to write.
func overrideOffline(s settings, path string, call overrideCall) (got overrideStatus, err error) {
	// A ledger is not begun for this, nor migrated.
	r, err := openReaderAt(s, path)
	if err != nil {
		return got, err
	}
	if err := r.Close(); err != nil {
		return got, err
	}
	led, err := ledger.Open(ledger.Config{Path: path, Demo: s.on("demo"), Now: clock, Log: slog.New(slog.DiscardHandler)})
	if errors.Is(err, ledger.ErrInUse) {
		return got, &hintedError{err, busyHint}
	}
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, led.Close()) }()
	return call.apply(led)
}
