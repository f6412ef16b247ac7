package cli

import (
	"errors"
	"io"
	"time"

	"spotinference/ledger"
	"spotinference/ledger/report"
)

// windowOptions are the flags that every report has.
type windowOptions struct{ window, until, format string }

func (o *windowOptions) addFlags(f flags) {
	f.text(&o.window, "window", "24h", "how far back to look: a duration such as 90m or 24h, or days such as 7d")
	f.text(&o.until, "until", "now", "where the window ends: now, or a time such as 2026-11-23T12:00:00Z")
	f.text(&o.format, "output", "text", "text, json or csv")
}

// question is what a report is asked, and of which ledger.
type question struct {
	window   ledger.Window
	explicit bool
	now      time.Time
	format   report.Format
	demo     bool
	ledger   *ledger.Reader
}

// ask reads the flags of a report, and then opens the ledger. The caller closes it.
func (g *global) ask(o windowOptions) (q question, err error) {
	now := g.now()
	span, err := report.ParseWindow(o.window)
	if err != nil {
		return q, usageError{err}
	}
	until, explicit, err := report.ParseUntil(o.until, now)
	if err != nil {
		return q, usageError{err}
	}
	format, err := report.ParseFormat(o.format)
	if err != nil {
		return q, usageError{err}
	}
	r, err := g.openReader()
	if err != nil {
		return q, err
	}
	return question{
		window: ledger.Window{From: until.Add(-span), To: until}, explicit: explicit, now: now,
		format: format, demo: g.demo, ledger: r,
	}, nil
}

// defaultMaxSampleAge is the oldest bill that counts as seen, where nobody says another.
const defaultMaxSampleAge = 3 * time.Minute

// ageOptions is --max-sample-age of a report.
type ageOptions struct{ maxSampleAge time.Duration }

func (o *ageOptions) addFlags(f flags) {
	f.span(&o.maxSampleAge, "max-sample-age", defaultMaxSampleAge, "the oldest bill that still counts as seen")
}

func (o ageOptions) check(what string) error {
	if o.maxSampleAge <= 0 {
		return usagef("give a duration such as 3m", "%s: --max-sample-age %s: must be positive", what, o.maxSampleAge)
	}
	return nil
}

// figures is a report that may have to say that the ledger cannot tell.
type figures interface {
	Write(io.Writer, report.Format) error
	Refused() bool
}

// writeFigures prints a report. One that has no figure is printed, too, and is a refusal
// for the reason.
func (g *global) writeFigures(what string, f figures, format report.Format, reason string) error {
	if err := f.Write(g.stdout, format); err != nil {
		return err
	}
	if f.Refused() {
		return refusedError{what + ": no figure: " + reason}
	}
	return nil
}

// asked makes a question that cannot be asked so an error of usage.
func asked(err error) error {
	if errors.Is(err, report.ErrQuestion) {
		return usageError{err}
	}
	return err
}

// refuses3 is what the reports exit with that would have to guess.
const refuses3 = "3  the ledger cannot tell: the report says why and has no figure"
