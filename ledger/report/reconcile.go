package report

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"spotinference/ledger"
)

// What became of a resource's day when the invoice was held against the ledger.
const (
	StateEqual     = "equal"     // within the tolerance
	StateDifferent = "different" // and Cause says what is likely to have made it so
	StateDark      = "dark"      // the ledger cannot say what that day cost
)

// Likely causes of a difference. Each is a guess from what both sides show, for a
// person to look into; none is proof.
const (
	CauseOtherResource = "other_resource" // on the invoice only: nothing that this ledger counts
	CauseNotInvoiced   = "not_invoiced"   // in the ledger only
	CauseAmbiguous     = "ambiguous"      // the invoice's name may be more than one resource
	CauseEpochChange   = "epoch_change"   // the bill began anew that day
	CauseRestatement   = "restatement"    // the bill fell that day: a refund, a credit, a correction
	CauseGap           = "gap"            // the bill was not seen for a part of the day
	CauseLate          = "late"           // as much was billed within the lag after midnight
	CauseNeighbour     = "neighbour_day"  // the day before or after differs by as much the other way
	CauseTax           = "tax"            // the invoice is the ledger plus one percentage
	CauseBoundary      = "boundary"       // the samples next to midnight are not at midnight
	CauseRounding      = "rounding"       // a cent or less
	CauseUnknown       = "unknown"
)

// cent is the digit to which invoices are rounded.
const cent = ledger.Nanos(10_000_000)

// maxInvoiceDays bounds how many days one invoice may span.
const maxInvoiceDays = 3660

// Billed is what an invoice says of one resource on one day.
type Billed struct {
	Resource string    // as the invoice names it
	Day      time.Time // midnight UTC
	Amount   ledger.Nanos
}

// ReconcileQuery is an invoice to be held against a ledger.
type ReconcileQuery struct {
	Invoice   []Billed
	Currency  string       // "" where the invoice does not say: then it is the ledger's
	Tolerance ledger.Nanos // by how much a resource's day may differ and be equal
	Now       time.Time
	Demo      bool
}

// ReconcileReport is the invoice and the ledger side by side, by resource and
// day of UTC. Every day from the invoice's first to its last is in it.
type ReconcileReport struct {
	From      string         `json:"from"` // the first day
	To        string         `json:"to"`   // the last day, included
	Currency  string         `json:"currency"`
	Tolerance Decimal        `json:"tolerance"`
	Rows      []ReconcileRow `json:"rows"`
	Equal     int            `json:"equal"`
	Different int            `json:"different"`
	Dark      int            `json:"dark"`
	// Invoice, Ledger and Difference are sums over the rows that are not dark.
	Invoice    Decimal `json:"invoice"`
	Ledger     Decimal `json:"ledger"`
	Difference Decimal `json:"difference"`
	Demo       bool    `json:"demo"`
	Chain      Chain   `json:"chain"`

	Overrides []Override `json:"overrides,omitempty"` // of the budget, in these days
}

// ReconcileRow is one resource on one day. An amount that one side does not have is
// null; Difference is then the other side's whole amount.
type ReconcileRow struct {
	Day        string   `json:"day"`
	Resource   string   `json:"resource"` // the ledger's name; the invoice's where it has none
	Invoice    *Decimal `json:"invoice"`
	Ledger     *Decimal `json:"ledger"`
	Difference *Decimal `json:"difference"` // invoice − ledger; null where dark
	State      string   `json:"state"`
	Cause      string   `json:"cause"` // "" unless different
	Why        string   `json:"why"`   // for a person

	day  time.Time
	inv  *ledger.Nanos
	led  *ledger.Nanos
	diff ledger.Nanos
}

// ledgerDay is what the ledger knows of a day.
type ledgerDay struct {
	spend ledger.Spend
	dark  string // why it cannot say; "" where it can
	by    map[string]*resourceDay
	after map[string]ledger.Nanos // billed within the lag after the day
}

// resourceDay is one resource's day, over all its epochs.
type resourceDay struct {
	net, gross  ledger.Nanos
	epochs      int
	first, last time.Time // of its sight; first is zero for one that was there before or was born then
}

// Reconcile compares. Every amount of the ledger's is a difference of bills.
func Reconcile(r *ledger.Reader, q ReconcileQuery) (ReconcileReport, error) {
	rep, err := reconcile(r, q)
	if err == nil {
		rep.Chain, err = chainOf(r)
	}
	if err != nil {
		return ReconcileReport{}, fmt.Errorf("report reconcile: %w", err)
	}
	return rep, nil
}

func reconcile(r *ledger.Reader, q ReconcileQuery) (ReconcileReport, error) {
	rep := ReconcileReport{Tolerance: Decimal(q.Tolerance.String()), Rows: []ReconcileRow{}, Demo: q.Demo}
	switch {
	case len(q.Invoice) == 0:
		return rep, errors.New("the invoice is empty")
	case q.Tolerance < 0:
		return rep, badQuestion("give an amount such as 0.01", "tolerance %s: below zero", q.Tolerance)
	}
	first, last := q.Invoice[0].Day, q.Invoice[0].Day
	for _, b := range q.Invoice {
		if b.Day.Before(first) {
			first = b.Day
		}
		if b.Day.After(last) {
			last = b.Day
		}
	}
	if last.Sub(first) >= maxInvoiceDays*24*time.Hour {
		return rep, badQuestion("are those its days? name its columns with --columns",
			"the invoice spans %s to %s", first.Format(time.DateOnly), last.Format(time.DateOnly))
	}
	newest, ok, err := r.Newest()
	if err != nil {
		return rep, err
	}
	if ok && q.Currency != "" && q.Currency != newest.Currency {
		return rep, badQuestion("nothing is converted here", "the invoice is in %s, the ledger in %s", q.Currency, newest.Currency)
	}
	if rep.Currency = newest.Currency; !ok {
		rep.Currency = q.Currency
	}
	rep.From, rep.To = first.Format(time.DateOnly), last.Format(time.DateOnly)

	if rep.Overrides, err = overridden(r, ledger.Window{From: first, To: last.AddDate(0, 0, 1)}); err != nil {
		return rep, err
	}
	days := make(map[time.Time]*ledgerDay)
	var order []time.Time
	known := make(map[string]bool) // the ledger's resources in all of this time
	for day := first; !day.After(last); day = day.AddDate(0, 0, 1) {
		d, err := readDay(r, day, newest.Lag, q.Now)
		if err != nil {
			return rep, err
		}
		days[day], order = d, append(order, day)
		for name := range d.by {
			known[name] = true
		}
	}
	invoice, ambiguous, err := invoiceByDay(q.Invoice, known, days)
	if err != nil {
		return rep, err
	}
	for _, day := range order {
		if err := rep.addDay(day, days[day], invoice[day], q.Tolerance); err != nil {
			return rep, err
		}
	}
	for i := range rep.Rows {
		if row := &rep.Rows[i]; row.State == StateDifferent {
			row.Cause, row.Why = cause(*row, days[row.day], ambiguous)
		}
	}
	rep.findShifted(q.Tolerance)
	rep.findTax(q.Tolerance)
	return rep, rep.sum()
}

// readDay asks what a day cost. The samples that were subtracted must lie next to
// both of its midnights, or the figure is of another span.
func readDay(r *ledger.Reader, day time.Time, lag time.Duration, now time.Time) (*ledgerDay, error) {
	end := day.AddDate(0, 0, 1)
	d := &ledgerDay{by: make(map[string]*resourceDay), after: make(map[string]ledger.Nanos)}
	if end.After(now) {
		d.dark = "the day is not over"
		return d, nil
	}
	spend, err := r.Spent(day, end)
	if errors.Is(err, ledger.ErrNoSamples) {
		d.dark = "no sample of the bill at or before it"
		return d, nil
	}
	if err != nil {
		return nil, err
	}
	d.spend = spend
	slack := spend.Every * 5 / 2 // as far as a sample may be late and be none missed
	switch {
	case spend.From.At.Sub(day).Abs() > slack:
		d.dark = "its first midnight was not seen: the next sample to it is of " + timeText(spend.From.At)
	case end.Sub(spend.To.At) > slack:
		d.dark = "its last midnight was not seen: the last sample before it is of " + timeText(spend.To.At)
	}
	if d.by, err = byResource(spend); err != nil {
		return nil, err
	}
	if d.dark != "" || lag <= 0 {
		return d, nil
	}
	after, err := r.Spent(end, end.Add(lag))
	if err != nil {
		return nil, err // there are samples
	}
	for _, s := range after.Resources {
		if d.after[s.Resource], err = d.after[s.Resource].Add(s.Gross); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func byResource(spend ledger.Spend) (map[string]*resourceDay, error) {
	by := make(map[string]*resourceDay)
	var err error
	for _, s := range spend.Resources {
		d := by[s.Resource]
		if d == nil {
			d = &resourceDay{}
			if s.First.At.After(spend.From.At) && s.Base != 0 {
				d.first = s.First.At
			}
			by[s.Resource] = d
		}
		if d.net, err = d.net.Add(s.Net); err != nil {
			return nil, err
		}
		if d.gross, err = d.gross.Add(s.Gross); err != nil {
			return nil, err
		}
		d.epochs++
		if s.Last.At.After(d.last) {
			d.last = s.Last.At
		}
	}
	return by, nil
}

// invoiceByDay sorts the invoice by day and by the ledger's own names. Where the
// bill is the whole account's, so is a day's invoice. An id that is in the ledger
// with its kind before it (701234 as vm-701234) is that resource where no other
// ends so.
func invoiceByDay(lines []Billed, known map[string]bool, days map[time.Time]*ledgerDay) (by map[time.Time]map[string]ledger.Nanos, ambiguous map[string][]string, err error) {
	by, ambiguous = make(map[time.Time]map[string]ledger.Nanos), make(map[string][]string)
	for _, b := range lines {
		d := days[b.Day]
		if d == nil {
			return nil, nil, fmt.Errorf("invoice: day %s is no midnight UTC", b.Day)
		}
		name := b.Resource
		if account := theAccount(d.spend); account != "" {
			name = account
		} else if !known[name] {
			var found []string
			for k := range known {
				if _, id, ok := strings.Cut(k, "-"); ok && id == name {
					found = append(found, k)
				}
			}
			slices.Sort(found)
			switch len(found) {
			case 0:
			case 1:
				name = found[0]
			default:
				ambiguous[name] = found
			}
		}
		if by[b.Day] == nil {
			by[b.Day] = make(map[string]ledger.Nanos)
		}
		if by[b.Day][name], err = by[b.Day][name].Add(b.Amount); err != nil {
			return nil, nil, fmt.Errorf("invoice: %w", err)
		}
	}
	return by, ambiguous, nil
}

// theAccount is the one resource of a bill that is the whole account's, "" where
// it is not.
func theAccount(s ledger.Spend) string {
	if !slices.Contains(s.Flags, ledger.FlagAccountTruth) {
		return ""
	}
	name := ""
	for _, r := range s.Resources {
		if r.Kind == ledger.AccountKind {
			if name != "" && name != r.Resource {
				return ""
			}
			name = r.Resource
		}
	}
	return name
}

// addDay makes the day's rows: all that either side has.
func (rep *ReconcileReport) addDay(day time.Time, d *ledgerDay, invoice map[string]ledger.Nanos, tolerance ledger.Nanos) error {
	names := make(map[string]bool)
	for name := range invoice {
		names[name] = true
	}
	for name := range d.by {
		names[name] = true
	}
	if len(names) == 0 && d.dark != "" {
		return nil // nothing was invoiced and nothing is known: nothing to compare
	}
	var sorted []string
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	for _, name := range sorted {
		row := ReconcileRow{Day: day.Format(time.DateOnly), Resource: name, day: day}
		var inv, led ledger.Nanos
		if amount, ok := invoice[name]; ok {
			inv, row.inv, row.Invoice = amount, &amount, nanosDecimal(amount)
		}
		if d.dark != "" {
			row.State, row.Why = StateDark, d.dark
			rep.Dark++
			rep.Rows = append(rep.Rows, row)
			continue
		}
		if s, ok := d.by[name]; ok {
			led, row.led, row.Ledger = s.net, &s.net, nanosDecimal(s.net)
		}
		var err error
		if row.diff, err = inv.Sub(led); err != nil {
			return err
		}
		row.Difference = nanosDecimal(row.diff)
		if row.State = StateDifferent; within(row.diff, tolerance) {
			row.State = StateEqual
			rep.Equal++
		} else {
			rep.Different++
		}
		rep.Rows = append(rep.Rows, row)
	}
	return nil
}

// within tells whether n is no more than most, either way.
func within(n, most ledger.Nanos) bool { return -most <= n && n <= most }

// cause guesses what made a row differ, from that row's own day.
func cause(row ReconcileRow, d *ledgerDay, ambiguous map[string][]string) (cause, why string) {
	s := d.by[row.Resource]
	switch names := ambiguous[row.Resource]; {
	case names != nil:
		return CauseAmbiguous, "it may be " + strings.Join(names, " or ")
	case row.led == nil:
		return CauseOtherResource, "the ledger has no such resource that day: it counts the machine and its volumes"
	case row.inv == nil:
		return CauseNotInvoiced, "the invoice does not have it that day"
	case s.epochs > 1 && slices.Contains(d.spend.Flags, ledger.FlagEpochChanged):
		return CauseEpochChange, fmt.Sprintf("its bill has %d epochs that day: what the old one still grew by after its last sight is not in the ledger's figure", s.epochs)
	case s.gross != s.net:
		return CauseRestatement, "its bill fell that day, by a refund, a credit or a correction"
	case !s.first.IsZero():
		return CauseGap, "its bill was first seen at " + timeText(s.first) + "; what it was then is not in the ledger's figure"
	case s.last.Before(d.spend.To.At):
		return CauseGap, "its bill was last seen at " + timeText(s.last)
	case row.diff > 0 && row.diff <= d.after[row.Resource]:
		return CauseLate, "as much and more was billed within the lag after midnight"
	case !d.spend.From.At.Equal(row.day) || !d.spend.To.At.Equal(row.day.AddDate(0, 0, 1)):
		return CauseBoundary, "the ledger's day is from " + timeText(d.spend.From.At) + " to " + timeText(d.spend.To.At)
	case len(d.spend.Gaps) > 0:
		return CauseGap, plural(int64(len(d.spend.Gaps)), "gap") + " between samples that day"
	case within(row.diff, cent):
		return CauseRounding, "a cent or less"
	}
	return CauseUnknown, ""
}

// weakCause tells the causes that a pattern over many rows explains better than
// anything on the row itself.
func weakCause(cause string) bool {
	switch cause {
	case CauseUnknown, CauseLate, CauseBoundary, CauseRounding, CauseGap:
		return true
	}
	return false
}

// findShifted finds days that differ as much as their neighbour does the other
// way: the money is on the invoice, on another day.
func (rep *ReconcileReport) findShifted(tolerance ledger.Nanos) {
	last := make(map[string]*ReconcileRow)
	for i := range rep.Rows {
		row := &rep.Rows[i]
		before := last[row.Resource]
		last[row.Resource] = row
		if before == nil || before.State != StateDifferent || row.State != StateDifferent || !before.day.AddDate(0, 0, 1).Equal(row.day) ||
			before.Cause == CauseNeighbour || (before.diff > 0) == (row.diff > 0) || !within(before.diff+row.diff, tolerance) {
			continue
		}
		if before.led == nil && row.led == nil || before.inv == nil && row.inv == nil {
			continue
		}
		before.Cause, before.Why = CauseNeighbour, "the day after differs as much the other way"
		row.Cause, row.Why = CauseNeighbour, "the day before differs as much the other way"
	}
}

// findTax finds one percentage between 1 and 30 by which everything that differs
// is dearer on the invoice, to a cent. Two rows at least must be so large that a
// percent is more than that cent.
func (rep *ReconcileReport) findTax(tolerance ledger.Nanos) {
	inv, led, rows, large := new(big.Int), new(big.Int), []*ReconcileRow{}, 0
	allowed := max(tolerance, cent)
	for i := range rep.Rows {
		row := &rep.Rows[i]
		if row.State != StateDifferent || !weakCause(row.Cause) || row.led == nil || row.inv == nil {
			continue
		}
		inv.Add(inv, big.NewInt(int64(*row.inv)))
		led.Add(led, big.NewInt(int64(*row.led)))
		rows = append(rows, row)
		if *row.led/100 >= allowed {
			large++
		}
	}
	if large < 2 || led.Sign() <= 0 {
		return
	}
	ratio := new(big.Rat).SetFrac(inv, led)
	percent := new(big.Rat).Sub(ratio, big.NewRat(1, 1))
	percent.Mul(percent, big.NewRat(100, 1))
	if percent.Cmp(big.NewRat(1, 1)) < 0 || percent.Cmp(big.NewRat(30, 1)) > 0 {
		return
	}
	most := new(big.Rat).SetInt64(int64(allowed))
	for _, row := range rows {
		off := new(big.Rat).Mul(ratio, new(big.Rat).SetInt64(int64(*row.led)))
		off.Sub(off, new(big.Rat).SetInt64(int64(*row.inv)))
		if off.Abs(off).Cmp(most) > 0 {
			return
		}
	}
	for _, row := range rows {
		row.Cause = CauseTax
		row.Why = "the invoice is " + percent.FloatString(1) + "% above the ledger, here and elsewhere: a tax or a fee"
	}
}

func (rep *ReconcileReport) sum() error {
	var inv, led ledger.Nanos
	var err error
	for _, row := range rep.Rows {
		if row.State == StateDark {
			continue
		}
		for _, side := range []struct{ sum, amount *ledger.Nanos }{{&inv, row.inv}, {&led, row.led}} {
			if side.amount == nil {
				continue
			}
			if *side.sum, err = side.sum.Add(*side.amount); err != nil {
				return err
			}
		}
	}
	diff, err := inv.Sub(led)
	rep.Invoice, rep.Ledger, rep.Difference = *nanosDecimal(inv), *nanosDecimal(led), *nanosDecimal(diff)
	return err
}

// Write writes the report. Its CSV has one row for each of the report's.
func (rep ReconcileReport) Write(w io.Writer, f Format) error {
	if f != CSV {
		return write(w, f, rep, rep.text, nil)
	}
	rows := [][]string{{"day", "resource", "currency", "invoice", "ledger", "difference", "state", "cause", "why", "demo"}}
	for _, r := range rep.Rows {
		rows = append(rows, []string{r.Day, r.Resource, rep.Currency, decimalOrEmpty(r.Invoice), decimalOrEmpty(r.Ledger),
			decimalOrEmpty(r.Difference), r.State, r.Cause, r.Why, strconv.FormatBool(rep.Demo)})
	}
	var buf bytes.Buffer
	if err := csv.NewWriter(&buf).WriteAll(rows); err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	if _, err := w.Write(buf.Bytes()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func (rep ReconcileReport) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Invoice against the ledger, %s to %s (UTC)", rep.From, rep.To)
	if rep.Currency != "" {
		b.WriteString(", in " + rep.Currency)
	}
	b.WriteString("\n")
	if rep.Demo {
		b.WriteString("demo: simulated figures\n")
	}
	b.WriteString("\n")
	amount := func(d *Decimal) string {
		if d == nil {
			return "-"
		}
		return string(*d)
	}
	t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "day\tresource\tinvoice\tledger\tdifference\t")
	for _, r := range rep.Rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Day, r.Resource, amount(r.Invoice), amount(r.Ledger), amount(r.Difference), strings.TrimSpace(r.State+" "+r.Cause))
	}
	fmt.Fprintf(t, "together\t\t%s\t%s\t%s\t\n", rep.Invoice, rep.Ledger, rep.Difference)
	_ = t.Flush() // into memory
	text := b.String()
	b.Reset()
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	b.WriteString("\n")
	paragraph(&b, fmt.Sprintf("%d equal within %s, %d different, %d that the ledger cannot say.", rep.Equal, rep.Tolerance, rep.Different, rep.Dark))
	for _, r := range rep.Rows {
		if r.State != StateEqual && r.Why != "" {
			paragraph(&b, fmt.Sprintf("%s %s: %s: %s.", r.Day, r.Resource, strings.TrimSpace(r.State+" "+r.Cause), r.Why))
		}
	}
	for _, note := range overrideTexts(rep.Overrides) {
		paragraph(&b, note)
	}
	rep.Chain.write(&b)
	return b.String()
}
