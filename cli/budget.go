package cli

import (
	"fmt"
	"io"
	"time"

	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server/control"
)

// budgetOptions say what may be spent: flags of serve, which budget show has too, for
// when no serve runs.
type budgetOptions struct {
	budget, zone, headroom string
	closeGrace             time.Duration
}

func (o *budgetOptions) addFlags(f flags) {
	f.amount(&o.budget, "budget", "", "the most to spend, in the bill's currency: 40 a day, or 40/day,900/month, or per hour; none: no cap, but the gate still closes when the bill cannot be seen")
	f.text(&o.zone, "budget-tz", "UTC", "time zone in which the budget's hours, days and months begin")
	f.amount(&o.headroom, "budget-headroom", "auto", "how far below the budget the gate closes: an amount; auto: the highest sampled rate times what may go unseen or unstopped (the provider's step and lag, --sample-every, --close-grace)")
	f.grace(&o.closeGrace, "close-grace", time.Minute, "how long running answers may take after the gate has closed")
}

// terms reads them for the command what.
func (o budgetOptions) terms(what string) (t budget.Terms, err error) {
	if o.budget != "" {
		if t.Limits, err = budget.ParseLimits(o.budget); err != nil {
			return t, usagef("give what a day may cost, such as --budget 40, or --budget 40/day,900/month", "%s: budget %w", what, err)
		}
	}
	if o.headroom != "auto" {
		n, err := ledger.ParseNanos(o.headroom)
		if err != nil || n < 0 {
			return t, usagef("use auto, or give an amount such as --budget-headroom 2", "%s: budget headroom %q: not an amount of money", what, o.headroom)
		}
		t.Headroom = &n
	}
	if t.Location, err = time.LoadLocation(o.zone); err != nil || o.zone == "" || o.zone == "Local" {
		return t, usagef("use a name such as UTC or Europe/Berlin", "%s: time zone %q: not known", what, o.zone)
	}
	t.CloseGrace = o.closeGrace
	return t, nil
}

// writeBudget prints b for people, a line a budget.
func writeBudget(w io.Writer, b control.Budget, now time.Time) {
	for _, l := range b.Budgets {
		fmt.Fprintf(w, "budget   %s of %s %s spent this %s, until %s\n", l.Spent, l.Amount, b.Currency, l.Per, l.To.Format(time.RFC3339))
		if l.BeforeLedger != nil {
			fmt.Fprintf(w, "         before this ledger: %s %s, in the %s's budget\n", *l.BeforeLedger, b.Currency, l.Per)
		}
		if l.CountedSince != nil {
			fmt.Fprintf(w, "         counted since %s; earlier spend is not known\n", l.CountedSince.Format(time.RFC3339))
		}
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
