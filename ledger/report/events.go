package report

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"spotinference/ledger"
)

// EventsReport is what happened in a window, in the order of its times.
type EventsReport struct {
	Window Span    `json:"window"`
	Events []Event `json:"events"`
	Demo   bool    `json:"demo"`
	Chain  Chain   `json:"chain"`
}

// Event is one thing that happened.
type Event struct {
	At      time.Time `json:"at"`
	Kind    string    `json:"kind"`
	Subject string    `json:"subject"`
	Detail  string    `json:"detail"` // a JSON object, or ""
}

// EventKinds are the kinds that a report of events knows, in order.
func EventKinds() (kinds []string) {
	for _, k := range ledger.EventKinds() {
		kinds = append(kinds, string(k))
	}
	return kinds
}

// Events are those of the given kinds, all where none is given.
func Events(ctx context.Context, r *ledger.Reader, w ledger.Window, kinds []string, demo bool) (EventsReport, error) {
	wrap := func(err error) (EventsReport, error) { return EventsReport{}, fmt.Errorf("report events: %w", err) }
	w, err := checkWindow(w)
	if err != nil {
		return wrap(err)
	}
	known := EventKinds()
	for _, k := range kinds {
		if !slices.Contains(known, k) {
			return wrap(badQuestion("use "+strings.Join(known, ", "), "kind %q: not a kind of event", k))
		}
	}
	rep := EventsReport{Window: Span(w), Events: []Event{}, Demo: demo}
	wanted := func(kind ledger.EventKind) bool { return len(kinds) == 0 || slices.Contains(kinds, string(kind)) }
	add := func(e ledger.Event) {
		rep.Events = append(rep.Events, Event{e.At, string(e.Kind), e.Subject, e.Detail})
	}
	err = r.EachEvent(ctx, w, func(e ledger.Event) error {
		if wanted(e.Kind) {
			add(e)
		}
		return nil
	})
	if err == nil && wanted(ledger.EventSample) {
		err = r.EachSampleFailure(ctx, w, func(f ledger.SampleFailure) error {
			add(ledger.NewEvent(f.At, f))
			return nil
		})
	}
	if err != nil {
		return wrap(err)
	}
	slices.SortStableFunc(rep.Events, func(a, b Event) int { return a.At.Compare(b.At) })
	if rep.Chain, err = chainOf(r); err != nil {
		return wrap(err)
	}
	return rep, nil
}

// Write writes the report: as CSV a row for each event.
func (e EventsReport) Write(w io.Writer, f Format) error {
	if f == CSV {
		var rows [][]cell
		for _, ev := range e.Events {
			rows = append(rows, ev.cells(e.Demo))
		}
		return writeUnder(w, Event{}.cells(e.Demo), rows)
	}
	return write(w, f, e, e.text, nil)
}

func (e Event) cells(demo bool) []cell {
	return []cell{{"at", stamp(e.At)}, {"kind", e.Kind}, {"subject", e.Subject}, {"detail", e.Detail}, {"demo", strconv.FormatBool(demo)}}
}

func (e EventsReport) text() string {
	var b strings.Builder
	heading(&b, "Events", e.Window, e.Demo)
	b.WriteString("\n")
	if len(e.Events) == 0 {
		b.WriteString("None in this window.\n")
	} else {
		t := table{{"at (UTC)", "kind", "what", "detail"}}
		for _, ev := range e.Events {
			detail := ""
			if ev.Detail != "" {
				detail = printable(ev.Detail)
			}
			t = append(t, []string{ev.At.UTC().Format(time.DateTime), printable(ev.Kind), printable(ev.Subject), detail})
		}
		t.write(&b, "")
	}
	e.Chain.write(&b)
	return b.String()
}
