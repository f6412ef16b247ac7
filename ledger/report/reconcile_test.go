package report_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/ledger/report"
)

// midnight is when the days of these stories begin.
var midnight = time.Date(2026, 10, 18, 0, 0, 0, 0, time.UTC)

const (
	vmHour     = ledger.Nanos(2_500_000_000)
	volumeHour = ledger.Nanos(21_600_000)
)

// hour is a sample, one of every hour, of a machine and its volume.
func hour(h int, change ...func(*ledger.Sample)) ledger.Sample {
	s := sample(0, vmHour*ledger.Nanos(h+100))
	s.At, s.Every = midnight.Add(time.Duration(h)*time.Hour), time.Hour
	s.Lines = append(s.Lines, ledger.Line{Resource: "volume-2", Kind: ledger.Volume, Running: true, Bill: nanos(volumeHour * ledger.Nanos(h+100)), Epoch: "e1"})
	for _, f := range change {
		f(&s)
	}
	return s
}

// hours samples from hour first to last.
func (b *book) hours(first, last int, change ...func(*ledger.Sample)) {
	b.t.Helper()
	for h := first; h <= last; h++ {
		b.bill(hour(h, change...))
	}
}

// on is what was invoiced of a resource on a day of October.
func on(day int, resource, amount string) report.Billed {
	n, err := ledger.ParseNanos(amount)
	if err != nil {
		panic(err)
	}
	return report.Billed{Resource: resource, Day: time.Date(2026, 10, day, 0, 0, 0, 0, time.UTC), Amount: n}
}

func (b *book) reconcile(invoice ...report.Billed) report.ReconcileReport {
	b.t.Helper()
	rep, err := report.Reconcile(b.Reader, report.ReconcileQuery{Invoice: invoice, Currency: "USD", Tolerance: 10_000_000, Now: midnight.AddDate(0, 0, 30)})
	if err != nil {
		b.t.Fatal(err)
	}
	return rep
}

// says holds the rows to "day resource state cause", one each.
func says(t *testing.T, rep report.ReconcileReport, want ...string) {
	t.Helper()
	var got []string
	for _, r := range rep.Rows {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.Day[8:], r.Resource, r.State, r.Cause)))
		if (r.State == report.StateEqual) != (r.Why == "" && r.Cause == "") && r.Cause != report.CauseUnknown {
			t.Errorf("%+v: why?", r)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("rows:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if n := rep.Equal + rep.Different + rep.Dark; n != len(rep.Rows) {
		t.Errorf("%d equal, %d different and %d dark of %d", rep.Equal, rep.Different, rep.Dark, len(rep.Rows))
	}
}

func TestReconcile(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.hours(0, 48)
	rep := b.reconcile(on(18, "vm-1", "60"), on(18, "volume-2", "0.51"), on(19, "vm-1", "59.99"), on(19, "2", "0.5184"), on(19, "egress", "1.5"))
	says(t, rep, "18 vm-1 equal", "18 volume-2 equal", "19 egress different other_resource", "19 vm-1 equal", "19 volume-2 equal")
	same(t, "text", reconciled(t, rep, report.Text), `
Invoice against the ledger, 2026-10-18 to 2026-10-19 (UTC), in USD

day          resource   invoice    ledger     difference
2026-10-18   vm-1       60         60         0            equal
2026-10-18   volume-2   0.51       0.5184     -0.0084      equal
2026-10-19   egress     1.5        -          1.5          different other_resource
2026-10-19   vm-1       59.99      60         -0.01        equal
2026-10-19   volume-2   0.5184     0.5184     0            equal
together                122.5184   121.0368   1.4816

4 equal within 0.01, 1 different, 0 that the ledger cannot say.
2026-10-19 egress: different other_resource: the ledger has no such resource
  that day: it counts the machine and its volumes.
`)
	same(t, "csv", reconciled(t, rep, report.CSV), `
day,resource,currency,invoice,ledger,difference,state,cause,why,demo
2026-10-18,vm-1,USD,60,60,0,equal,,,false
2026-10-18,volume-2,USD,0.51,0.5184,-0.0084,equal,,,false
2026-10-19,egress,USD,1.5,,1.5,different,other_resource,the ledger has no such resource that day: it counts the machine and its volumes,false
2026-10-19,vm-1,USD,59.99,60,-0.01,equal,,,false
2026-10-19,volume-2,USD,0.5184,0.5184,0,equal,,,false
`)
	rep = b.reconcile(on(19, "vm-1", "60"))
	same(t, "json", reconciled(t, rep, report.JSON), `
{
  "from": "2026-10-19",
  "to": "2026-10-19",
  "currency": "USD",
  "tolerance": "0.01",
  "rows": [
    {
      "day": "2026-10-19",
      "resource": "vm-1",
      "invoice": "60",
      "ledger": "60",
      "difference": "0",
      "state": "equal",
      "cause": "",
      "why": ""
    },
    {
      "day": "2026-10-19",
      "resource": "volume-2",
      "invoice": null,
      "ledger": "0.5184",
      "difference": "-0.5184",
      "state": "different",
      "cause": "not_invoiced",
      "why": "the invoice does not have it that day"
    }
  ],
  "equal": 1,
  "different": 1,
  "dark": 0,
  "invoice": "60",
  "ledger": "60.5184",
  "difference": "-0.5184",
  "demo": false
}
`)
}

func reconciled(t *testing.T, rep report.ReconcileReport, f report.Format) string {
	t.Helper()
	var buf bytes.Buffer
	if err := rep.Write(&buf, f); err != nil {
		t.Fatal(err)
	}
	return unchained.ReplaceAllString(buf.String(), "")
}

// What the ledger did not see is dark, and in no sum.
func TestReconcileDark(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.hours(5, 40) // from 05:00 on the 18th to 16:00 on the 19th
	b.hours(72, 96)
	rep := b.reconcile(on(17, "vm-1", "60"), on(18, "vm-1", "60"), on(19, "vm-1", "60"), on(20, "vm-1", "60"), on(21, "vm-1", "60"))
	says(t, rep, "17 vm-1 dark", "18 vm-1 dark", "18 volume-2 dark", "19 vm-1 dark", "19 volume-2 dark", "20 vm-1 dark", "20 volume-2 dark",
		"21 vm-1 equal", "21 volume-2 different not_invoiced")
	if rep.Invoice != "60" || rep.Ledger != "60.5184" || rep.Rows[1].Invoice == nil || rep.Rows[1].Ledger != nil || rep.Rows[1].Difference != nil {
		t.Errorf("sums %s and %s, dark row %+v", rep.Invoice, rep.Ledger, rep.Rows[1])
	}
	for i, want := range map[int]string{0: "no sample", 1: "its first midnight was not seen", 3: "its last midnight was not seen"} {
		if !strings.Contains(rep.Rows[i].Why, want) {
			t.Errorf("%s: %q, want %q", rep.Rows[i].Day, rep.Rows[i].Why, want)
		}
	}
	// A day that is not over.
	q := report.ReconcileQuery{Invoice: []report.Billed{on(21, "vm-1", "60")}, Tolerance: 1, Now: midnight.Add(95 * time.Hour)}
	if rep, err := report.Reconcile(b.Reader, q); err != nil || rep.Dark != 1 || rep.Rows[0].Why != "the day is not over" {
		t.Errorf("%+v, %v", rep, err)
	}
	// No sample at all.
	says(t, open(t).reconcile(on(18, "vm-1", "60")), "18 vm-1 dark")
}

func TestReconcileCauses(t *testing.T) {
	t.Parallel()
	both := func(vm, volume string) []report.Billed {
		return []report.Billed{on(18, "vm-1", vm), on(18, "volume-2", volume)}
	}
	cause := func(want, vm string, tell func(*book), more ...report.Billed) {
		t.Helper()
		b := open(t)
		tell(b)
		rep := b.reconcile(append(both(vm, "0.5184"), more...)...)
		for _, r := range rep.Rows {
			if r.Resource == "vm-1" && r.Day == "2026-10-18" && r.Cause != want {
				t.Errorf("cause %q (%s), want %q", r.Cause, r.Why, want)
			}
		}
	}
	plain := func(b *book) { b.hours(0, 24) }
	cause(report.CauseUnknown, "33", plain)
	cause("", "60.01", plain) // within the tolerance
	cause(report.CauseEpochChange, "60", func(b *book) {
		b.hours(0, 10)
		b.hours(11, 24, func(s *ledger.Sample) { s.Lines[0].Epoch = "e2" })
	})
	cause(report.CauseRestatement, "60", func(b *book) {
		b.hours(0, 10)
		b.hours(11, 24, func(s *ledger.Sample) { *s.Lines[0].Bill -= 5_000_000_000 })
	})
	cause(report.CauseGap, "60", func(b *book) {
		b.hours(0, 10, func(s *ledger.Sample) { s.Lines = s.Lines[1:] }) // first seen at 11
		b.hours(11, 24)
	})
	cause(report.CauseGap, "60", func(b *book) {
		b.hours(0, 20)
		b.hours(21, 24, func(s *ledger.Sample) { s.Lines = s.Lines[1:] }) // last seen at 20
	})
	cause(report.CauseGap, "61", func(b *book) {
		b.hours(0, 5)
		b.hours(10, 24)
	})
	cause(report.CauseLate, "60.20", func(b *book) {
		b.hours(0, 24)
		b.bill(hour(25, func(s *ledger.Sample) {
			s.At = midnight.Add(24*time.Hour + 4*time.Minute)
			*s.Lines[0].Bill = vmHour*124 + 210_000_000
		}))
	})
	cause(report.CauseBoundary, "61", func(b *book) {
		b.hours(0, 24, func(s *ledger.Sample) { s.At = s.At.Add(17 * time.Minute) })
	})
}

func TestReconcileOverDays(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.hours(0, 72)
	b.bill(hour(73, func(s *ledger.Sample) { s.Lines = s.Lines[1:] }))

	// What is missing on one day is on the next.
	says(t, b.reconcile(on(18, "vm-1", "50"), on(18, "volume-2", "0.5184"), on(19, "vm-1", "70"), on(19, "volume-2", "0.5184")),
		"18 vm-1 different neighbour_day", "18 volume-2 equal", "19 vm-1 different neighbour_day", "19 volume-2 equal")

	// A day that the invoice leaves out is compared all the same.
	says(t, b.reconcile(on(18, "vm-1", "60"), on(18, "volume-2", "0.5184"), on(20, "vm-1", "60"), on(20, "volume-2", "0.5184")),
		"18 vm-1 equal", "18 volume-2 equal", "19 vm-1 different not_invoiced", "19 volume-2 different not_invoiced", "20 vm-1 equal", "20 volume-2 equal")

	// The tolerance is the asker's: a cent is rounding where less was asked for.
	q := report.ReconcileQuery{Invoice: []report.Billed{on(18, "vm-1", "60.004"), on(18, "volume-2", "0.5184")}, Currency: "USD", Now: midnight.AddDate(0, 0, 30)}
	rep, err := report.Reconcile(b.Reader, q)
	if err != nil {
		t.Fatal(err)
	}
	says(t, rep, "18 vm-1 different rounding", "18 volume-2 equal")
}

// The ledger's figures are those of the provider's API, which has no tax in it. An
// invoice that has is told apart by its one percentage.
func TestPitfall13Tax(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.hours(0, 72)

	// 19 % on all.
	rep := b.reconcile(on(18, "vm-1", "71.4"), on(18, "volume-2", "0.616896"), on(19, "vm-1", "71.40"), on(19, "volume-2", "0.62"))
	says(t, rep, "18 vm-1 different tax", "18 volume-2 different tax", "19 vm-1 different tax", "19 volume-2 different tax")
	if want := "the invoice is 19.0% above the ledger, here and elsewhere: a tax or a fee"; rep.Rows[0].Why != want {
		t.Errorf("why %q, want %q", rep.Rows[0].Why, want)
	}
	// Two percentages are none, and one day is no pattern.
	says(t, b.reconcile(on(18, "vm-1", "71.4"), on(18, "volume-2", "0.5184"), on(19, "vm-1", "66"), on(19, "volume-2", "0.5184")),
		"18 vm-1 different unknown", "18 volume-2 equal", "19 vm-1 different unknown", "19 volume-2 equal")
	says(t, b.reconcile(on(18, "vm-1", "71.4"), on(18, "volume-2", "0.5184")), "18 vm-1 different unknown", "18 volume-2 equal")
}

// An id without its kind is the one resource that it can be, or it is nobody's.
func TestReconcileNames(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.hours(0, 24, func(s *ledger.Sample) { s.Lines[1].Resource = "volume-1" })
	says(t, b.reconcile(on(18, "vm-1", "30"), on(18, "volume-1", "0.5184"), on(18, "1", "30")),
		"18 1 different ambiguous", "18 vm-1 different unknown", "18 volume-1 equal")
	b = open(t)
	b.hours(0, 24)
	says(t, b.reconcile(on(18, "vm-1", "30"), on(18, "1", "30"), on(18, "2", "0.5184")), "18 vm-1 equal", "18 volume-2 equal")
}

// Where only the account has a bill, the whole invoice is held against it.
func TestReconcileAccount(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.hours(0, 24, func(s *ledger.Sample) {
		s.Truth = ledger.TruthAccount
		bill := *s.Lines[0].Bill
		s.Lines = []ledger.Line{{Resource: "account-7", Kind: ledger.AccountKind, Bill: &bill, Epoch: "e"}}
	})
	says(t, b.reconcile(on(18, "machine", "59"), on(18, "disk", "1")), "18 account-7 equal")
	says(t, b.reconcile(on(18, "machine", "59"), on(18, "disk", "2")), "18 account-7 different unknown")
}

func TestReconcileRefuses(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.hours(0, 24)
	refused := func(want string, change func(*report.ReconcileQuery)) {
		t.Helper()
		q := report.ReconcileQuery{Invoice: []report.Billed{on(18, "vm-1", "60")}, Currency: "USD", Tolerance: 10_000_000, Now: midnight.AddDate(0, 0, 30)}
		change(&q)
		_, err := report.Reconcile(b.Reader, q)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Reconcile = %v, want %q", err, want)
		}
		if !strings.Contains(want, "empty") && !strings.Contains(want, "midnight") && (!errors.Is(err, report.ErrQuestion) || hint.Of(err) == "") {
			t.Errorf("%v: no hint", err)
		}
	}
	refused("the invoice is in EUR, the ledger in USD", func(q *report.ReconcileQuery) { q.Currency = "EUR" })
	refused("tolerance -1: below zero", func(q *report.ReconcileQuery) { q.Tolerance = -1_000_000_000 })
	refused("the invoice is empty", func(q *report.ReconcileQuery) { q.Invoice = nil })
	refused("the invoice spans 1999-01-01 to 2026-10-18", func(q *report.ReconcileQuery) {
		q.Invoice = append(q.Invoice, report.Billed{Resource: "vm-1", Day: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)})
	})
	refused("is no midnight UTC", func(q *report.ReconcileQuery) {
		q.Invoice = append(q.Invoice, report.Billed{Resource: "vm-1", Day: midnight.Add(time.Hour)})
	})
}
