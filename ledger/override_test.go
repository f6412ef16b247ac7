package ledger_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
)

func TestOverride(t *testing.T) {
	t.Parallel()
	now := t0
	path := filepath.Join(t.TempDir(), "l.db")
	open := func() *ledger.Ledger {
		t.Helper()
		led, err := ledger.Open(ledger.Config{Path: path, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return led
	}
	led := open()
	in := func(at time.Time) string {
		t.Helper()
		o, ok, err := led.Override(at)
		if err != nil || !ok {
			return ""
		}
		return o.Reason
	}
	five := ledger.Nanos(5)
	first, err := led.AddOverride(2*time.Hour, &five, " a demo \n")
	if err != nil || first.Reason != "a demo" || !first.Until.Equal(t0.Add(2*time.Hour)) || *first.Amount != 5 {
		t.Fatalf("AddOverride = %+v, %v", first, err)
	}
	if _, err := led.AddOverride(time.Hour, nil, "more"); !errors.Is(err, ledger.ErrOverridden) || !errors.Is(err, ledger.ErrRefused) || !strings.Contains(err.Error(), "a demo") {
		t.Errorf("a second override: %v", err)
	}
	if err := led.Close(); err != nil {
		t.Fatal(err)
	}
	led = open() // it is there after a restart
	defer led.Close()
	for at, want := range map[time.Time]string{
		t0.Add(-time.Second): "", t0: "a demo", t0.Add(2*time.Hour - time.Second): "a demo", t0.Add(2 * time.Hour): "",
	} {
		if got := in(at); got != want {
			t.Errorf("in force at %s: %q, want %q", at, got, want)
		}
	}
	now = t0.Add(time.Hour)
	ended, err := led.EndOverride()
	if err != nil || !ended.End().Equal(now) {
		t.Errorf("EndOverride = %+v, %v", ended, err)
	}
	if in(now) != "" || in(now.Add(-time.Second)) != "a demo" {
		t.Error("it ended at another time")
	}
	if _, err := led.EndOverride(); !errors.Is(err, ledger.ErrRefused) {
		t.Errorf("to end what has ended: %v", err)
	}
	if _, err := led.AddOverride(24*time.Hour, nil, "all"); err != nil {
		t.Fatal(err)
	}
	for _, w := range []struct {
		from, to time.Time
		want     int
	}{{t0.Add(-time.Hour), t0.Add(-time.Second), 0}, {t0.Add(-time.Hour), t0, 1}, {t0, now, 2}, {now, now.Add(time.Hour), 1}, {now.Add(24 * time.Hour), now.Add(48 * time.Hour), 0}} {
		if got, err := led.Overrides(w.from, w.to); err != nil || len(got) != w.want {
			t.Errorf("Overrides(%s, %s) = %+v, %v, want %d", w.from, w.to, got, err, w.want)
		}
	}
	if n, err := led.Count("SELECT count(*) FROM event WHERE kind = 'budget'"); err != nil || n != 3 {
		t.Errorf("%d events, %v", n, err)
	}
	if led.Err() != nil {
		t.Errorf("a refusal made the ledger ill: %v", led.Err())
	}
	for _, statement := range []string{"UPDATE override SET until = until + 1", "DELETE FROM override", "DELETE FROM override_end"} {
		if err := led.Exec(statement); err == nil {
			t.Errorf("%s: done", statement)
		}
	}
}

func TestOverrideRefuses(t *testing.T) {
	t.Parallel()
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(t.TempDir(), "l.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	none := ledger.Nanos(0)
	f := func(length time.Duration, amount *ledger.Nanos, reason string) {
		t.Helper()
		if _, err := led.AddOverride(length, amount, reason); !errors.Is(err, ledger.ErrRefused) {
			t.Errorf("AddOverride(%s, %v, %q) = %v", length, amount, reason, err)
		}
	}
	f(time.Hour, nil, "")
	f(time.Hour, nil, " \t")
	f(time.Hour, nil, "two\nlines")
	f(time.Hour, nil, "\x1b[2Ja demo")
	f(time.Hour, nil, "read \u202ebackwards")
	f(time.Hour, nil, "half a \xc3")
	f(time.Hour, nil, strings.Repeat("é", 501))
	f(0, nil, "x")
	f(-time.Hour, nil, "x")
	f(24*time.Hour+time.Microsecond, nil, "x")
	f(time.Hour, &none, "x")
	if n, err := led.Count("SELECT (SELECT count(*) FROM override) + (SELECT count(*) FROM event)"); err != nil || n != 0 {
		t.Errorf("%d rows, %v", n, err)
	}
	if _, err := led.AddOverride(time.Hour, nil, strings.Repeat("é", 500)); err != nil {
		t.Error(err)
	}
}

// SQLite runs out of pages as it does out of disk.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(t.TempDir(), "l.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	if err := led.Exec("PRAGMA max_page_count = 1"); err != nil { // no more than there are
		t.Fatal(err)
	}
	event := ledger.Event{At: t0, Kind: "x", Detail: strings.Repeat("x", 1<<16)}
	if err := led.AddRawEvent(event); !errors.Is(err, ledger.ErrFull) || !errors.Is(led.Err(), ledger.ErrFull) {
		t.Errorf("AddRawEvent = %v, Err = %v", err, led.Err())
	}
	if err := led.Exec("PRAGMA max_page_count = 100000"); err != nil {
		t.Fatal(err)
	}
	if err := led.AddRawEvent(event); err != nil || led.Err() != nil {
		t.Errorf("with room again: %v, %v", err, led.Err())
	}
}

func TestTheSampleOfAnotherAccount(t *testing.T) {
	t.Parallel()
	led := openFar(t, filepath.Join(t.TempDir(), "l.db"))
	bill := ledger.Nanos(1)
	add := func(at int, account, currency string) error {
		_, err := led.AddSample(t.Context(), ledger.Sample{At: t0.Add(time.Duration(at) * time.Minute), Provider: "p", Account: account, Currency: currency, Truth: ledger.TruthResource,
			Lines: []ledger.Line{{Resource: "vm", Kind: ledger.Instance, Bill: &bill, Epoch: "e"}}})
		return err
	}
	for i, account := range []string{"", "1", "", "1"} {
		if err := add(i, account, "USD"); err != nil {
			t.Errorf("account %q: %v", account, err)
		}
	}
	for _, s := range [][2]string{{"2", "USD"}, {"1", "EUR"}} {
		if err := add(9, s[0], s[1]); !errors.Is(err, ledger.ErrOther) || !errors.Is(err, ledger.ErrRefused) {
			t.Errorf("account %s in %s: %v", s[0], s[1], err)
		}
	}
	if n, err := led.Count("SELECT count(*) FROM sample"); err != nil || n != 4 {
		t.Errorf("%d samples, %v", n, err)
	}
}

func TestMaxRate(t *testing.T) {
	t.Parallel()
	led := openFar(t, filepath.Join(t.TempDir(), "l.db"))
	n := func(v ledger.Nanos) *ledger.Nanos { return &v }
	for i, lines := range [][]ledger.Line{
		{{Resource: "vm", Rate: nil}},
		{{Resource: "vm", Rate: n(5)}, {Resource: "v", Rate: n(2)}, {Resource: "w", Rate: nil}},
		{{Resource: "vm", Rate: n(5)}, {Resource: "old", Rate: n(9), Status: ledger.StatusClosed}},
		{{Resource: "vm", Rate: n(0)}},
	} {
		for j := range lines {
			lines[j].Kind, lines[j].Bill, lines[j].Epoch = ledger.Instance, n(1), "e"
		}
		if _, err := led.AddSample(t.Context(), ledger.Sample{At: t0.Add(time.Duration(i) * time.Minute), Provider: "p", Currency: "USD", Truth: ledger.TruthResource, Lines: lines}); err != nil {
			t.Fatal(err)
		}
	}
	f := func(from, to int, want *ledger.Nanos) {
		t.Helper()
		got, err := led.MaxRate(t0.Add(time.Duration(from)*time.Minute), t0.Add(time.Duration(to)*time.Minute))
		if err != nil || (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("MaxRate(%d, %d) = %v, %v, want %v", from, to, got, err, want)
		}
	}
	f(-1, 0, nil)
	f(-1, 3, n(7))
	f(1, 3, n(5))
	f(2, 3, n(0))
	f(3, 9, nil)
}
