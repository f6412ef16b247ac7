package report

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"spotinference/ledger"
)

// Why a cost report holds no price. All but ReasonNoTokens refuse the spend too.
const (
	ReasonNoSamples  = "no_samples"  // no billing sample lies at or before the window's end
	ReasonOneSample  = "one_sample"  // one sample is no difference
	ReasonNoTokens   = "no_tokens"   // the spend is known, and nothing to divide it by
	ReasonDark       = "dark"        // the figure needs minutes in which nobody saw the bill
	ReasonNoProvider = "no_provider" // the operator serves without a bill
)

// Flags that a cost report adds to those of a ledger.Spend.
const (
	FlagStale      = "stale"       // the newest sample is old: the report ends there
	FlagFrozen     = "frozen"      // the bill stands still although the machine runs
	FlagLowerBound = "lower_bound" // some requests were cut: they made at least so many tokens
	FlagResidual   = "residual"    // the account paid for more than is sampled
	FlagNoProvider = "no_provider" // no bill is followed any more: the figures are from before
)

// CostQuery asks what a window cost.
type CostQuery struct {
	Window ledger.Window
	// Explicit says that the user named the window's end. Then the figure must
	// reach it; otherwise the report may end where the data does.
	Explicit bool
	Now      time.Time
	// MaxSampleAge is how long after a sample the bill still counts as seen.
	MaxSampleAge time.Duration
	// Bucket is the length of the table's buckets, or AutoBucket, or NoBucket.
	Bucket time.Duration
	// Chart says that the answer is to be drawn: AutoBucket then cuts a short
	// window, too.
	Chart bool
	By    By
	// Proof asks for what the subtraction can be done again with, by hand.
	Proof bool
	Demo  bool

	wakes []ledger.Window // whose shares of the spend are asked for, in order, none within another
}

// CostReport is the spend in a window, the tokens made in it, and the one
// divided by the other. What is not known is null, never zero.
type CostReport struct {
	Window   CostWindow `json:"window"`
	Currency string     `json:"currency"` // ISO 4217; "" where there is no sample
	Spend    Spend      `json:"spend"`
	// Requests that finished in the snapped window, and their tokens; in the asked one
	// where there is none, or no bill is read.
	Requests         int64 `json:"requests"`
	PromptTokens     int64 `json:"prompt_tokens"` // cached ones included
	CachedTokens     int64 `json:"cached_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
	// CostPerMillion is net ÷ completion tokens × 1e6, divided once, rounded half
	// away from zero to 9 decimals, without trailing zeros.
	CostPerMillion *Decimal `json:"cost_per_million_output_tokens"`
	Reason         string   `json:"reason"`
	Samples        Samples  `json:"samples"`
	// BeforeLedger is what was billed in the window before the ledger's first own
	// sample, as far as the provider tells: in the budget, and in no other figure here.
	BeforeLedger BeforeLedger `json:"before_ledger"`
	Pending      Pending      `json:"pending"`
	Flags        []string     `json:"flags"` // sorted, each once
	Demo         bool         `json:"demo"`
	Chain        Chain        `json:"chain"`
	Band         Band         `json:"band"`
	// Utilisation is the share of the snapped window in which at least one
	// request was in the engine, in four digits: "0.3720". Requests that still
	// run are not in it.
	Utilisation *Decimal `json:"utilisation"`
	Split       Split    `json:"split"`
	By          By       `json:"by"`
	Groups      []Group  `json:"groups"`  // by By, those with the most output first
	Buckets     []Bucket `json:"buckets"` // in order, without a hole

	Overrides []Override `json:"overrides,omitempty"` // of the budget, in the asked window

	source source
}

// CostWindow holds the window that was asked for and the one that the samples
// allow: from the instant of one sample to the instant of another.
type CostWindow struct {
	From      *time.Time `json:"from"`
	To        *time.Time `json:"to"`
	AskedFrom time.Time  `json:"asked_from"`
	AskedTo   time.Time  `json:"asked_to"`
}

// Spend is what the bill grew by. Net is what the invoice will say; gross does
// not go down with a refund.
type Spend struct {
	Net   *Decimal `json:"net"`
	Gross *Decimal `json:"gross"`
}

// Samples names the two samples that were subtracted, how many there are from
// the one to the other, and where some are missing between them.
type Samples struct {
	From  *SampleRef `json:"from"`
	To    *SampleRef `json:"to"`
	Count int        `json:"count"`
	Gaps  []Span     `json:"gaps"`
}

// BeforeLedger is what was billed from one instant to the ledger's first own sample, a
// refund not taken off: what the budget counts. All is null where nothing was, or is
// known.
type BeforeLedger struct {
	Gross *Decimal   `json:"gross"`
	From  *time.Time `json:"from"`
	To    *time.Time `json:"to"`
}

func beforeLedger(b *ledger.BeforeSpend) BeforeLedger {
	if b == nil || b.Gross == 0 {
		return BeforeLedger{}
	}
	return BeforeLedger{Gross: nanosDecimal(b.Gross), From: &b.Since, To: &b.Until.At}
}

// text says what it is, as budget show and status do.
func (b BeforeLedger) text(currency string) string {
	per := "month"
	switch length := b.To.Sub(*b.From); {
	case length <= time.Hour:
		per = "hour"
	case length <= 25*time.Hour: // a day whose clocks go back
		per = "day"
	}
	return fmt.Sprintf("before this ledger: %s, in the %s's budget, not in this figure.", money(currency, *b.Gross), per)
}

// SampleRef names a sample of the ledger.
type SampleRef struct {
	ID int64     `json:"id"`
	At time.Time `json:"at"`
}

// Pending is what finished after the newest sample, up to the asked end: it is
// in no other figure yet.
type Pending struct {
	Requests         int64 `json:"requests"`
	CompletionTokens int64 `json:"completion_tokens"`
	// NextSampleAt is null where no sample is to be expected: there is no
	// sampler, or it has missed its turn.
	NextSampleAt *time.Time `json:"next_sample_at"`
}

// Refused tells whether the spend is not known, and so neither is the price.
func (c CostReport) Refused() bool { return c.Reason != "" && c.Reason != ReasonNoTokens }

// counted are the requests that the report shows: those of the snapped window, or all
// that were asked for where there is none.
func (src source) counted(reason string) ledger.Totals {
	if !src.sampled || reason == ReasonNoProvider {
		return src.asked
	}
	return src.priced
}

// source is what the ledger told, beyond what the report publishes: its text
// explains itself with it.
type source struct {
	query    CostQuery
	provider string       // as serve noted it, ledger.NoProvider among others
	spend    ledger.Spend // zero where not sampled
	sampled  bool         // a sample lies at or before the window's end
	alone    bool         // and no other before that
	next     time.Time    // the first sample after the window's end
	hasNext  bool
	newest   ledger.Sample // zero where the ledger has no sample
	priced   ledger.Totals // of the snapped window
	asked    ledger.Totals // of the asked window
	step     time.Duration // in which the bill moves, by the last sample's word
	bucket   time.Duration // length of the buckets, NoBucket for none
	even     time.Duration // see ledger.Timeline
	proof    proof
	wakes    []ledger.Nanos    // by the index in query.wakes; nil where not known
	residual []ledger.Residual // of the snapped window
	drifted  time.Time         // first, from the snapped window's start to the asked end; zero where nothing did
}

// window is the snapped window.
func (src source) window() ledger.Window {
	return ledger.Window{From: src.spend.From.At, To: src.spend.To.At}
}

// Cost subtracts two samples of the bill and divides by the tokens between them.
// A window whose money is not known is no error: see Refused.
func Cost(r *ledger.Reader, q CostQuery) (CostReport, error) {
	c, err := cost(r, q)
	if err == nil {
		c.Chain, err = chainOf(r)
	}
	if err != nil {
		return CostReport{}, fmt.Errorf("report cost: %w", err)
	}
	return c, nil
}

func cost(r *ledger.Reader, q CostQuery) (c CostReport, err error) {
	if q.Window, err = checkWindow(q.Window); err != nil {
		return c, err
	}
	src, err := gather(r, q)
	if err != nil {
		return c, err
	}
	counted := src.counted(src.reason())
	c = CostReport{
		Window:           CostWindow{AskedFrom: q.Window.From, AskedTo: q.Window.To},
		Currency:         src.newest.Currency,
		Requests:         counted.Requests(),
		PromptTokens:     counted.Usage.PromptTokens,
		CachedTokens:     counted.Usage.CachedTokens,
		CompletionTokens: counted.Usage.CompletionTokens,
		Reason:           src.reason(),
		Samples:          Samples{Gaps: []Span{}},
		Flags:            []string{},
		Demo:             q.Demo,
		By:               q.By,
		Groups:           []Group{},
		Buckets:          []Bucket{},
	}
	if src.sampled {
		from, to := SampleRef(src.spend.From), SampleRef(src.spend.To)
		c.Window.From, c.Window.To = &from.At, &to.At
		c.Samples.From, c.Samples.To, c.Samples.Count = &from, &to, src.spend.Count
		c.BeforeLedger = beforeLedger(src.spend.Before)
		for _, g := range src.spend.Gaps {
			c.Samples.Gaps = append(c.Samples.Gaps, Span(g))
		}
	}
	if !c.Refused() {
		c.Spend = Spend{Net: nanosDecimal(src.spend.Net), Gross: nanosDecimal(src.spend.Gross)}
		c.CostPerMillion = perMillion(src.spend.Net, c.CompletionTokens)
		if err := c.detail(r, &src); err != nil {
			return c, err
		}
	}
	if c.Overrides, err = overridden(r, q.Window); err != nil {
		return c, err
	}
	c.source = src
	if c.Pending, err = src.pending(r); err != nil {
		return c, err
	}
	c.Flags, err = src.flags(r, c.Reason)
	return c, err
}

// detail fills in what a report with a spend has beyond its one figure: when the
// spend was made, and what for.
func (c *CostReport) detail(r *ledger.Reader, src *source) error {
	var edges []time.Time
	var err error
	if src.bucket != NoBucket {
		if edges, err = r.CutAtSamples(src.window(), src.bucket); err != nil {
			return err
		}
		if c.Buckets, err = src.buckets(r, edges); err != nil {
			return err
		}
		if src.bucket >= src.step {
			c.Band = bandOf(c.Buckets)
		}
	}
	timeline, err := r.Timeline(src.spend, edges, src.query.wakes)
	if err != nil {
		return err
	}
	src.even = timeline.Even
	c.Utilisation = utilisation(timeline.Busy, src.spend.To.At.Sub(src.spend.From.At))
	for i := range c.Buckets {
		k := &c.Buckets[i]
		k.Utilisation = utilisation(timeline.BusyIn[i], k.To.Sub(k.From))
	}
	net, gross, err := r.Split(timeline)
	if err != nil {
		return err
	}
	c.Split = splitOf(net)
	if net != nil {
		src.wakes = net.Wakes
	}
	if src.query.By != ByNothing {
		if c.Groups, err = src.groups(r, net, gross); err != nil {
			return err
		}
	}
	if src.query.Proof {
		src.proof, err = prove(r, src.spend)
	}
	return err
}

// gather asks the ledger. serve may write a sample between two of the questions,
// so that everything hangs on the sample that Spent chose.
func gather(r *ledger.Reader, q CostQuery) (source, error) {
	src := source{query: q}
	var err error
	src.spend, err = r.Spent(q.Window.From, q.Window.To)
	switch {
	case err == nil:
		src.sampled = true
	case !errors.Is(err, ledger.ErrNoSamples):
		return src, err
	}
	served, err := r.TotalsOf([]ledger.Window{src.window(), q.Window}) // the snapped one is empty where not sampled
	if err != nil {
		return src, err
	}
	src.priced, src.asked = served[0], served[1]
	if src.sampled {
		_, earlier, err := r.SampleBefore(src.spend.From.At.Add(-time.Microsecond))
		if err != nil {
			return src, err
		}
		src.alone = src.spend.Count == 1 && !earlier
		last, _, err := r.Sample(src.spend.To.ID)
		if err != nil {
			return src, err
		}
		src.step = last.Step
		if src.residual, err = r.Residuals(src.spend.From.At, src.spend.To.At); err != nil {
			return src, err
		}
	}
	metered := q.Window
	if src.sampled {
		metered.From = src.spend.From.At
	}
	if src.drifted, err = drifted(r, metered); err != nil {
		return src, err
	}
	if src.bucket, err = bucketLength(q, src.step); err != nil {
		return src, err
	}
	if src.next, src.hasNext, err = r.SampleAfter(q.Window.To.Add(time.Microsecond)); err != nil {
		return src, err
	}
	if src.newest, _, err = r.Newest(); err != nil {
		return src, err
	}
	src.provider, err = r.Provider()
	return src, err
}

// reason is why there is no price, "" where there is one.
func (src source) reason() string {
	switch {
	case src.provider == ledger.NoProvider && !(src.sampled && src.spend.To.At.After(src.query.Window.From)):
		return ReasonNoProvider
	case !src.sampled:
		return ReasonNoSamples
	case src.spend.RatesOnly():
		return ReasonDark
	case src.spend.Count == 1 && (src.alone || !src.dark()):
		return ReasonOneSample
	case src.spend.Count == 1, src.query.Explicit && src.dark():
		return ReasonDark
	case src.priced.Usage.CompletionTokens == 0:
		return ReasonNoTokens
	}
	return ""
}

// dark tells whether the window's end lies where nobody has seen the bill: long
// after the last sample, and before no other.
func (src source) dark() bool {
	return !src.hasNext && src.query.Window.To.Sub(src.spend.To.At) > src.query.MaxSampleAge
}

// pending sums what no sample covers yet.
func (src source) pending(r *ledger.Reader) (p Pending, err error) {
	if src.provider != ledger.NoProvider {
		p.NextSampleAt = nextSample(src.newest, src.query.Now)
	}
	if src.hasNext {
		return p, nil
	}
	t := src.asked
	if src.sampled {
		if t, err = r.Totals(src.spend.To.At, src.query.Window.To); err != nil {
			return p, err
		}
	}
	p.Requests, p.CompletionTokens = t.Requests(), t.Usage.CompletionTokens
	return p, nil
}

// nextSample is when the sampler takes its next turn: on the next multiple of its
// interval. nil where it has no interval, or let its turn pass.
func nextSample(newest ledger.Sample, now time.Time) *time.Time {
	if newest.Every <= 0 {
		return nil
	}
	next := newest.At.Truncate(newest.Every).Add(newest.Every)
	if now.Sub(next) > newest.Every {
		return nil
	}
	return &next
}

// flags are the spend's own and ours, sorted.
func (src source) flags(r *ledger.Reader, reason string) ([]string, error) {
	flags := append([]string{}, src.spend.Flags...)
	add := func(f string, on bool) {
		if on {
			flags = append(flags, f)
		}
	}
	frozen, err := src.frozen(r)
	if err != nil {
		return nil, err
	}
	add(FlagFrozen, frozen)
	add(FlagResidual, len(src.residual) > 0)
	add(FlagDrift, !src.drifted.IsZero())
	add(FlagLowerBound, src.counted(reason).LowerBound > 0)
	if reason != ReasonNoProvider && reason != ReasonDark {
		add(FlagStale, src.sampled && src.dark())
	}
	if reason == "" || reason == ReasonNoTokens {
		add(FlagUnsettled, src.spend.To.At.Sub(src.spend.From.At) < src.step || src.bucket != NoBucket && src.bucket < src.step)
	}
	add(FlagNoProvider, src.provider == ledger.NoProvider && src.sampled && reason != ReasonNoProvider)
	slices.Sort(flags)
	return slices.Compact(flags), nil
}

// frozen tells whether the report ends on a bill that stands still to this day. A
// bill that froze later than that does no harm to it.
func (src source) frozen(r *ledger.Reader) (bool, error) {
	resource, _, frozen, err := r.Frozen()
	if err != nil || !frozen || !src.sampled || src.spend.Count == 1 {
		return false, err
	}
	since, err := r.Spent(src.spend.To.At, src.newest.At)
	if err != nil {
		return false, err
	}
	for _, s := range since.Resources {
		if s.Resource == resource && (s.Net != 0 || s.Gross != 0) {
			return false, nil
		}
	}
	return true, nil
}

// Write writes the report.
func (c CostReport) Write(w io.Writer, f Format) error {
	switch f {
	case CSV:
		return writeRecords(w, c.table())
	case SVG:
		return writeAll(w, []byte(c.svg()))
	}
	return write(w, f, c, c.text, c.cells)
}

// table is the CSV: one row a group where groups were asked for, else one a
// bucket where buckets were, else the whole report in one row. A report without
// figures is always that one row, for it says why.
func (c CostReport) table() [][]cell {
	var rows [][]cell
	switch {
	case c.Refused():
	case c.By != ByNothing:
		for _, g := range c.Groups {
			rows = append(rows, g.cells(c))
		}
	case c.source.query.Bucket > 0:
		for _, k := range c.Buckets {
			rows = append(rows, k.cells(c))
		}
	}
	if rows == nil {
		rows = append(rows, c.cells())
	}
	return rows
}

func (k Bucket) cells(c CostReport) []cell {
	return []cell{
		{"from", stamp(k.From)},
		{"to", stamp(k.To)},
		{"currency", c.Currency},
		{"net", decimalOrEmpty(k.Net)},
		{"gross", decimalOrEmpty(k.Gross)},
		{"requests", integer(k.Requests)},
		{"completion_tokens", integer(k.CompletionTokens)},
		{"cost_per_million_output_tokens", decimalOrEmpty(k.CostPerMillion)},
		{"utilisation", decimalOrEmpty(k.Utilisation)},
		{"flags", strings.Join(k.Flags, " ")},
		{"demo", strconv.FormatBool(c.Demo)},
	}
}

func (g Group) cells(c CostReport) []cell {
	row := []cell{{string(c.By), g.Name}}
	if c.By == ByKey {
		row = append(row, cell{"id", g.ID})
	}
	return append(row, []cell{
		{"requests", integer(g.Requests)},
		{"prompt_tokens", integer(g.PromptTokens)},
		{"cached_tokens", integer(g.CachedTokens)},
		{"completion_tokens", integer(g.CompletionTokens)},
		{"share", decimalOrEmpty(g.Share)},
		{"currency", c.Currency},
		{"spend", decimalOrEmpty(g.Spend)},
		{"gross", decimalOrEmpty(g.Gross)},
		{"demo", strconv.FormatBool(c.Demo)},
	}...)
}

// cells flattens the report, less its tables. Gaps and overrides are from/to pairs, flags are
// words, with a space between.
func (c CostReport) cells() []cell {
	fromID, fromAt := c.Samples.From.cells()
	toID, toAt := c.Samples.To.cells()
	return append([]cell{
		{"window_from", stampOrEmpty(c.Window.From)},
		{"window_to", stampOrEmpty(c.Window.To)},
		{"window_asked_from", stamp(c.Window.AskedFrom)},
		{"window_asked_to", stamp(c.Window.AskedTo)},
		{"currency", c.Currency},
		{"spend_net", decimalOrEmpty(c.Spend.Net)},
		{"spend_gross", decimalOrEmpty(c.Spend.Gross)},
		{"requests", integer(c.Requests)},
		{"prompt_tokens", integer(c.PromptTokens)},
		{"cached_tokens", integer(c.CachedTokens)},
		{"completion_tokens", integer(c.CompletionTokens)},
		{"cost_per_million_output_tokens", decimalOrEmpty(c.CostPerMillion)},
		{"reason", c.Reason},
		{"samples_from_id", fromID},
		{"samples_from_at", fromAt},
		{"samples_to_id", toID},
		{"samples_to_at", toAt},
		{"samples_count", strconv.Itoa(c.Samples.Count)},
		{"samples_gaps", spanCell(c.Samples.Gaps)},
		{"pending_requests", integer(c.Pending.Requests)},
		{"pending_completion_tokens", integer(c.Pending.CompletionTokens)},
		{"pending_next_sample_at", stampOrEmpty(c.Pending.NextSampleAt)},
		{"flags", strings.Join(c.Flags, " ")},
		{"demo", strconv.FormatBool(c.Demo)},
		{"band_low", decimalOrEmpty(c.Band.Low)},
		{"band_median", decimalOrEmpty(c.Band.Median)},
		{"band_high", decimalOrEmpty(c.Band.High)},
		{"utilisation", decimalOrEmpty(c.Utilisation)},
		{"split_serving", decimalOrEmpty(c.Split.Serving)},
		{"split_idle", decimalOrEmpty(c.Split.Idle)},
		{"split_waking", decimalOrEmpty(c.Split.Waking)},
		{"split_suspended", decimalOrEmpty(c.Split.Suspended)},
		{"split_down", decimalOrEmpty(c.Split.Down)},
		{"overrides", spanCell(spansOf(c.Overrides))},
		{"before_ledger_gross", decimalOrEmpty(c.BeforeLedger.Gross)},
		{"before_ledger_from", stampOrEmpty(c.BeforeLedger.From)},
		{"before_ledger_to", stampOrEmpty(c.BeforeLedger.To)},
	}, c.Chain.cells()...)
}

func (s *SampleRef) cells() (id, at string) {
	if s == nil {
		return "", ""
	}
	return integer(s.ID), stamp(s.At)
}
