package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"spotinference/billing"
	"spotinference/ledger"
	"spotinference/ledger/report"
)

// The commands that look at a bill outside of serve: one sample of it, a
// measurement of how it moves, and the invoice held against the ledger.

// addProvider adds serve's flags that say whose bill it is, as serve has them.
func addProvider(c *cobra.Command) {
	c.Args = noWords
	from := newServe().Flags()
	for _, name := range []string{"provider", "provider-url", "instance", "billing-command", "demo-provider"} {
		c.Flags().AddFlag(from.Lookup(name))
	}
}

// openProvider opens the provider that the settings name or, under --demo, a
// simulated one. stop ends that; it is called last.
func openProvider(s settings, what string, anchors billing.Anchors) (p billing.Provider, stop func(), err error) {
	o := options{
		provider: s.text("provider"), demoProvider: s.text("demo-provider"),
	}
	if o.billing, err = billingOptions(s); err != nil {
		return nil, nil, err
	}
	stop = func() {}
	switch {
	case s.on("demo") && o.provider != "":
		return nil, nil, usagef("leave out --provider, or leave out --demo", "%s: the demo brings its own provider", what)
	case s.on("demo"):
		if stop, err = startDemo(&o, slog.New(slog.DiscardHandler)); err != nil {
			return nil, nil, err
		}
	case o.provider == "none":
		return nil, nil, usagef("name the provider whose bill to read", "%s: --provider none has no bill", what)
	case o.provider == "":
		if o.provider, err = billing.Detect(os.Getenv); err != nil {
			return nil, nil, usagef(hintFor(err), "%s: no --provider, and %w", what, err)
		}
	}
	o.billing.Anchors = anchors
	if p, err = billing.New(o.provider, o.billing); err != nil {
		stop()
		return nil, nil, usagef(hintFor(err), "%s: %w", what, err)
	}
	return p, stop, nil
}

// noSample is a poll's failure with what it was called, its class and a hint.
func noSample(what string, err error) error {
	f := new(billing.Failure)
	if !errors.As(err, &f) {
		return fmt.Errorf("%s: %w", what, err)
	}
	hint := f.Hint()
	if hint == "" {
		switch f.Class {
		case billing.Network, billing.Timeout, billing.HTTP5xx:
			hint = "try again; the provider, or the way to it, is in trouble"
		case billing.TLS, billing.Redirect, billing.HTTP4xx:
			hint = "check --provider-url"
		case billing.HTTP429:
			hint = "wait a minute: something else uses up the account's calls"
		case billing.Malformed, billing.Incomplete, billing.TooLarge:
			hint = "is that the provider's API? check --provider-url and --instance"
		}
	}
	return &hintedError{fmt.Errorf("%s: no sample: %s: %w", what, f.Class, f), hint}
}

func newBillingCheck() *cobra.Command {
	const what = "billing check"
	c := &cobra.Command{
		Use:   "check",
		Short: "Read the bill once and show what was read; no ledger is touched",
		Example: `  spotinference billing check
  spotinference billing check --provider hyperstack --instance 701234`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			if s.on("schema") {
				_, err := cmd.OutOrStdout().Write(billing.ExecSchema())
				return err
			}
			asJSON, err := textOrJSON(s, what)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			p, end, err := openProvider(s, what, nil)
			if err != nil {
				return err
			}
			defer end()
			if err := warnOfDisk(cmd.ErrOrStderr(), s); err != nil {
				return err
			}
			sample, err := billing.Take(ctx, p, clock())
			if err != nil {
				return noSample(what, err)
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), checkedOf(sample, s.on("demo")))
			}
			return writeChecked(cmd.OutOrStdout(), sample, s)
		},
	}
	addProvider(c)
	c.Flags().String("output", "text", "text or json")
	c.Flags().Bool("schema", false, "print the JSON schema of what the command of --provider exec must print, and read no bill")
	return c
}

// warnOfDisk says where serve's ledger would be lost with the machine. A demo's is made
// afresh anyway.
func warnOfDisk(w io.Writer, s settings) error {
	path, err := ledgerPath(s)
	if err != nil || s.on("demo") {
		return err
	}
	if why, hint := (billing.Disks{Getenv: os.Getenv}).Dying(path); why != "" {
		fmt.Fprintf(w, "spotinference: warning: the ledger %s may be lost with the machine: %s\n", path, why)
		fmt.Fprintf(w, "spotinference: hint: %s\n", hint)
	}
	return nil
}

// checked is a sample as billing check writes it. What is not known is null.
type checked struct {
	Provider    string        `json:"provider"`
	Account     string        `json:"account"`
	At          time.Time     `json:"at"`
	Currency    string        `json:"currency"`
	Truth       string        `json:"truth"`
	StepSeconds int64         `json:"step_seconds"`
	LagSeconds  int64         `json:"lag_seconds"`
	Lines       []checkedLine `json:"lines"`
	Demo        bool          `json:"demo"`
}

type checkedLine struct {
	Kind    string     `json:"kind"`
	ID      string     `json:"id"`
	Status  string     `json:"status"`
	Running bool       `json:"running"`
	Rate    *string    `json:"rate_per_hour"`
	Bill    *string    `json:"bill"`
	Epoch   string     `json:"epoch"`
	Created *time.Time `json:"created"`
}

func checkedOf(s ledger.Sample, demo bool) checked {
	c := checked{
		Provider: s.Provider, Account: s.Account, At: s.At.UTC(), Currency: s.Currency, Truth: string(s.Truth),
		StepSeconds: int64(s.Step / time.Second), LagSeconds: int64(s.Lag / time.Second), Lines: []checkedLine{}, Demo: demo,
	}
	for _, l := range s.Lines {
		line := checkedLine{
			Kind: string(l.Kind), ID: l.Resource, Status: l.Status, Running: l.Running,
			Rate: l.Rate.Text(), Bill: l.Bill.Text(), Epoch: l.Epoch,
		}
		if !l.Created.IsZero() {
			at := l.Created.UTC()
			line.Created = &at
		}
		c.Lines = append(c.Lines, line)
	}
	return c
}

// truthText says what a truth means to who reads a bill.
func truthText(t ledger.Truth) string {
	switch t {
	case ledger.TruthResource:
		return "resource: each line has a bill of its own"
	case ledger.TruthAccount:
		return "account: only the whole account has a bill, all of its machines in it"
	}
	return "none: rates only, of which no spend is made; no gate opens on them"
}

func writeChecked(w io.Writer, s ledger.Sample, set settings) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t")) }
	orUnknown := func(n *ledger.Nanos) string {
		if n == nil {
			return "not known"
		}
		return n.String()
	}
	var boxes []string
	for _, l := range s.Lines {
		if l.Kind == ledger.Instance {
			boxes = append(boxes, l.Resource)
		}
	}
	box := "no machine is in this bill"
	if len(boxes) > 0 {
		how := "found by this machine's address, name or environment"
		if set.on("demo") || set.text("instance") != "" {
			how = "as it was told"
		}
		box = strings.Join(boxes, ", ") + " (" + how + ")"
	}
	fmt.Fprintf(t, "One sample of the bill, at %s UTC\n", s.At.UTC().Format(time.DateTime))
	if set.on("demo") {
		row("demo: simulated figures")
	}
	row()
	row("provider", s.Provider)
	row("account", s.Account)
	row("this box", box)
	row("truth", truthText(s.Truth))
	row("currency", s.Currency)
	row("step", s.Step.String())
	row("lag", s.Lag.String())
	row()
	row("kind", "id", "status", "running", "rate per hour", "bill", "epoch")
	for _, l := range s.Lines {
		running := "no"
		if l.Running {
			running = "yes"
		}
		row(string(l.Kind), l.Resource, l.Status, running, orUnknown(l.Rate), orUnknown(l.Bill), l.Epoch)
	}
	row()
	row("Step and lag are the adapter's own; spotinference billing probe measures them.")
	row("Counted: these lines. Not counted: egress and other machines, the gateway's own among them.")
	return t.Flush()
}

func newBillingProbe() *cobra.Command {
	const what = "billing probe"
	c := &cobra.Command{
		Use:   "probe",
		Short: "Measure how often and how late the bill moves, and write that to the ledger",
		Long: `Polls the bill while the machine runs, and measures the step in which it moves and
the longest time that it stands still; three times that is the lag which serve then
allows it. It holds the bill against the rate once, to see that both are in one unit,
and tries how the provider reads the ends of a window. What it measured is written to
the ledger, where serve finds it at its next start. What a stopped machine costs is not
tried, for that takes a call that stops it. The probe needs the ledger for itself: stop
serve first. One that is stopped writes nothing.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			asJSON, err := textOrJSON(s, what)
			if err != nil {
				return err
			}
			every, err := s.flags.GetDuration("every")
			if err != nil {
				return err
			}
			long, err := s.flags.GetDuration("for")
			if err != nil {
				return err
			}
			path, err := ledgerPath(s)
			if err != nil {
				return err
			}
			return runProbe(cmd, s, path, every, long, asJSON)
		},
	}
	addProvider(c)
	c.Flags().Duration("every", 20*time.Second, "how often to read the bill")
	c.Flags().Duration("for", 30*time.Minute, "how long to watch it; several times what one of its steps takes")
	c.Flags().String("output", "text", "text or json")
	return c
}

func runProbe(cmd *cobra.Command, s settings, path string, every, long time.Duration, asJSON bool) (err error) {
	const what = "billing probe"
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	open := func() (*ledger.Ledger, error) {
		led, err := ledger.Open(ledger.Config{Path: path, Demo: s.on("demo"), Now: clock, Log: slog.New(slog.DiscardHandler)})
		if errors.Is(err, ledger.ErrInUse) {
			return nil, &hintedError{fmt.Errorf("%s: %w", what, err), "stop serve first: the probe writes to its ledger"}
		}
		return led, err
	}
	// A ledger that is there is taken at once: half an hour is not to be measured in
	// vain, and the series go on from its anchors. One that is not there is made
	// only when there is something to write.
	var led *ledger.Ledger
	var anchors billing.Anchors
	if _, err := os.Stat(path); err == nil {
		if led, err = open(); err != nil {
			return err
		}
		anchors = &ledgerAnchors{led}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer func() {
		if led != nil {
			err = errors.Join(err, led.Close())
		}
	}()
	p, end, err := openProvider(s, what, anchors)
	if err != nil {
		return err
	}
	defer end()

	progress := cmd.ErrOrStderr()
	cfg := billing.ProbeConfig{Provider: p, Every: every, For: long, OnPoll: func(p billing.Poll) {
		at := p.At.UTC().Format(time.TimeOnly)
		switch {
		case p.Err != nil:
			fmt.Fprintf(progress, "spotinference: %s no bill: %v\n", at, p.Err)
		case p.Moved != 0:
			fmt.Fprintf(progress, "spotinference: %s bill %s (+%s)\n", at, p.Bill, p.Moved)
		}
	}}
	if err := cfg.Check(); err != nil {
		return usagef(hintFor(err), "%s: %w", what, err)
	}
	fmt.Fprintf(progress, "spotinference: probing the bill of %s every %s for %s\n", p.Name(), every, long)
	m, err := billing.Probe(ctx, cfg)
	switch {
	case ctx.Err() != nil:
		return &hintedError{fmt.Errorf("%s: stopped before its time: nothing was written", what), "let it run for " + long.String() + ", or give it another --for"}
	case err != nil:
		if f := new(billing.Failure); errors.As(err, &f) {
			return noSample(what, err)
		}
		return fmt.Errorf("billing %w: nothing was written", err)
	}
	if led == nil {
		if led, err = open(); err != nil {
			return err
		}
	}
	if err := led.SetCalibration(ledger.Calibration{
		Provider: m.Provider, Account: m.Account, Step: m.Step, Lag: m.Lag, At: m.To,
	}); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), probedOf(m, s.on("demo")))
	}
	return writeProbed(cmd.OutOrStdout(), m, path, s.on("demo"))
}

// probed is what a probe measured, as billing probe writes it.
type probed struct {
	Provider        string    `json:"provider"`
	Account         string    `json:"account"`
	Truth           string    `json:"truth"`
	Currency        string    `json:"currency"`
	Watched         []string  `json:"watched"`
	From            time.Time `json:"from"`
	To              time.Time `json:"to"`
	Polls           int       `json:"polls"`
	Failed          int       `json:"failed"`
	Changes         int       `json:"changes"`
	StepSeconds     int64     `json:"step_seconds"`
	WorstGapSeconds int64     `json:"worst_gap_seconds"`
	LagSeconds      int64     `json:"lag_seconds"`
	Billed          string    `json:"billed"`
	Unit            string    `json:"unit"`
	Ratio           *string   `json:"ratio"`
	Reread          string    `json:"reread"`
	EndOmitted      string    `json:"end_omitted"`
	EndFuture       string    `json:"end_future"`
	EarlyStart      string    `json:"early_start"`
	AccountTotal    string    `json:"account_total"`
	SampledToday    *string   `json:"sampled_today"` // what account_total was held against
	AccountToday    *string   `json:"account_today"`
	SkewSeconds     *int64    `json:"skew_under_seconds"`
	Demo            bool      `json:"demo"`
}

// seconds is d in whole seconds, not fewer than it is.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

func probedOf(m billing.Measured, demo bool) probed {
	p := probed{
		Provider: m.Provider, Account: m.Account, Truth: string(m.Truth), Currency: m.Currency, Watched: m.Watched,
		From: m.From.UTC(), To: m.To.UTC(), Polls: m.Polls, Failed: m.Failed, Changes: m.Changes,
		StepSeconds: seconds(m.Step), WorstGapSeconds: seconds(m.Worst), LagSeconds: seconds(m.Lag),
		Billed: m.Billed.String(), Unit: string(m.Unit), Reread: string(m.Reread), Demo: demo,
		EndOmitted: string(m.Windows.EndOmitted), EndFuture: string(m.Windows.EndFuture),
		EarlyStart: string(m.Windows.EarlyStart), AccountTotal: string(m.Windows.Account),
		SampledToday: m.Windows.Sum.Text(), AccountToday: m.Windows.Total.Text(),
	}
	if m.Ratio != "" {
		p.Ratio = &m.Ratio
	}
	if m.Skew != nil {
		n := seconds(*m.Skew)
		p.SkewSeconds = &n
	}
	return p
}

func writeProbed(w io.Writer, m billing.Measured, path string, demo bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")) }
	fmt.Fprintf(t, "Probe of the bill from %s to %s UTC\n", m.From.UTC().Format(time.DateTime), m.To.UTC().Format(time.DateTime))
	if demo {
		row("demo: simulated figures")
	}
	unit := "not checked: no rate is known to hold the bill against"
	if m.Unit == billing.UnitConfirmed {
		unit = "confirmed: the bill grew by " + m.Ratio + " times what the rate promises"
	}
	reread := map[billing.Reread]string{
		billing.RereadSame:     "the same twice",
		billing.RereadRestated: "restated: it changed between two reads",
		billing.RereadNone:     "not read: the provider did not tell a bill of then",
	}[m.Reread]
	clocks := "not compared"
	if m.Skew != nil {
		clocks = "no reply was dated more than " + m.Skew.String() + " off"
	}
	row()
	row("provider", m.Provider)
	row("account", m.Account)
	row("watched", strings.Join(m.Watched, ", "))
	row("polls", fmt.Sprintf("%d, of which %d failed and %d saw the bill move", m.Polls, m.Failed, m.Changes))
	row("step", m.Step.Round(time.Second).String()+", the usual time from one change to the next")
	row("worst gap", m.Worst.Round(time.Second).String())
	row("lag", m.Lag.Round(time.Second).String()+", three times that")
	row("unit", unit)
	row("past bill", reread)
	windows(row, m)
	row("clocks", clocks)
	row("stopped", "not tried: no call of this program changes a machine")
	row()
	row("Written to " + path + ": serve uses it from its next start.")
	return t.Flush()
}

// windows says how the provider reads the ends of a window, and what the account's
// total is to the sum of the resources.
func windows(row func(...string), m billing.Measured) {
	agreement := func(a billing.Agreement, differs string) string {
		switch a {
		case billing.Agrees:
			return "the same"
		case billing.Differs:
			return "differs: " + differs
		}
		return "not tried: the provider cannot be asked so, or did not answer"
	}
	w := m.Windows
	row("no end", agreement(w.EndOmitted, "without an end the window is another one than up to now"))
	row("future end", agreement(w.EndFuture, "an end to come adds to the bill"))
	row("early start", agreement(w.EarlyStart, "a start before the machine's creation changes its bill"))
	account := agreement(w.Account, "")
	if w.Account == billing.Differs {
		account = fmt.Sprintf("differs: %s %s today, of which these resources %s; the rest is of what is not counted", w.Total, m.Currency, w.Sum)
	}
	row("account", account)
}

// calibrated is a provider whose samples carry what a probe measured of the
// account that they are of.
type calibrated struct {
	billing.Provider
	ledger *ledger.Reader
	every  time.Duration // between two samples
}

// calibratedPast is one that can also be asked for a past bill.
type calibratedPast struct {
	calibrated
	billing.Boundary
}

// calibrate wraps p, whose bill is sampled once in every.
func calibrate(p billing.Provider, r *ledger.Reader, every time.Duration) billing.Provider {
	c := calibrated{p, r, every}
	if b, ok := p.(billing.Boundary); ok {
		return calibratedPast{c, b}
	}
	return c
}

func (c calibrated) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
	s, err := c.Provider.Sample(ctx, now)
	return c.apply(s, err)
}

func (c calibratedPast) SampleAt(ctx context.Context, at, now time.Time) (ledger.Sample, error) {
	s, err := c.Boundary.SampleAt(ctx, at, now)
	return c.apply(s, err)
}

// apply asks the ledger for each sample: the account is not known before the first,
// and a ledger that cannot tell is a dark minute, not an uncalibrated one.
func (c calibrated) apply(s ledger.Sample, err error) (ledger.Sample, error) {
	if err != nil {
		return s, err
	}
	cal, ok, err := c.ledger.Calibration(s.Provider, s.Account)
	if err != nil {
		return ledger.Sample{}, err
	}
	if ok {
		// A probe looks more often than a sampler. A bill that may stand still for no
		// longer than two samples are apart could never be seen to do so.
		s.Step, s.Lag, s.Calibrated = cal.Step, max(cal.Lag, 3*c.every), true
	}
	return s, nil
}

func newReportReconcile() *cobra.Command {
	const what = "report reconcile"
	c := &cobra.Command{
		Use:   "reconcile --invoice FILE",
		Short: "Hold the provider's own invoice against the ledger, by resource and day",
		Long: `Reads the provider's invoice or usage export (CSV with a header) and compares each
resource's day, in UTC, with what the ledger saw the bill grow by. Each is equal, or
different with its likely cause, or dark: the ledger did not see that day's midnights.

Exits with 0 where all that was compared is equal, 1 where something differs, and 3
where nothing differs but the ledger cannot say it of every day.`,
		Example: `  spotinference report reconcile --invoice usage.csv
  spotinference report reconcile --invoice usage.csv --columns resource=Item,day=Date,amount=Total,currency=Currency`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			if s.text("invoice") == "" {
				return usagef("download it from the provider's console and name it with --invoice FILE", "%s: no invoice", what)
			}
			format, err := report.ParseFormat(s.text("output"))
			if err != nil {
				return usagef(hintFor(err), "%s: %w", what, err)
			}
			tolerance, err := ledger.ParseNanos(s.text("tolerance"))
			if err != nil || tolerance < 0 {
				return usagef("give an amount such as 0.01", "%s: tolerance %q: not an amount of money", what, s.text("tolerance"))
			}
			r, err := openReader(s)
			if err != nil {
				return err
			}
			defer r.Close()
			invoice, err := readInvoice(s, r)
			if err != nil {
				return err
			}
			q := report.ReconcileQuery{Currency: invoice.Currency, Tolerance: tolerance, Now: clock(), Demo: s.on("demo")}
			for _, l := range invoice.Lines {
				q.Invoice = append(q.Invoice, report.Billed(l))
			}
			rep, err := report.Reconcile(r, q)
			if err != nil {
				return err
			}
			if err := rep.Write(cmd.OutOrStdout(), format); err != nil {
				return err
			}
			switch {
			case rep.Different > 0:
				return fmt.Errorf("%s: %d of %d rows differ", what, rep.Different, len(rep.Rows))
			case rep.Dark > 0:
				return errRefused{fmt.Sprintf("%s: the ledger cannot say %d of %d rows", what, rep.Dark, len(rep.Rows))}
			}
			return nil
		},
	}
	c.Args = noWords
	f := c.Flags()
	f.String("invoice", "", "the provider's invoice or usage export, a CSV file with a header")
	f.String("format", "", "whose layout it has: "+strings.Join(billing.Layouts(), ", ")+" (default: that of the ledger's provider)")
	f.String("columns", "", "the names of its columns: resource=...,day=...,amount=... and, where it has one, currency=...")
	f.String("tolerance", "0.01", "by how much a resource's day may differ and count as equal, in the bill's currency")
	f.String("output", "text", "text, json or csv")
	return c
}

// readInvoice reads the invoice that the settings name, in the layout that they
// name or, where they name none, in that of the ledger's provider.
func readInvoice(s settings, r *ledger.Reader) (billing.Invoice, error) {
	const what = "report reconcile"
	var layout billing.Layout
	var err error
	name := s.text("format")
	switch columns := s.text("columns"); {
	case columns != "" && name != "" && name != "generic":
		return billing.Invoice{}, usagef("leave one of them out", "%s: --format %s and --columns both say how to read it", what, name)
	case columns != "":
		layout, err = billing.ParseLayout(columns)
	case name != "":
		layout, err = billing.InvoiceLayout(name)
	default:
		if name, err = r.Provider(); err != nil {
			return billing.Invoice{}, err
		}
		if layout, err = billing.InvoiceLayout(name); err != nil {
			return billing.Invoice{}, usagef("name its layout with --format, or its columns with --columns", "%s: no layout is known for the invoice of provider %q", what, name)
		}
	}
	if err != nil {
		return billing.Invoice{}, usagef(hintFor(err), "%s: %w", what, err)
	}
	f, err := os.Open(s.text("invoice"))
	if err != nil {
		return billing.Invoice{}, usagef("name a file that can be read", "%s: %w", what, err)
	}
	defer f.Close()
	invoice, err := billing.ReadInvoice(f, layout)
	if err != nil {
		return billing.Invoice{}, fmt.Errorf("%s: %s: %w", what, s.text("invoice"), err)
	}
	return invoice, nil
}
