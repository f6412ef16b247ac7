// Package report holds the questions asked of a ledger, usage and cost, and
// writes the answers as text, JSON, CSV or SVG. It knows the ledger only: no
// provider, no engine, no flag of a command line. It sees no figure that the
// ledger does not hold, estimates none, and makes a quotient only where both
// its parts are known.
package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"spotinference/internal/hint"
)

// ErrQuestion marks the error of a question that cannot be answered as it was asked.
// Such an error has a hint.
var ErrQuestion = errors.New("the question cannot be answered as it was asked")

// questionError is what is wrong with a question.
type questionError string

func (e questionError) Error() string        { return string(e) }
func (e questionError) Is(target error) bool { return target == ErrQuestion }

// badQuestion says what is wrong with a question, and what to ask instead.
func badQuestion(ask, format string, args ...any) error {
	return hint.Wrap(questionError(fmt.Sprintf(format, args...)), ask)
}

// Format is how a report is written.
type Format string

const (
	Text Format = "text" // for a person; may change between versions
	JSON Format = "json" // one object, indented; field names are kept
	CSV  Format = "csv"  // a header and one row, the JSON's fields flattened; or a table's rows
	SVG  Format = "svg"  // a drawing, of a cost report only
)

// ParseFormat reads the name of a format.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Text, JSON, CSV, SVG:
		return f, nil
	}
	return "", badQuestion("use text, json or csv; report cost also svg", "format %q: not a format", s)
}

// Span is a window as reports show it: after From, up to and including To.
type Span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Decimal is an exact decimal number, such as "12.3456". It is text wherever it
// goes, so that no reader turns money into a float by accident.
type Decimal string

// cell is one column of a CSV report. An empty value is "not known" or "none".
type cell struct{ name, value string }

// write renders a report in one of the three forms that every report has. w gets
// it in one piece.
func write(w io.Writer, f Format, rep any, text func() string, cells func() []cell) error {
	var buf bytes.Buffer
	switch f {
	case Text:
		buf.WriteString(text())
	case JSON:
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(rep); err != nil {
			return fmt.Errorf("encode report: %w", err)
		}
	case CSV:
		return writeRecords(w, [][]cell{cells()})
	case SVG:
		return badQuestion("use text, json or csv", "format svg: this report has no drawing")
	default:
		return fmt.Errorf("write report: format %q: not a format", f)
	}
	return writeAll(w, buf.Bytes())
}

// writeRecords writes rows of the same columns as CSV, under their names.
func writeRecords(w io.Writer, rows [][]cell) error {
	if len(rows) == 0 {
		return nil
	}
	return writeUnder(w, rows[0], rows)
}

// writeUnder is writeRecords where there may be no row: the names are those of
// head.
func writeUnder(w io.Writer, head []cell, rows [][]cell) error {
	var names []string
	for _, c := range head {
		names = append(names, c.name)
	}
	records := [][]string{names}
	for _, row := range rows {
		var values []string
		for _, c := range row {
			values = append(values, c.value)
		}
		records = append(records, values)
	}
	var buf bytes.Buffer
	if err := csv.NewWriter(&buf).WriteAll(records); err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	return writeAll(w, buf.Bytes())
}

func writeAll(w io.Writer, b []byte) error {
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func stamp(t time.Time) string { return t.Format(time.RFC3339Nano) }

// spanCell is how spans stand in one cell.
func spanCell(spans []Span) string {
	var pairs []string
	for _, s := range spans {
		pairs = append(pairs, stamp(s.From)+"/"+stamp(s.To))
	}
	return strings.Join(pairs, " ")
}

func stampOrEmpty(t *time.Time) string {
	if t == nil {
		return ""
	}
	return stamp(*t)
}

func decimalOrEmpty(d *Decimal) string {
	if d == nil {
		return ""
	}
	return string(*d)
}

func integer(n int64) string { return strconv.FormatInt(n, 10) }

// utc is t as the ledger would keep it: in microseconds, rounded down.
func utc(t time.Time) time.Time { return time.UnixMicro(t.UnixMicro()).UTC() }
