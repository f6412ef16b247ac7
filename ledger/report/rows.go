package report

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"spotinference/ledger"
)

// The ledger's rows for other programs: as CSV, or as JSON, an object a line. A row
// is written when it is read, so that the length of the window costs no memory. Times
// are RFC 3339, durations microseconds, amounts decimal text, "not known" is null, in
// CSV empty.

// field is one column of a row that is exported: text, int64, bool, *int64,
// time.Time, Decimal, *Decimal or nil.
type field struct {
	name  string
	value any
}

// exports are the tables that can be had: each calls row for each of its rows.
var exports = map[string]func(ctx context.Context, r *ledger.Reader, w ledger.Window, row func(...field) error) error{
	"requests": exportRequests,
	"samples":  exportSamples,
	"failures": exportFailures,
	"events":   exportEvents,
	"engine":   exportEngine,
	"gpu":      exportGPU,
}

// ExportTables are the names of the tables that Export knows.
func ExportTables() []string {
	var names []string
	for name := range exports {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ParseExportTable checks the name of a table.
func ParseExportTable(s string) (string, error) {
	if exports[s] == nil {
		return "", badQuestion("use "+strings.Join(ExportTables(), ", "), "table %q: not a table that can be exported", s)
	}
	return s, nil
}

// All is a window that holds every row.
func All() ledger.Window {
	return ledger.Window{From: time.UnixMicro(-1 << 62), To: time.UnixMicro(1 << 62)}
}

// Export writes the rows of a table in w to out, each marked with demo.
func Export(ctx context.Context, r *ledger.Reader, table string, w ledger.Window, demo bool, out io.Writer, f Format) error {
	each := exports[table]
	if each == nil {
		return fmt.Errorf("export: table %q: not a table", table)
	}
	buf := bufio.NewWriterSize(out, 64<<10)
	put, done := jsonLines(buf), func() error { return nil }
	if f == CSV {
		table := csv.NewWriter(buf)
		put, done = csvRows(table), func() error { table.Flush(); return table.Error() }
	} else if f != JSON {
		return badQuestion("use csv or json", "format %s: rows are not written so", f)
	}
	if err := each(ctx, r, w, func(fields ...field) error { return put(append(fields, field{"demo", demo})) }); err != nil {
		return fmt.Errorf("export %s: %w", table, err)
	}
	if err := done(); err != nil {
		return fmt.Errorf("export %s: %w", table, err)
	}
	if err := buf.Flush(); err != nil {
		return fmt.Errorf("export %s: %w", table, err)
	}
	return nil
}

func jsonLines(w *bufio.Writer) func([]field) error {
	var line []byte
	return func(fields []field) error {
		line = line[:0]
		for i, f := range fields {
			line = append(line, ",{"[min(1, max(0, 1-i))])
			line = append(append(line, jsonString(f.name)...), ':')
			b, err := json.Marshal(f.value)
			if text, ok := f.value.(string); ok {
				b = []byte(jsonString(text))
			}
			if err != nil {
				return err
			}
			line = append(line, b...)
		}
		_, err := w.Write(append(line, "}\n"...))
		return err
	}
}

// jsonString is text as JSON, in which < and & stay what they are.
func jsonString(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic("BUG: " + err.Error())
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func csvRows(w *csv.Writer) func([]field) error {
	var record []string
	head := false
	return func(fields []field) error {
		if !head {
			head = true
			for _, f := range fields {
				record = append(record, f.name)
			}
			if err := w.Write(record); err != nil {
				return err
			}
		}
		record = record[:0]
		for _, f := range fields {
			record = append(record, f.text())
		}
		return w.Write(record)
	}
}

func (f field) text() string {
	switch v := f.value.(type) {
	case nil:
		return ""
	case string:
		return v
	case int64:
		return integer(v)
	case bool:
		return strconv.FormatBool(v)
	case *int64:
		return integerOrEmpty(v)
	case time.Time:
		return stamp(v)
	case *Decimal:
		return decimalOrEmpty(v)
	}
	panic(fmt.Sprintf("BUG: column %s is a %T", f.name, f.value))
}

// timeOrNil keeps a time that is not known apart from all times.
func timeOrNil(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t
}

func exportRequests(ctx context.Context, r *ledger.Reader, w ledger.Window, row func(...field) error) error {
	return r.EachRequest(ctx, w, func(q ledger.Request) error {
		return row(
			field{"id", q.ID}, field{"endpoint", q.Endpoint}, field{"model", q.Model}, field{"key", q.Key}, field{"stream", q.Stream},
			field{"status", string(q.Status)}, field{"http", int64(q.HTTP)}, field{"started", q.Started}, field{"first", timeOrNil(q.First)}, field{"finished", q.Finished},
			field{"prompt_tokens", q.Usage.PromptTokens}, field{"cached_tokens", q.Usage.CachedTokens},
			field{"completion_tokens", q.Usage.CompletionTokens}, field{"lower_bound", q.LowerBound},
		)
	})
}

// exportSamples is a row for each line of each sample; a sample of no line has one, too.
func exportSamples(ctx context.Context, r *ledger.Reader, w ledger.Window, row func(...field) error) error {
	return r.EachSample(ctx, w, func(s ledger.Sample) error {
		of := []field{
			{"sample", s.ID}, {"at", s.At}, {"provider", s.Provider}, {"account", s.Account}, {"currency", s.Currency}, {"truth", string(s.Truth)},
			{"step_us", s.Step.Microseconds()}, {"lag_us", s.Lag.Microseconds()}, {"calibrated", s.Calibrated}, {"every_us", s.Every.Microseconds()},
		}
		if len(s.Lines) == 0 {
			return row(append(of, field{"resource", nil}, field{"epoch", nil}, field{"kind", nil}, field{"status", nil}, field{"running", nil},
				field{"rate_per_hour", nil}, field{"bill", nil}, field{"created", nil})...)
		}
		for _, ln := range s.Lines {
			if err := row(append(slices.Clip(of), field{"resource", ln.Resource}, field{"epoch", ln.Epoch}, field{"kind", string(ln.Kind)}, field{"status", ln.Status},
				field{"running", ln.Running}, field{"rate_per_hour", (*Decimal)(ln.Rate.Text())}, field{"bill", (*Decimal)(ln.Bill.Text())}, field{"created", timeOrNil(ln.Created)})...); err != nil {
				return err
			}
		}
		return nil
	})
}

func exportFailures(ctx context.Context, r *ledger.Reader, w ledger.Window, row func(...field) error) error {
	return r.EachSampleFailure(ctx, w, func(f ledger.SampleFailure) error {
		return row(field{"at", f.At}, field{"call", f.Call}, field{"class", f.Class})
	})
}

func exportEvents(ctx context.Context, r *ledger.Reader, w ledger.Window, row func(...field) error) error {
	return r.EachEvent(ctx, w, func(e ledger.Event) error {
		return row(field{"at", e.At}, field{"kind", string(e.Kind)}, field{"subject", e.Subject}, field{"detail", e.Detail})
	})
}

func exportEngine(ctx context.Context, r *ledger.Reader, w ledger.Window, row func(...field) error) error {
	return r.EachEngineSample(ctx, w, func(s ledger.EngineSample) error {
		return row(field{"at", s.At}, field{"started", s.Started}, field{"engine", s.Engine}, field{"prompt_tokens", s.Prompt},
			field{"completion_tokens", s.Completion}, field{"with_cached", s.WithCached}, field{"quiet", s.Quiet})
	})
}

func exportGPU(_ context.Context, r *ledger.Reader, w ledger.Window, row func(...field) error) error {
	return r.GPUMinutes(w.From, w.To, func(m ledger.GPUMinute) error {
		return row(
			field{"uuid", m.UUID}, field{"name", m.Name}, field{"source", m.Source}, field{"since", m.Since}, field{"at", m.At}, field{"readings", m.Readings},
			field{"utilisation_avg_hundredths", m.UtilisationAvg}, field{"utilisation_max_percent", m.UtilisationMax},
			field{"memory_avg_bytes", m.MemoryAvg}, field{"memory_max_bytes", m.MemoryMax}, field{"power_avg_mw", m.PowerAvg}, field{"power_max_mw", m.PowerMax},
			field{"temperature_max_c", m.TemperatureMax}, field{"energy_mj", m.Energy},
		)
	})
}
