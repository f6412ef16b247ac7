package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"spotinference/billing"
	billingapi "spotinference/billing/api"
	"spotinference/internal/hint"
	"spotinference/ledger"
)

type billingProbeOptions struct {
	providerOptions
	outputOptions
	every, long time.Duration
}

func newBillingProbe(g *global) *cobra.Command {
	var o billingProbeOptions
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
		Args: noWords,
		RunE: g.run(func(ctx context.Context) error { return runBillingProbe(ctx, g, o) }),
	}
	f := flagsOf(c)
	o.providerOptions.addFlags(f)
	f.span(&o.every, "every", 20*time.Second, "how often to read the bill")
	f.span(&o.long, "for", 30*time.Minute, "how long to watch it; several times what one of its steps takes")
	o.outputOptions.addFlags(f)
	return c
}

func runBillingProbe(ctx context.Context, g *global, o billingProbeOptions) (err error) {
	const what = "billing probe"
	asJSON, err := o.json(what)
	if err != nil {
		return err
	}
	path, err := g.ledgerPath()
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(ctx)
	defer stop()
	// A ledger that is there is taken at once: half an hour is not to be measured in
	// vain, and the series go on from where they are. One that is not there is made
	// only when there is something to write.
	var led *ledger.Ledger
	var history billingapi.History
	if _, err := os.Stat(path); err == nil {
		if led, err = g.openToProbe(path); err != nil {
			return err
		}
		history = &billing.LedgerHistory{Ledger: led.Reader}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer func() {
		if led != nil {
			err = errors.Join(err, led.Close())
		}
	}()
	p, end, err := o.open(g, what, history)
	if err != nil {
		return err
	}
	defer end()

	m, err := probe(ctx, g.stderr, p, o)
	if err != nil {
		return err
	}
	if led == nil {
		if led, err = g.openToProbe(path); err != nil {
			return err
		}
	}
	if err := led.SetCalibration(ledger.Calibration{
		Provider: m.Provider, Account: m.Account, Step: m.Step, Lag: m.Lag, At: m.To,
	}); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if asJSON {
		return writeJSON(g.stdout, probedOf(m, g.demo))
	}
	return writeProbed(g.stdout, m, path, g.demo)
}

// openToProbe opens the ledger that a probe writes to.
func (g *global) openToProbe(path string) (*ledger.Ledger, error) {
	led, err := ledger.Open(ledger.Config{Path: path, Demo: g.demo, Now: g.now, Log: slog.New(slog.DiscardHandler)})
	if errors.Is(err, ledger.ErrInUse) {
		return nil, hint.Errorf("stop serve first: the probe writes to its ledger", "billing probe: %w", err)
	}
	return led, err
}

// probe measures the bill, and tells of each poll that is news.
func probe(ctx context.Context, progress io.Writer, p billingapi.Provider, o billingProbeOptions) (m billing.Measured, err error) {
	const what = "billing probe"
	cfg := billing.ProbeConfig{Provider: p, Every: o.every, For: o.long, OnPoll: func(p billing.Poll) {
		at := p.At.UTC().Format(time.TimeOnly)
		switch {
		case p.Err != nil:
			fmt.Fprintf(progress, "spotinference: %s no bill: %v\n", at, p.Err)
		case p.Moved != 0:
			fmt.Fprintf(progress, "spotinference: %s bill %s (+%s)\n", at, p.Bill, p.Moved)
		}
	}}
	if err := cfg.Check(); err != nil {
		return m, usagef("", "%s: %w", what, err)
	}
	fmt.Fprintf(progress, "spotinference: probing the bill of %s every %s for %s\n", p.Name(), o.every, o.long)
	m, err = billing.Probe(ctx, cfg)
	switch {
	case ctx.Err() != nil:
		return m, hint.Errorf("let it run for "+o.long.String()+", or give it another --for", "%s: stopped before its time: nothing was written", what)
	case err != nil:
		if f := new(billingapi.Failure); errors.As(err, &f) {
			return m, noSample(what, err)
		}
		return m, fmt.Errorf("billing %w: nothing was written", err)
	}
	return m, nil
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
