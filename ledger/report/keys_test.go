package report_test

import (
	"errors"
	"maps"
	"testing"

	"spotinference/ledger"
	"spotinference/ledger/report"
)

// TestKeySpend: what a key's budget counts is the gross figure of the report by key,
// whatever the window, and a refund does not lower it.
func TestKeySpend(t *testing.T) {
	b := afternoon(t)
	f := func(from, to float64) map[string]ledger.Nanos {
		t.Helper()
		got, err := report.KeySpend(b.Reader, ledger.Window{From: at(from), To: at(to)})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]ledger.Nanos{}
		for _, g := range asked(b, until(from, to), func(q *report.CostQuery) { q.By = report.ByKey }).Groups {
			if g.Gross != nil {
				n, err := ledger.ParseNanos(string(*g.Gross))
				if err != nil {
					t.Fatal(err)
				}
				want[g.ID] = n
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%v to %v: %v, the report says %v", from, to, got, want)
		}
		return got
	}
	before := f(-10, 250)
	if before["ann"] != 1_628_106_255 || before["bob"] != 2_170_808_341 {
		t.Errorf("of the afternoon: %v", before)
	}
	f(30, 100)
	f(60, 80) // nobody was served

	// A refund while the engine serves: the invoice falls, the keys' budgets do not.
	b.event(251, "engine", "crashed→ready")
	b.bill(sample(252, 90_000_000_000))
	b.ran(250.5, 252, 1, key("ann"))
	after := f(-10, 252)
	sum := func(m map[string]ledger.Nanos) (n ledger.Nanos) {
		for _, part := range m {
			n += part
		}
		return n
	}
	if sum(after) < sum(before) {
		t.Errorf("%v before a refund, %v after", before, after)
	}
}

// TestKeySpendUnknown: nothing is not the same as not known.
func TestKeySpendUnknown(t *testing.T) {
	b := open(t)
	b.bill(sample(0, 1_000_000_000))
	if got, err := report.KeySpend(b.Reader, ledger.Window{From: at(0), To: at(1)}); err != nil || len(got) > 0 {
		t.Errorf("one sample: %v, %v", got, err)
	}
	b.bill(sample(10, 2_000_000_000))
	b.ran(1, 9, 5, key("ann")) // and no event says that an engine ran
	if _, err := report.KeySpend(b.Reader, ledger.Window{From: at(0), To: at(10)}); !errors.Is(err, report.ErrKeySpend) {
		t.Errorf("without the engine's states: %v", err)
	}
}
