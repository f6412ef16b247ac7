package report_test

import (
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/ledger/report"
)

// TestOverridesAreInEveryForm of a report whose window they touch, and in no other.
func TestOverridesAreInEveryForm(t *testing.T) {
	t.Parallel()
	b := open(t)
	if _, err := b.AddOverride(2*time.Hour, nil, "a demo"); err != nil {
		t.Fatal(err)
	}
	const now = 1e6 // the ledger's clock, in minutes
	b.bills(now-60, now)
	span := at(now).Format(time.RFC3339) + "/" + at(now+120).Format(time.RFC3339)
	for name, c := range map[string]struct {
		from, to float64
		touched  bool
	}{
		"before": {now - 60, now - 1, false},
		"within": {now - 10, now + 5, true},
	} {
		t.Run(name, func(t *testing.T) {
			want := ""
			if c.touched {
				want = span
			}
			cost := b.cost(until(c.from, c.to))
			usage, err := report.Usage(b.Reader, ledger.Window{From: at(c.from), To: at(c.to)}, false)
			if err != nil {
				t.Fatal(err)
			}
			for of, text := range map[string]func(report.Format) string{
				"cost":  func(f report.Format) string { return written(t, cost, f) },
				"usage": func(f report.Format) string { return written(t, usage, f) },
			} {
				if got := sameColumns(t, text(report.CSV), text(report.JSON))["overrides"]; got != want {
					t.Errorf("%s: csv has %q, want %q", of, got, want)
				}
				if got := strings.Contains(text(report.JSON), `"reason": "a demo"`); got != c.touched {
					t.Errorf("%s: json has it: %v", of, got)
				}
				if got := strings.Contains(text(report.Text), "lifted by hand"); got != c.touched {
					t.Errorf("%s: text has it: %v", of, got)
				}
			}
		})
	}
}
