package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"spotinference/ledger"
)

// text puts the answer first, then what it was made from, then what to know
// before one believes it.
func (c CostReport) text() string {
	var b strings.Builder
	if c.Refused() {
		heading(&b, "Cost", Span{c.Window.AskedFrom, c.Window.AskedTo}, c.Demo)
		b.WriteString("\n")
		paragraph(&b, "Not known: "+c.source.explainReason(c.Reason))
		b.WriteString("\n")
		t := c.source.asked
		writeRows(&b, []row{
			{"requests", count(t.Requests()), "in this window, without a price"},
			{"prompt tokens", count(t.Usage.PromptTokens), cachedText(t.Usage.CachedTokens, t.Usage.PromptTokens)},
			{"output tokens", count(t.Usage.CompletionTokens), ""},
		})
	} else {
		heading(&b, "Cost", Span{*c.Window.From, *c.Window.To}, c.Demo)
		b.WriteString("\n")
		writeRows(&b, c.rows())
		c.writeTables(&b)
	}
	for i, r := range c.remarks() {
		if i == 0 {
			b.WriteString("\n")
		}
		paragraph(&b, r)
	}
	if c.source.query.Proof && !c.Refused() {
		b.WriteString(c.proofText())
	}
	c.Chain.write(&b)
	return b.String()
}

// rows are the figures of a report that has them.
func (c CostReport) rows() []row {
	price := row{"per million output tokens", "-", "no output token was made"}
	if c.CostPerMillion != nil {
		price.value, price.aside = money(c.Currency, *c.CostPerMillion), ""
	}
	rows := []row{price}
	if c.Band.over > 1 {
		rows = append(rows,
			row{"  low", money(c.Currency, *c.Band.Low), fmt.Sprintf("of %d buckets of %s with output", c.Band.over, spell(c.source.bucket))},
			row{"  median", money(c.Currency, *c.Band.Median), ""},
			row{"  high", money(c.Currency, *c.Band.High), ""})
	}
	rows = append(rows,
		row{"utilisation", percent(c.Utilisation), "of the time a request ran; finished ones only"},
		row{"spend", money(c.Currency, *c.Spend.Net), "from the bill of " + c.source.spend.Provider})
	for i, field := range c.Split.fields() {
		part := ledger.SpendPart(i)
		if d := *field; d != nil && (*d != "0" || part == ledger.PartServing || part == ledger.PartIdle) {
			rows = append(rows, row{"  " + part.String(), money(c.Currency, *d), part.Help()})
		}
	}
	if *c.Spend.Gross != *c.Spend.Net {
		rows = append(rows, row{"spend before credits", money(c.Currency, *c.Spend.Gross), "what the budget counts"})
	}
	return append(rows,
		row{"output tokens", count(c.CompletionTokens), ""},
		row{"prompt tokens", count(c.PromptTokens), cachedText(c.CachedTokens, c.PromptTokens)},
		row{"requests", count(c.Requests), ""},
		row{"samples", count(int64(c.Samples.Count)), fmt.Sprintf("of the bill, #%d to #%d", c.Samples.From.ID, c.Samples.To.ID)})
}

// text says what is still without a price, and when that ends.
func (p Pending) text() string {
	s := fmt.Sprintf("%s with %s finished after the last sample, in no figure yet;",
		plural(p.Requests, "request"), plural(p.CompletionTokens, "output token"))
	if p.NextSampleAt == nil {
		return s + " no sample is on its way."
	}
	return s + " the next sample is due at " + timeText(*p.NextSampleAt) + "."
}

// scope says what the money is for, and what it is not for.
func (c CostReport) scope() string {
	if slices.Contains(c.Flags, ledger.FlagAccountTruth) {
		return "Counted: everything that the account is billed for. Not counted: what other accounts pay, such as the machine of the gateway."
	}
	return "Counted: GPU compute and this box's volumes. Not counted: egress and other machines, the gateway's own among them."
}

// explainReason says why the spend is not known, and what would make it known.
func (src source) explainReason(reason string) string {
	q, last := src.query, src.spend.To.At
	switch reason {
	case ReasonNoProvider:
		return "serve runs with --provider none, so nobody reads a bill. The tokens are counted, the money is not."
	case ReasonNoSamples:
		if src.hasNext {
			return "the first sample of the bill is from " + timeText(src.next) + ", after this window."
		}
		return "the ledger holds no sample of the bill. serve takes them, and its log says why one fails."
	case ReasonOneSample:
		return src.explainOneSample()
	}
	switch { // dark
	case src.spend.RatesOnly():
		return "the samples show rates and no bill, and a rate is not what was spent."
	case !last.After(q.Window.From):
		return fmt.Sprintf("the bill was last seen at %s, before this window began. serve's log says why the samples ended.", timeText(last))
	}
	// To the second, and upwards: what a person can type is not before the sample.
	until := last.Add(time.Second - 1).Truncate(time.Second)
	return fmt.Sprintf("the bill was last seen at %s, %s before the end of this window; what was spent since then cannot be known. Ask up to there: --until %s",
		timeText(last), length(q.Window.To.Sub(last)), stamp(until))
}

func (src source) explainOneSample() string {
	at := src.spend.To.At
	switch next := nextSample(src.newest, src.query.Now); {
	case src.hasNext && !at.After(src.query.Window.From):
		return fmt.Sprintf("this window lies between two samples of the bill, at %s and at %s. Ask for one that holds both.", timeText(at), timeText(src.next))
	case src.hasNext:
		return fmt.Sprintf("spend is the difference of two samples of the bill, and only the first one, at %s, lies at or before the end of this window.", timeText(at))
	case !src.alone:
		return fmt.Sprintf("this window begins after the last sample of the bill, at %s, and the next is still to come. Ask for a longer one.", timeText(at))
	case next != nil:
		return fmt.Sprintf("spend is the difference of two samples of the bill, and there is one so far, at %s. The next is due at %s.", timeText(at), timeText(*next))
	}
	return fmt.Sprintf("spend is the difference of two samples of the bill, and there is only one, at %s. serve's log says why no other came.", timeText(at))
}

// bounds says where the samples moved the window further than a sampler's beat
// does: a figure for another time than was asked for must not go unseen.
func (src source) bounds() []string {
	var notes []string
	slack := src.spend.Every * 5 / 2 // as for a gap
	q, sp := src.query.Window, src.spend
	if early := q.From.Sub(sp.From.At); early > slack {
		notes = append(notes, fmt.Sprintf("note: begins %s before the asked start: no sample of the bill is nearer.", length(early)))
	}
	if short := q.To.Sub(sp.To.At); short > slack && src.hasNext {
		notes = append(notes, fmt.Sprintf("note: ends %s before the asked end: the next sample of the bill is from %s.", length(short), timeText(src.next)))
	}
	return notes
}

// warnings are the flags under which a figure may be plainly wrong, or not be
// the one that was meant; they come before all other remarks.
var warnings = []string{FlagStale, FlagFrozen, FlagNoProvider, ledger.FlagUnknownBill}

// remarks are what to know before one believes the figures, gravest first. Where
// there are no figures, only what may explain that is left.
func (c CostReport) remarks() []string {
	var warn, notes []string
	for _, f := range c.Flags {
		switch {
		case !slices.Contains(warnings, f):
			notes = append(notes, "note: "+c.source.explainFlag(f))
		case !c.Refused() || f == FlagStale || f == FlagNoProvider:
			warn = append(warn, "warning: "+c.source.explainFlag(f))
		}
	}
	notes = append(notes, overrideTexts(c.Overrides)...)
	if c.Refused() {
		return append(warn, overrideTexts(c.Overrides)...)
	}
	if c.BeforeLedger.Gross != nil {
		warn = append(warn, c.BeforeLedger.text(c.Currency))
	}
	all := append(warn, c.source.bounds()...)
	if c.Pending.Requests > 0 {
		all = append(all, "pending: "+c.Pending.text())
	}
	return append(append(append(all, notes...), c.methods()...), c.scope())
}

// methods say how a division was made, where there is more than one way.
func (c CostReport) methods() []string {
	var notes []string
	if c.source.even > 0 && c.Split.Serving != nil {
		notes = append(notes, fmt.Sprintf("note: the spend is split by the time in each state within %s, not within each minute.", spell(c.source.even)))
	}
	if c.By == ByNothing {
		return notes
	}
	if c.Split.Serving == nil {
		return append(notes, fmt.Sprintf("note: the share is by output tokens. What serving cost is not known, for the ledger does not hold the engine's states, so that no spend is put to a %s.", c.By))
	}
	return append(notes, fmt.Sprintf("note: the share is by output tokens, and so is the spend while the engine served. What it cost while it did not is put to no %s.", c.By))
}

// explainFlag says what a flag means for the figures.
func (src source) explainFlag(flag string) string {
	sp := src.spend
	switch flag {
	case FlagStale:
		return fmt.Sprintf("the last sample of the bill is %s old; nothing after it is counted. serve's log says why the samples ended.",
			length(src.query.Window.To.Sub(sp.To.At)))
	case FlagNoProvider:
		return "serve now runs with --provider none: the bill is not read any more."
	case FlagFrozen:
		return "the machine runs and its bill stands still, so the provider's figures are dead and the spend is too low."
	case FlagDrift:
		return fmt.Sprintf("the engine's own counters and the ledger disagree about the tokens, seen first at %s: the price may be off. `spotinference report meter` shows by how much.", timeText(src.drifted))
	case FlagLowerBound:
		return lowerBoundText(src.priced.LowerBound)
	case FlagResidual:
		return src.residualText()
	case FlagUnsettled:
		if src.bucket != NoBucket && src.bucket < src.step {
			return fmt.Sprintf("the bill moves in steps of %s, and a bucket of %s shows the steps, not the price of its tokens; so there is no band.", spell(src.step), spell(src.bucket))
		}
		return fmt.Sprintf("this window is shorter than the %s in which the bill moves: the spend may be a step too high or too low.", spell(src.step))
	case ledger.FlagStartsLate:
		return fmt.Sprintf("begins %s after the asked start, at the ledger's first sample; what was billed before is not in the spend.",
			length(sp.From.At.Sub(src.query.Window.From)))
	case ledger.FlagFirstSeen:
		return "a resource was first seen inside the window; what it was billed before is not in the spend."
	case ledger.FlagGone:
		return "a resource left the bill; it is counted up to its last sight."
	case ledger.FlagUnseen:
		return "a resource was out of sight for a while; what it was billed meanwhile counts where it was seen again."
	case ledger.FlagEpochChanged:
		return "a bill began anew; what was billed between the last sight of the old one and the first of the new is not in the spend."
	case ledger.FlagAdjusted:
		return "a bill fell: a refund, a credit or a correction. The spend is after it."
	case ledger.FlagUnknownBill:
		return "a resource came without its bill in some samples; where its last ones did, the spend is too low."
	case ledger.FlagAccountTruth:
		return "the bill is the whole account's: whatever else runs on it is in the spend."
	case ledger.FlagUncalibrated:
		return "how often and how late this bill moves was never measured on this account; its last minutes may be missing."
	case ledger.FlagGaps:
		return src.gapsText()
	}
	return flag + "." // a flag of a ledger that knows more than we do
}

// residualText says what the account paid in the latest of the spans, which is no part
// of the spend.
func (src source) residualText() string {
	r := src.residual[0]
	amount := func(n ledger.Nanos) string { return money(r.Currency, *nanosDecimal(n)) }
	s := fmt.Sprintf("the account paid %s from %s, and what is counted here was billed %s at the most: something else on it costs money.",
		amount(r.Paid), period(Span{r.From, r.To}), amount(r.Billed))
	if n := len(src.residual) - 1; n > 0 {
		s += fmt.Sprintf(" So it was in %s before.", plural(int64(n), "span"))
	}
	return s
}

// shownGaps is how many gaps the text names; JSON and CSV name all.
const shownGaps = 3

func (src source) gapsText() string {
	var parts []string
	for i, g := range src.spend.Gaps {
		if i == shownGaps {
			parts = append(parts, fmt.Sprintf("and %d more", len(src.spend.Gaps)-shownGaps))
			break
		}
		parts = append(parts, fmt.Sprintf("%s (%s)", period(Span(g)), length(g.To.Sub(g.From))))
	}
	return "samples are missing, which leaves the sum right and hides when it was spent: " + strings.Join(parts, ", ") + "."
}

func lowerBoundText(n int64) string {
	if n == 1 {
		return "1 request was cut before its last count; it made at least the tokens shown."
	}
	return count(n) + " requests were cut before their last count; they made at least the tokens shown."
}
