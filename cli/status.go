package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/ledger/report"
	"spotinference/server"
	"spotinference/server/control"
)

type statusOptions struct{ outputOptions }

func newStatus(g *global) *cobra.Command {
	return newControl(g, control.CallStatus, "What the running serve is doing",
		"Asks the serve that runs with this ledger for its engine's state, the gate and the bill.")
}

// newControl is a command that asks serve for one thing and shows its status.
func newControl(g *global, call, short, long string) *cobra.Command {
	var o statusOptions
	c := &cobra.Command{
		Use: call, Short: short, Long: long, Args: noWords,
		RunE: g.run(func(ctx context.Context) error { return runControl(ctx, g, o, call) }),
	}
	o.addFlags(flagsOf(c))
	return c
}

func runControl(ctx context.Context, g *global, o statusOptions, call string) error {
	path, err := g.ledgerPath()
	if err != nil {
		return err
	}
	asJSON, err := o.json(call) // before anything is done
	if err != nil {
		return err
	}
	var got control.Status
	if err := control.Call(ctx, control.Path(path), call, nil, &got); err != nil {
		if errors.Is(err, control.ErrNobody) {
			help := "start spotinference serve, or name its ledger with --ledger"
			if g.maybeDemo() {
				help = "for the demo add --demo; else " + help
			}
			return hint.Errorf(help, "%s: %w: %s", call, err, path)
		}
		return fmt.Errorf("%s: %w", call, err)
	}
	if asJSON {
		return writeJSON(g.stdout, got)
	}
	writeStatus(g.stdout, got, g.now())
	return nil
}

func writeStatus(w io.Writer, s control.Status, now time.Time) {
	age := func(t time.Time) time.Duration { return max(0, now.Sub(t)).Round(time.Second) }
	fmt.Fprintf(w, "engine   %s %s for %s", s.Engine.Kind, s.Engine.State, age(s.Engine.Since))
	if s.Engine.Suspended != "" {
		fmt.Fprintf(w, ", by %s", s.Engine.Suspended)
	}
	if s.Engine.PID != 0 {
		fmt.Fprintf(w, ", pid %d", s.Engine.PID)
	}
	if s.Engine.Restarts > 0 {
		fmt.Fprintf(w, ", %d restarts", s.Engine.Restarts)
	}
	if s.Engine.LastExit != "" && (s.Engine.Restarts > 0 || s.Engine.State == string(ledger.Crashed)) {
		fmt.Fprintf(w, ", last ended with %s", s.Engine.LastExit)
	}
	if t := s.Engine.NextStart; t != nil {
		fmt.Fprintf(w, ", starts again in %s", max(0, t.Sub(now)).Round(time.Second))
	}
	fmt.Fprintf(w, "\nrequests %d running, %d waiting\n", s.Engine.Running, s.Engine.Waiting)
	if s.Gate.Open {
		fmt.Fprintln(w, "gate     open")
	} else {
		fmt.Fprintf(w, "gate     closed: %s\n", s.Gate.Reason)
	}
	writeOnClose(w, s.OnClose, now)
	switch {
	case s.Bill != nil:
		fmt.Fprintf(w, "bill     %s, seen %s ago\n", s.Bill.Provider, age(s.Bill.At))
	case s.Provider == server.NoProvider:
		fmt.Fprintln(w, "bill     not read: serve runs with --provider none")
	default:
		fmt.Fprintln(w, "bill     never seen")
	}
	writeBudget(w, s.Budget, now)
	writeGPU(w, s.GPU, now)
	if s.Engine.State == string(ledger.Suspended) {
		fmt.Fprintln(w, "note     "+report.SuspendedBill)
	}
}

func writeOnClose(w io.Writer, c *control.OnClose, now time.Time) {
	if c == nil {
		return
	}
	at := c.At.Format(time.RFC3339)
	switch c.State {
	case control.OnCloseRunning:
		fmt.Fprintf(w, "on-close running since %s\n", at)
	case control.OnCloseDone:
		fmt.Fprintf(w, "on-close done at %s\n", at)
	default:
		fmt.Fprintf(w, "on-close failed %d times, last at %s: %s", c.Tries, at, c.Error)
		if c.NextTry != nil {
			fmt.Fprintf(w, "; tried again in %s", max(0, c.NextTry.Sub(now)).Round(time.Second))
		}
		fmt.Fprintln(w, "; the machine may still run, and cost")
	}
}

func writeGPU(w io.Writer, s *control.GPU, now time.Time) {
	if s == nil {
		fmt.Fprintln(w, "gpu      none: the demo has no card")
		return
	}
	fmt.Fprintf(w, "gpu      %s", s.Source)
	if s.Reason != "" {
		fmt.Fprintf(w, ": %s", s.Reason)
	}
	if s.ReadAt != nil {
		fmt.Fprintf(w, "; read %s ago", max(0, now.Sub(*s.ReadAt)).Round(time.Second))
	}
	fmt.Fprintln(w)
	gib := func(n *int64) string {
		if n == nil {
			return "?"
		}
		return fmt.Sprintf("%.1f", float64(*n)/(1<<30))
	}
	for _, c := range s.Cards {
		fmt.Fprintf(w, "card     %s %s, %s of %s GiB used, ", c.Name, c.UUID, gib(c.MemoryUsed), gib(c.MemoryTotal))
		if c.Utilisation == nil {
			fmt.Fprintln(w, "utilisation not known")
		} else {
			fmt.Fprintf(w, "utilisation %d%%\n", *c.Utilisation)
		}
	}
}
