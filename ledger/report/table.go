package report

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"spotinference/ledger"
)

// table is rows of cells, the first of them the head.
type table [][]string

// write aligns the columns: those at numbers to the right, the others to the
// left.
func (t table) write(b *strings.Builder, indent string, numbers ...int) {
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range t {
		line := indent
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if slices.Contains(numbers, i) {
				line += pad + cell + "   "
			} else {
				line += cell + pad + "   "
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// shownBuckets is how many buckets a text shows to one who did not ask for them.
const shownBuckets = 48

// writeTables writes the groups and the buckets below the figures.
func (c CostReport) writeTables(b *strings.Builder) {
	if c.By != ByNothing {
		c.writeGroups(b)
	}
	if n := len(c.Buckets); n == 0 || n == 1 && c.source.query.Bucket <= 0 {
		return
	} else if n > shownBuckets && c.source.query.Bucket <= 0 {
		fmt.Fprintf(b, "\n%d buckets of %s: --bucket %s shows them all.\n", n, spell(c.source.bucket), spell(c.source.bucket))
		return
	}
	b.WriteString("\n")
	layout := "2006-01-02 15:04"
	if c.source.bucket%day == 0 {
		layout = time.DateOnly
	}
	t := table{{"from (UTC)", "spend", "output tokens", "per million", "utilisation"}}
	for _, k := range c.Buckets {
		row := []string{k.From.Format(layout), "-", count(k.CompletionTokens), "-", percent(k.Utilisation)}
		if k.Net != nil {
			row[1] = money(c.Currency, *k.Net)
		}
		if k.CostPerMillion != nil {
			row[3] = money(c.Currency, *k.CostPerMillion)
		}
		t = append(t, append(row, strings.Join(k.words(), ", ")))
	}
	t[0] = append(t[0], "")
	t.write(b, "", 1, 2, 3, 4)
}

// words are a bucket's flags, less those that are a remark on the whole report
// already and change nothing in the row.
func (k Bucket) words() (out []string) {
	for _, f := range k.Flags {
		switch f {
		case FlagLowerBound, FlagUnsettled:
		case FlagPartial:
			out = append(out, "part of it")
		case ledger.FlagGaps:
			out = append(out, "samples missing")
		default:
			out = append(out, strings.ReplaceAll(f, "_", " "))
		}
	}
	return out
}

// writeGroups shows who the tokens were made for or by, and, in the end, all of
// the spend, whoever it was for.
func (c CostReport) writeGroups(b *strings.Builder) {
	b.WriteString("\n")
	t := table{{string(c.By), "requests", "prompt tokens", "output tokens", "share", "spend"}}
	for _, g := range c.Groups {
		name, spend := "(none)", "-"
		if g.Name != "" {
			name = printable(g.Name)
		}
		if g.Spend != nil {
			spend = money(c.Currency, *g.Spend)
		}
		t = append(t, []string{name, count(g.Requests), count(g.PromptTokens), count(g.CompletionTokens), percent(g.Share), spend})
	}
	for i, field := range c.Split.fields() {
		part := ledger.SpendPart(i)
		if d := *field; d != nil && *d != "0" && (part != ledger.PartServing || c.CompletionTokens == 0) {
			t = append(t, []string{"(" + part.String() + ")", "", "", "", "", money(c.Currency, *d)})
		}
	}
	t = append(t, []string{"total", count(c.Requests), count(c.PromptTokens), count(c.CompletionTokens), "", money(c.Currency, *c.Spend.Net)})
	t.write(b, "", 1, 2, 3, 4, 5)
}
