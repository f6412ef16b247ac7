package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"time"

	"github.com/spf13/cobra"

	"spotinference/budget"
	"spotinference/control"
	"spotinference/gpu"
	"spotinference/ledger"
	"spotinference/ledger/report"
	"spotinference/server/engine"
	"spotinference/server/queue"
)

// status is what serve says of itself.
type status struct {
	Engine engineStatus `json:"engine"`
	Gate   gateStatus   `json:"gate"`
	Budget budgetStatus `json:"budget"`
	Bill   *billStatus  `json:"bill"` // null where none was seen
	GPU    *gpuStatus   `json:"gpu"`  // null in the demo
}

type engineStatus struct {
	Kind      queue.Kind  `json:"kind"`
	State     queue.State `json:"state"`
	Since     time.Time   `json:"since"`
	PID       int         `json:"pid,omitempty"`
	Restarts  int         `json:"restarts"`
	LastExit  string      `json:"last_exit,omitempty"`
	NextStart *time.Time  `json:"next_start,omitempty"`
	Suspended string      `json:"suspended_by,omitempty"`
	Inside    int         `json:"requests_inside"`
	Waiting   int         `json:"requests_waiting"`
}

type gateStatus struct {
	Open   bool   `json:"open"`
	Reason string `json:"reason,omitempty"`
}

type billStatus struct {
	Provider string    `json:"provider"`
	At       time.Time `json:"sampled_at"`
}

// calls are what other commands may ask of serve.
func calls(eng *engine.Engine, gate *budget.Gate, led *ledger.Ledger, cards *gpu.Monitor) control.Calls {
	c := control.Calls{
		"status": func(context.Context, json.RawMessage) (any, error) { return statusOf(eng, gate, led, cards) },
		"suspend": func(ctx context.Context, _ json.RawMessage) (any, error) {
			if err := eng.Suspend(ctx); err != nil {
				return nil, suspendError(err)
			}
			return statusOf(eng, gate, led, cards)
		},
		"wake": func(ctx context.Context, _ json.RawMessage) (any, error) {
			// What may not be served may not cost a wake either.
			if err := gate.Allow(); err != nil {
				return nil, &hintedError{fmt.Errorf("the gate is closed: %w", err), "spotinference status says more"}
			}
			if err := eng.Wake(ctx); err != nil {
				return nil, err
			}
			return statusOf(eng, gate, led, cards)
		},
	}
	maps.Copy(c, budgetCalls(gate, led))
	return c
}

// suspendError gives an engine's refusal its hint.
func suspendError(err error) error {
	if errors.Is(err, engine.ErrBusy) {
		return &hintedError{err, "wait until they have ended: the engine is never suspended under a request"}
	}
	return &hintedError{err, hintFor(err)}
}

func statusOf(eng *engine.Engine, gate *budget.Gate, led *ledger.Ledger, cards *gpu.Monitor) (s status, err error) {
	e := eng.Status()
	s.Engine = engineStatus{
		Kind: eng.Kind(), State: e.State, Since: e.Since.UTC(), PID: e.PID, Restarts: e.Restarts, LastExit: e.LastExit, Suspended: e.SuspendedBy,
	}
	s.Engine.Inside, s.Engine.Waiting = eng.Load()
	if !e.NextStart.IsZero() {
		at := e.NextStart.UTC()
		s.Engine.NextStart = &at
	}
	if err := gate.Allow(); err != nil {
		s.Gate.Reason = err.Error()
	} else {
		s.Gate.Open = true
	}
	if s.Budget, err = budgetOf(gate, led); err != nil {
		return s, err
	}
	if cards != nil {
		s.GPU = gpuStatusOf(cards.Latest(), time.Now())
	}
	newest, ok, err := led.Newest()
	if err != nil {
		return s, err
	}
	if ok {
		s.Bill = &billStatus{Provider: newest.Provider, At: newest.At.UTC()}
	}
	return s, nil
}

// write prints s for people.
func (s status) write(w io.Writer, now time.Time) {
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
	if s.Engine.LastExit != "" && (s.Engine.Restarts > 0 || s.Engine.State == queue.Crashed) {
		fmt.Fprintf(w, ", last ended with %s", s.Engine.LastExit)
	}
	if t := s.Engine.NextStart; t != nil {
		fmt.Fprintf(w, ", starts again in %s", max(0, t.Sub(now)).Round(time.Second))
	}
	fmt.Fprintf(w, "\nrequests %d running, %d waiting\n", s.Engine.Inside, s.Engine.Waiting)
	if s.Gate.Open {
		fmt.Fprintln(w, "gate     open")
	} else {
		fmt.Fprintf(w, "gate     closed: %s\n", s.Gate.Reason)
	}
	switch {
	case s.Bill != nil:
		fmt.Fprintf(w, "bill     %s, seen %s ago\n", s.Bill.Provider, age(s.Bill.At))
	case s.Gate.Open: // which without a bill it is in one case only
		fmt.Fprintln(w, "bill     not read: serve runs with --provider none")
	default:
		fmt.Fprintln(w, "bill     never seen")
	}
	s.Budget.write(w, now)
	s.GPU.write(w, now)
	if s.Engine.State == queue.Suspended {
		fmt.Fprintln(w, "note     "+report.SuspendedBill)
	}
}

// newControl is a command that asks serve for one thing and shows its status.
func newControl(name, short, long string) *cobra.Command {
	c := &cobra.Command{
		Use: name, Short: short, Long: long, Args: noWords,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			path, err := ledgerPath(s)
			if err != nil {
				return err
			}
			asJSON, err := textOrJSON(s, name) // before anything is done
			if err != nil {
				return err
			}
			var got status
			if err := control.Call(cmd.Context(), control.Path(path), name, nil, &got); err != nil {
				if errors.Is(err, control.ErrNobody) {
					hint := "start spotinference serve, or name its ledger with --ledger"
					if maybeDemo(s) {
						hint = "for the demo add --demo; else " + hint
					}
					return &hintedError{fmt.Errorf("%s: %w: %s", name, err, path), hint}
				}
				return fmt.Errorf("%s: %w", name, err)
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), got)
			}
			got.write(cmd.OutOrStdout(), clock())
			return nil
		},
	}
	c.Flags().String("output", "text", "text or json")
	return c
}

// serveControl answers other commands until ctx ends. Where the socket cannot be
// made, serving goes on without it.
func serveControl(ctx context.Context, ledgerPath string, calls control.Calls, log *slog.Logger) error {
	ln, err := control.Listen(control.Path(ledgerPath))
	if err != nil {
		log.Warn("no other command can reach this serve", "err", err, "hint", "give --ledger a shorter path on a local disk")
		<-ctx.Done()
		return nil
	}
	return control.Serve(ctx, ln, calls)
}
