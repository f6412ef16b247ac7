package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"spotinference/budget"
	"spotinference/control"
	"spotinference/ledger"
)

// addBudget adds the flags that say what may be spent: those of serve, which
// `budget show` has too, for when no serve runs.
func addBudget(f *pflag.FlagSet) {
	f.String("budget", "", "the most to spend, in the bill's currency: 40 a day, or 40/day,900/month, or per hour; none: no cap, but the gate still closes when the bill cannot be seen")
	f.String("budget-tz", "UTC", "time zone in which the budget's hours, days and months begin")
	f.String("budget-headroom", "auto", "how far below the budget the gate closes: an amount; auto: the highest sampled rate times what may go unseen or unstopped (the provider's step and lag, --sample-every, --close-grace)")
	f.Duration("close-grace", time.Minute, "how long running answers may take after the gate has closed")
}

// budgetTerms reads those flags.
func budgetTerms(s settings, cmd string) (t budget.Terms, err error) {
	if text := s.text("budget"); text != "" {
		if t.Limits, err = budget.ParseLimits(text); err != nil {
			return t, usagef("give what a day may cost, such as --budget 40, or --budget 40/day,900/month", "%s: budget %w", cmd, err)
		}
	}
	if text := s.text("budget-headroom"); text != "auto" {
		n, err := ledger.ParseNanos(text)
		if err != nil || n < 0 {
			return t, usagef("use auto, or give an amount such as --budget-headroom 2", "%s: budget headroom %q: not an amount of money", cmd, text)
		}
		t.Headroom = &n
	}
	if t.Location, err = time.LoadLocation(s.text("budget-tz")); err != nil || s.text("budget-tz") == "" || s.text("budget-tz") == "Local" {
		return t, usagef("use a name such as UTC or Europe/Berlin", "%s: time zone %q: not known", cmd, s.text("budget-tz"))
	}
	if t.CloseGrace, err = s.flags.GetDuration("close-grace"); err != nil {
		return t, err
	}
	if t.CloseGrace < 0 {
		return t, usagef("give a duration such as 1m", "%s: --close-grace %s: too short", cmd, t.CloseGrace)
	}
	return t, nil
}

// budgetStatus is how far the budgets are spent. Amounts are decimal text; what is
// not known is null.
type budgetStatus struct {
	SampledAt *time.Time      `json:"sampled_at"`
	Currency  string          `json:"currency"`
	Rate      *string         `json:"rate_per_hour"`
	Headroom  *string         `json:"headroom"`
	Budgets   []budgetWindow  `json:"budgets"`
	Override  *overrideStatus `json:"override"`
}

type budgetWindow struct {
	Per    budget.Period `json:"per"`
	Amount string        `json:"amount"`
	Spent  string        `json:"spent_gross"`
	From   time.Time     `json:"from"`
	To     time.Time     `json:"to"`
	// Estimates at the sampled rate: what the whole period would cost, and when the
	// gate would close in this one.
	WouldCost *string    `json:"estimate_whole_period"`
	Over      bool       `json:"estimate_exceeds_budget"`
	Reached   *time.Time `json:"estimate_reached_at"`
}

type overrideStatus struct {
	From   time.Time `json:"from"`
	Until  time.Time `json:"until"`
	Amount *string   `json:"amount"` // null: as much as comes
	Reason string    `json:"reason"`
}

func describeBudget(st budget.State, known bool, o *ledger.Override) (b budgetStatus) {
	b.Budgets = []budgetWindow{}
	if o != nil {
		b.Override = &overrideStatus{o.At, o.Until, o.Amount.Text(), o.Reason}
	}
	if !known {
		return b
	}
	b.SampledAt, b.Currency, b.Rate, b.Headroom = &st.Sample, st.Currency, st.Rate.Text(), st.Headroom.Text()
	for _, w := range st.Windows {
		out := budgetWindow{Per: w.Per, Amount: w.Amount.String(), Spent: w.Gross.String(), From: w.From.UTC(), To: w.To.UTC()}
		if cost, ok := st.Projected(w); ok {
			out.WouldCost, out.Over = cost.Text(), cost > w.Amount
		}
		if at, ok := st.Reached(w); ok {
			at = at.UTC().Round(time.Second)
			out.Reached = &at
		}
		b.Budgets = append(b.Budgets, out)
	}
	return b
}

// write prints b for people, a line a budget.
func (b budgetStatus) write(w io.Writer, now time.Time) {
	for _, l := range b.Budgets {
		fmt.Fprintf(w, "budget   %s of %s %s spent this %s, until %s\n", l.Spent, l.Amount, b.Currency, l.Per, l.To.Format(time.RFC3339))
		if l.Over {
			fmt.Fprintf(w, "         at the sampled rate a whole %s would cost %s: more than the budget (estimate)\n", l.Per, *l.WouldCost)
		}
		if l.Reached != nil {
			if l.Reached.After(now) {
				fmt.Fprintf(w, "         at the sampled rate it would be spent at %s (estimate)\n", l.Reached.Format(time.RFC3339))
			} else {
				fmt.Fprintln(w, "         it is spent, but for the headroom")
			}
		}
	}
	if len(b.Budgets) > 0 {
		headroom := "not known: no rate was sampled"
		if b.Headroom != nil {
			headroom = *b.Headroom + " " + b.Currency + ", kept free for what is not seen yet"
		}
		fmt.Fprintf(w, "headroom %s\n", headroom)
	}
	if o := b.Override; o != nil {
		amount := "as much as comes"
		if o.Amount != nil {
			amount = *o.Amount + " more"
		}
		fmt.Fprintf(w, "override %s, until %s: %s\n", amount, o.Until.Format(time.RFC3339), o.Reason)
	}
}

// warnBudget says once, when it is first known, what the rate would make of the budgets.
func warnBudget(log *slog.Logger, st budget.State, onClose bool) {
	for _, w := range st.Windows {
		if room, err := st.Room(budget.Window{Limit: w.Limit}); st.Headroom != nil && err == nil && room <= 0 {
			log.Warn("the headroom leaves nothing of the budget: nothing will be served", "per", w.Per, "budget", w.Amount.String(), "headroom", st.Headroom.String(),
				"hint", "raise --budget, or lower --budget-headroom")
		}
		if cost, ok := st.Projected(w); ok && cost > w.Amount {
			args := []any{"per", w.Per, "budget", w.Amount.String(), "estimate", cost.String(), "currency", st.Currency}
			if at, ok := st.Reached(w); ok {
				args = append(args, "estimated_reached", at.UTC().Round(time.Second).Format(time.RFC3339))
			}
			if onClose {
				log.Warn("at the sampled rate this budget does not last; --on-close runs when it is spent", args...)
				continue
			}
			log.Warn("at the sampled rate this budget does not last; a closed gate stops the serving, not the machine", append(args, "hint", "stop the machine with --on-close, or raise --budget")...)
		}
	}
}

func newBudgetShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show",
		Short: "How far the budgets are spent, and what lifts them",
		Long: `Asks the serve that runs with this ledger. Where none runs, the ledger is read, and
the budgets are those of this command's flags and settings.`,
		Args: noWords,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			terms, err := budgetTerms(s, "budget show")
			if err != nil {
				return err
			}
			asJSON, err := textOrJSON(s, "budget show")
			if err != nil {
				return err
			}
			path, err := ledgerPath(s)
			if err != nil {
				return err
			}
			now := clock()
			var got budgetStatus
			err = control.Call(cmd.Context(), control.Path(path), "budget", nil, &got)
			if errors.Is(err, control.ErrNobody) {
				got, err = readBudget(s, path, terms, now)
			}
			if err != nil {
				return fmt.Errorf("budget show: %w", err)
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), got)
			}
			if len(got.Budgets) == 0 && got.SampledAt == nil {
				fmt.Fprintln(cmd.OutOrStdout(), "bill     never seen")
			} else if len(got.Budgets) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "budget   none")
			}
			got.write(cmd.OutOrStdout(), now)
			return nil
		},
	}
	addBudget(c.Flags())
	c.Flags().String("output", "text", "text or json")
	return c
}

// readBudget is what the ledger alone tells.
func readBudget(s settings, path string, terms budget.Terms, now time.Time) (b budgetStatus, err error) {
	r, err := openReaderAt(s, path)
	if err != nil {
		return b, err
	}
	defer r.Close()
	st, known, err := budget.Evaluate(r, terms, now)
	if err != nil {
		return b, err
	}
	o, err := overrideNow(r, now)
	return describeBudget(st, known, o), err
}

func overrideNow(r *ledger.Reader, now time.Time) (*ledger.Override, error) {
	o, ok, err := r.Override(now)
	if err != nil || !ok {
		return nil, err
	}
	return &o, nil
}

// budgetCalls are what the commands of budget may ask of serve.
func budgetCalls(gate *budget.Gate, led *ledger.Ledger) control.Calls {
	return control.Calls{
		"budget": func(context.Context, json.RawMessage) (any, error) { return budgetOf(gate, led) },
		"override": func(_ context.Context, in json.RawMessage) (any, error) {
			var c overrideCall
			if err := json.Unmarshal(in, &c); err != nil {
				return nil, fmt.Errorf("read the call: %w", err)
			}
			if st, known := gate.State(); known && c.Amount != nil && st.Headroom != nil && *c.Amount <= *st.Headroom {
				return nil, &hintedError{fmt.Errorf("--amount %s: lifts nothing, with a headroom of %s", *c.Amount, *st.Headroom), "give an amount above the headroom, or none"}
			}
			got, err := c.apply(led)
			gate.Refresh()
			return got, err
		},
	}
}

func budgetOf(gate *budget.Gate, led *ledger.Ledger) (budgetStatus, error) {
	st, known := gate.State()
	o, err := overrideNow(led.Reader, clock())
	return describeBudget(st, known, o), err
}
