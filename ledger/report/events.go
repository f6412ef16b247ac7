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

// KindSample is the kind under which samples of the bill that failed stand among the
// events. They have a table of their own and are in no event.
const KindSample = "sample"

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
func EventKinds() []string {
	kinds := append(ledger.EventKinds(), KindSample)
	slices.Sort(kinds)
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
	wanted := func(kind string) bool { return len(kinds) == 0 || slices.Contains(kinds, kind) }
	rep := EventsReport{Window: Span(w), Events: []Event{}, Demo: demo}
	err = r.EachEvent(ctx, w, func(e ledger.Event) error {
		if wanted(e.Kind) {
			rep.Events = append(rep.Events, Event{e.At, e.Kind, e.Subject, e.Detail})
		}
		return nil
	})
	if err == nil && wanted(KindSample) {
		err = r.EachSampleFailure(ctx, w, func(f ledger.SampleFailure) error {
			rep.Events = append(rep.Events, Event{f.At, KindSample, "failed", fmt.Sprintf(`{"class":%s,"call":%s}`, jsonString(f.Class), jsonString(f.Call))})
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
