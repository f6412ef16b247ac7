package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"spotinference/billing"
	"spotinference/billing/command"
	"spotinference/ledger"
)

type billingCheckOptions struct {
	providerOptions
	outputOptions
	schema bool
}

func newBillingCheck(g *global) *cobra.Command {
	var o billingCheckOptions
	c := &cobra.Command{
		Use:   "check",
		Short: "Read the bill once and show what was read; no ledger is touched",
		Example: `  spotinference billing check
  spotinference billing check --provider hyperstack --instance 701234`,
		Args: noWords,
		RunE: g.run(func(ctx context.Context) error { return runBillingCheck(ctx, g, o) }),
	}
	f := flagsOf(c)
	o.providerOptions.addFlags(f)
	o.outputOptions.addFlags(f)
	f.on(&o.schema, "schema", "print the JSON schema of what the command of --provider exec must print, and read no bill")
	return c
}

func runBillingCheck(ctx context.Context, g *global, o billingCheckOptions) error {
	const what = "billing check"
	if o.schema {
		_, err := g.stdout.Write(command.Schema())
		return err
	}
	asJSON, err := o.json(what)
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(ctx)
	defer stop()
	p, end, err := o.open(g, what, nil)
	if err != nil {
		return err
	}
	defer end()
	if err := g.warnOfDisk(); err != nil {
		return err
	}
	sample, err := billing.Take(ctx, p, g.now())
	if err != nil {
		return noSample(what, err)
	}
	if asJSON {
		return writeJSON(g.stdout, checkedOf(sample, g.demo))
	}
	return writeChecked(g.stdout, sample, g.demo, g.demo || o.instance != "")
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

// writeChecked prints a sample for people. told: somebody said which machine this is.
func writeChecked(w io.Writer, s ledger.Sample, demo, told bool) error {
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
		if told {
			how = "as it was told"
		}
		box = strings.Join(boxes, ", ") + " (" + how + ")"
	}
	fmt.Fprintf(t, "One sample of the bill, at %s UTC\n", s.At.UTC().Format(time.DateTime))
	if demo {
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
