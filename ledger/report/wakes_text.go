package report

import (
	"io"
	"slices"
	"strconv"
	"strings"
)

// SuspendedBill is said wherever the suspension of an engine is told of.
const SuspendedBill = "suspending the engine does not lower the bill of a machine that is billed by the minute it exists"

// Write writes the report: as CSV a row for each wake.
func (w WakesReport) Write(out io.Writer, f Format) error {
	if f == CSV {
		var rows [][]cell
		for _, k := range w.Wakes {
			rows = append(rows, k.cells(w))
		}
		return writeUnder(out, Wake{}.cells(w), rows)
	}
	return write(out, f, w, w.text, nil)
}

func (k Wake) cells(w WakesReport) []cell {
	return []cell{
		{"began", stamp(k.Began)},
		{"ended", stampOrEmpty(k.Ended)},
		{"cause", k.Cause},
		{"method", k.Method},
		{"result", k.Result},
		{"error", k.Error},
		{"queue_seconds", decimalOrEmpty(k.Queue)},
		{"restore_seconds", decimalOrEmpty(k.Restore)},
		{"spawn_seconds", decimalOrEmpty(k.Spawn)},
		{"load_seconds", decimalOrEmpty(k.Load)},
		{"canary_seconds", decimalOrEmpty(k.Canary)},
		{"ready_seconds", decimalOrEmpty(k.Ready)},
		{"first_token_seconds", decimalOrEmpty(k.FirstToken)},
		{"waiters", integer(k.Waiters)},
		{"left", integer(k.Left)},
		{"late", integer(k.Late)},
		{"currency", w.Currency},
		{"spend", decimalOrEmpty(k.Spend)},
		{"reason", w.Reason},
		{"flags", strings.Join(w.Flags, " ")},
		{"demo", strconv.FormatBool(w.Demo)},
	}
}

func (w WakesReport) text() string {
	var b strings.Builder
	heading(&b, "Wakes", Span{w.Window.AskedFrom, w.Window.AskedTo}, w.Demo)
	b.WriteString("\n")
	if len(w.Wakes) == 0 {
		paragraph(&b, "No wake began in this window.")
		b.WriteString("\n")
	} else {
		w.writeWakes(&b)
	}
	if len(w.Methods) > 0 {
		w.writeMethods(&b)
	}
	for _, k := range w.Wakes {
		if k.Error != "" {
			paragraph(&b, timeText(k.Began)+": "+k.failure())
		}
	}
	for _, r := range w.remarks() {
		paragraph(&b, r)
	}
	w.Chain.write(&b)
	return b.String()
}

func (w WakesReport) writeWakes(b *strings.Builder) {
	t := table{{"began (UTC)", "cause", "by", "queue", "restore", "spawn", "load", "canary", "ready", "first token", "waiters", "gone", "spend", ""}}
	for _, k := range w.Wakes {
		row := []string{k.Began.UTC().Format("2006-01-02 15:04:05"), printable(k.Cause), k.Method}
		for _, d := range []*Decimal{k.Queue, k.Restore, k.Spawn, k.Load, k.Canary, k.Ready, k.FirstToken} {
			row = append(row, unit(d, 3, "s"))
		}
		spend, result := "-", ""
		if k.Spend != nil {
			spend = money(w.Currency, *k.Spend)
		}
		if k.Result != WakeReady {
			result = k.Result
		}
		t = append(t, append(row, count(k.Waiters), count(k.Left+k.Late), spend, result))
	}
	t.write(b, "", 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
	b.WriteString("\n")
}

func (w WakesReport) writeMethods(b *strings.Builder) {
	t := table{{"by", "suspends", "median", "wakes", "median"}}
	for _, m := range w.Methods {
		t = append(t, []string{m.Method, count(m.Suspends), unit(m.Suspend, 3, "s"), count(m.Wakes), unit(m.Wake, 3, "s")})
	}
	t.write(b, "", 1, 2, 3, 4)
	b.WriteString("\n")
}

// failure says what went wrong, and what became of it.
func (k Wake) failure() string {
	text := printable(k.Error)
	if k.Result == WakeReady {
		text += "; started afresh"
	}
	return text
}

func (w WakesReport) remarks() (out []string) {
	switch {
	case w.Refused():
		out = append(out, "What these wakes cost is not known: "+w.cost.source.explainReason(w.Reason))
	case w.Waking != nil:
		out = append(out, "Waking, first starts and restarts included, took "+money(w.Currency, *w.Waking)+" of the "+money(w.Currency, *w.Net)+" that the window cost: see report cost.")
	}
	if !w.Refused() && slices.ContainsFunc(w.Wakes, func(k Wake) bool { return k.Spend == nil }) {
		out = append(out, "note: where no spend is shown, the samples of the bill do not reach around the wake yet, or the engine's state was not known all the time.")
	}
	if slices.ContainsFunc(w.Wakes, func(k Wake) bool { return k.Late > 0 }) {
		out = append(out, "note: some waiters were told that the engine did not wake in time; they are among those gone.")
	}
	if len(w.Wakes) > 0 {
		out = append(out, w.cost.remarks()...)
	}
	return append(out, "note: "+SuspendedBill+".")
}
