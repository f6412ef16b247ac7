package report

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// textWidth is how wide prose gets: a terminal that nobody has resized.
const textWidth = 80

// row is a line of figures: what it is, how much, and what to know about it.
type row struct{ label, value, aside string }

// writeRows aligns the labels to the left and the values to the right.
func writeRows(b *strings.Builder, rows []row) {
	var label, value int
	for _, r := range rows {
		label, value = max(label, len(r.label)), max(value, len(r.value))
	}
	for _, r := range rows {
		line := fmt.Sprintf("%-*s   %*s   %s", label, r.label, value, r.value, r.aside)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// paragraph writes prose, broken between words; what follows its first line is
// indented, so that each paragraph is seen to begin.
func paragraph(b *strings.Builder, text string) {
	width := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case width+1+len(word) > textWidth:
			b.WriteString("\n  ")
			width = 2
		default:
			b.WriteString(" ")
			width++
		}
		b.WriteString(word)
		width += len(word)
	}
	b.WriteString("\n")
}

// heading says what the report is about, and whether any of it is real.
func heading(b *strings.Builder, what string, w Span, demo bool) {
	fmt.Fprintf(b, "%s from %s (%s)\n", what, period(w), length(w.To.Sub(w.From)))
	if demo {
		b.WriteString("demo: simulated figures\n")
	}
}

// timeText is an instant to the second; the reports' figures need no finer one.
func timeText(t time.Time) string { return t.UTC().Format(time.DateTime) + " UTC" }

// period is a window to the second, its date said once where it has only one.
func period(w Span) string {
	from, to := w.From.UTC(), w.To.UTC()
	if from.Format(time.DateOnly) == to.Format(time.DateOnly) {
		return from.Format(time.DateTime) + " to " + to.Format(time.TimeOnly) + " UTC"
	}
	return from.Format(time.DateTime) + " to " + to.Format(time.DateTime) + " UTC"
}

// length is a duration in the two largest units that say something.
func length(d time.Duration) string {
	day := 24 * time.Hour
	two := func(d, large, small time.Duration, a, b string) string {
		d = d.Round(small)
		s := strconv.FormatInt(int64(d/large), 10) + a
		if rest := d % large / small; rest > 0 {
			s += fmt.Sprintf(" %d%s", rest, b)
		}
		return s
	}
	// Each limit is where rounding to the small unit would fill up the large one.
	switch {
	case d >= 2*day-30*time.Minute:
		return two(d, day, time.Hour, "d", "h")
	case d >= time.Hour-30*time.Second:
		return two(d, time.Hour, time.Minute, "h", "m")
	case d >= time.Minute-500*time.Millisecond:
		return two(d, time.Minute, time.Second, "m", "s")
	case d >= time.Second:
		return d.Round(time.Second).String()
	}
	return "under 1s"
}

// count writes n with its thousands apart.
func count(n int64) string { return thousands(strconv.FormatInt(n, 10)) }

func thousands(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// plural is n things.
func plural(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return count(n) + " " + thing + "s"
}

// money writes an amount as far as a person wants to know: two decimals from one
// unit up; below it, as many as four significant digits need, and two at least.
func money(currency string, d Decimal) string {
	r, ok := new(big.Rat).SetString(string(d))
	if !ok {
		panic("BUG: not a decimal: " + string(d))
	}
	digits := 2
	one, abs := big.NewRat(1, 1), new(big.Rat).Abs(r)
	if abs.Sign() > 0 && abs.Cmp(one) < 0 {
		for digits = 3; abs.Cmp(one) < 0; digits++ {
			abs.Mul(abs, big.NewRat(10, 1))
		}
	}
	whole, frac, _ := strings.Cut(r.FloatString(digits), ".")
	for len(frac) > 2 && strings.HasSuffix(frac, "0") {
		frac = frac[:len(frac)-1]
	}
	unit := currency
	if currency == "USD" {
		unit = "$"
	}
	return strings.TrimSpace(unit + " " + thousands(whole) + "." + frac)
}

func cachedText(cached, prompt int64) string {
	if cached <= 0 || prompt <= 0 {
		return ""
	}
	// By big integers: a hundred times a count of tokens may not overflow.
	percent := new(big.Int).Mul(big.NewInt(cached), big.NewInt(100))
	percent.Quo(percent, big.NewInt(prompt))
	return fmt.Sprintf("%s of them cached (%s%%)", count(cached), percent)
}
