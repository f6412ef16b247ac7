package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"spotinference/ledger"
)

// FlagDrift is set on a report of tokens where the ledger and the engine's own
// counters disagreed and nothing explained it.
const FlagDrift = "drift"

// MeterReport holds the ledger against the engines' own counters.
type MeterReport struct {
	Window  Span          `json:"window"`
	Engines []EngineMeter `json:"engines"` // each engine process sampled in the window
	Drifts  []MeterDrift  `json:"drifts"`  // in the window, as they were seen
	Flags   []string      `json:"flags"`
	Demo    bool          `json:"demo"`
	Chain   Chain         `json:"chain"`

	Overrides []Override `json:"overrides,omitempty"` // of the budget, in the window
}

// EngineMeter is one engine process, from its start, when its counters began at
// zero, to its last sample in the window.
type EngineMeter struct {
	Engine     string       `json:"engine"`
	Started    time.Time    `json:"started"`
	Sampled    time.Time    `json:"sampled"`
	Requests   int64        `json:"requests"`
	LowerBound int64        `json:"lower_bound"` // requests whose tokens are known only from below
	Prompt     MeterCounter `json:"prompt_tokens"`
	Completion MeterCounter `json:"completion_tokens"`
	// Unchecked are the requests that finished after the last sample and before
	// the next process began, or the window ended: no counter tells of them.
	Unchecked int64 `json:"unchecked_requests"`
}

// MeterCounter is one counter beside the rows.
type MeterCounter struct {
	Engine       int64  `json:"engine"`
	Ledger       int64  `json:"ledger"`
	Rounding     int64  `json:"rounding"`     // the most that rounding explains
	Unattributed int64  `json:"unattributed"` // what the engine has beyond the rows and beyond rounding
	Cause        string `json:"cause"`        // "", "cut", "running", "unsaid" or "drift"
}

// MeterDrift is a disagreement that nothing explained.
type MeterDrift struct {
	At     time.Time `json:"at"`
	Detail string    `json:"detail"` // a JSON object: the counters since they last agreed
}

// Meter holds the requests of each engine process that was sampled in w against
// its counters.
func Meter(r *ledger.Reader, w ledger.Window, demo bool) (MeterReport, error) {
	wrap := func(err error) (MeterReport, error) { return MeterReport{}, fmt.Errorf("report meter: %w", err) }
	w, err := checkWindow(w)
	if err != nil {
		return wrap(err)
	}
	rep := MeterReport{Window: Span(w), Engines: []EngineMeter{}, Flags: []string{}, Demo: demo}
	runs, err := r.EngineRuns(w.From, w.To)
	if err != nil {
		return wrap(err)
	}
	at, err := drifted(r, w)
	if err != nil {
		return wrap(err)
	}
	for i, last := range runs {
		c, err := r.CheckEngine(nil, last)
		if err != nil {
			return wrap(err)
		}
		end := w.To
		if i+1 < len(runs) {
			end = runs[i+1].Started
		}
		rest, err := r.Totals(last.At, end)
		if err != nil {
			return wrap(err)
		}
		rep.Engines = append(rep.Engines, EngineMeter{
			Engine: last.Engine, Started: last.Started, Sampled: last.At, Requests: c.Requests, LowerBound: c.LowerBound,
			Prompt: meterCounter(c.Prompt), Completion: meterCounter(c.Completion), Unchecked: rest.Requests(),
		})
	}
	if rep.Drifts, err = drifts(r, w); err != nil {
		return wrap(err)
	}
	if rep.Overrides, err = overridden(r, w); err != nil {
		return wrap(err)
	}
	if !at.IsZero() {
		rep.Flags = append(rep.Flags, FlagDrift)
	}
	if rep.Chain, err = chainOf(r); err != nil {
		return wrap(err)
	}
	return rep, nil
}

// drifted is when the rows and the engines' counters were first found to disagree in w,
// with nothing to explain it, as serve saw it or as it is now; zero where they agree.
// Every report that flags it asks here.
func drifted(r *ledger.Reader, w ledger.Window) (first time.Time, err error) {
	seen, err := drifts(r, w)
	if err != nil {
		return first, err
	}
	if len(seen) > 0 {
		return seen[0].At, nil
	}
	runs, err := r.EngineRuns(w.From, w.To)
	if err != nil {
		return first, err
	}
	for _, last := range runs {
		c, err := r.CheckEngine(nil, last)
		if err != nil {
			return first, err
		}
		if c.Drift() {
			return last.At, nil
		}
	}
	return first, nil
}

// drifts are those that serve saw in w, never nil.
func drifts(r *ledger.Reader, w ledger.Window) ([]MeterDrift, error) {
	out := []MeterDrift{}
	events, err := r.Events(ledger.EventMeter, w.From, w.To)
	for _, e := range events {
		out = append(out, MeterDrift{e.At, e.Detail})
	}
	return out, err
}

func meterCounter(d ledger.EngineDiff) MeterCounter {
	c := MeterCounter{Engine: d.Engine, Ledger: d.Ledger, Rounding: d.Rounding, Cause: d.Cause}
	if n := d.Difference(); n > d.Rounding {
		c.Unattributed = n
	}
	return c
}

// Write writes the report: as CSV a row for each engine process.
func (m MeterReport) Write(w io.Writer, f Format) error {
	if f == CSV {
		var rows [][]cell
		for _, e := range m.Engines {
			rows = append(rows, e.cells(m))
		}
		return writeUnder(w, EngineMeter{}.cells(m), rows)
	}
	return write(w, f, m, m.text, nil)
}

func (e EngineMeter) cells(m MeterReport) []cell {
	cells := []cell{
		{"window_from", stamp(m.Window.From)},
		{"window_to", stamp(m.Window.To)},
		{"engine", e.Engine},
		{"started", stamp(e.Started)},
		{"sampled", stamp(e.Sampled)},
		{"requests", integer(e.Requests)},
		{"lower_bound", integer(e.LowerBound)},
	}
	for _, c := range []struct {
		name string
		MeterCounter
	}{{"prompt_tokens", e.Prompt}, {"completion_tokens", e.Completion}} {
		cells = append(cells,
			cell{c.name + "_engine", integer(c.Engine)},
			cell{c.name + "_ledger", integer(c.Ledger)},
			cell{c.name + "_rounding", integer(c.Rounding)},
			cell{c.name + "_unattributed", integer(c.Unattributed)},
			cell{c.name + "_cause", c.Cause})
	}
	return append(cells,
		cell{"unchecked_requests", integer(e.Unchecked)},
		cell{"flags", strings.Join(m.Flags, " ")},
		cell{"demo", strconv.FormatBool(m.Demo)})
}

func (m MeterReport) text() string {
	var b strings.Builder
	heading(&b, "Meter", m.Window, m.Demo)
	if len(m.Engines) == 0 {
		b.WriteString("\n")
		paragraph(&b, "No engine's counters were sampled in this window.")
	}
	for _, e := range m.Engines {
		fmt.Fprintf(&b, "\n%s, from its start to its last sample: %s\n\n", e.Engine, period(Span{e.Started, e.Sampled}))
		t := table{{"tokens", "engine", "ledger", "difference", ""}}
		for _, c := range []struct {
			name string
			MeterCounter
		}{{"prompt", e.Prompt}, {"output", e.Completion}} {
			t = append(t, []string{c.name, count(c.Engine), count(c.Ledger), count(c.Engine - c.Ledger), c.text(e)})
		}
		t.write(&b, "", 1, 2, 3)
		if e.Unchecked > 0 {
			b.WriteString("\n")
			paragraph(&b, "note: "+plural(e.Unchecked, "request")+" finished after its last sample, where no counter tells of them.")
		}
	}
	b.WriteString("\n")
	for _, d := range m.Drifts {
		paragraph(&b, "drift at "+timeText(d.At)+": "+d.Detail)
	}
	for _, note := range overrideTexts(m.Overrides) {
		paragraph(&b, note)
	}
	paragraph(&b, "An engine's counters begin at zero when its process starts. llama-server's prompt counter leaves out what came from its cache, and so does the ledger's figure beside it. What an engine made to prove that it woke is taken off its count. A difference that no cut or running request and no rounding explains is a drift.")
	m.Chain.write(&b)
	return b.String()
}

// text says where the difference comes from.
func (c MeterCounter) text(e EngineMeter) string {
	switch c.Cause {
	case ledger.DiffCut:
		return "unattributed: " + plural(e.LowerBound, "request") + " cut before the engine's last word"
	case ledger.DiffRunning:
		return "requests were running"
	case ledger.DiffUnsaid:
		return "how vLLM counts a prompt of several choices is not known"
	case ledger.DiffDrift:
		return "DRIFT: nothing explains it"
	}
	if c.Engine != c.Ledger {
		return "within the engine's rounding"
	}
	return ""
}
