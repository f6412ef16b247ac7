package ledger_test

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/ledger/report"
)

// afternoon is a ledger of four hours, from 11:50 to 16:10 with samples a minute at
// four cents. The engine starts at 11:52 and is ready at 12:00; it serves an hour
// without a pause, then half of one, then nothing; it is suspended from 15:00 to 15:30
// and crashes at 15:50.
func afternoon(t *testing.T) (led *ledger.Ledger, ran func(from, to float64, tokens int64, key string), engine func(at float64, from, to ledger.EngineState), billed func(at float64, n ledger.Nanos)) {
	t.Helper()
	led = open(t, filepath.Join(t.TempDir(), "l.db"))
	billed = func(at float64, n ledger.Nanos) { addSample(t, led, sample(minutes(at), bill("vm", n))) }
	engine = func(at float64, from, to ledger.EngineState) {
		t.Helper()
		if err := led.AddEvent(minutes(at), ledger.EngineChange{From: from, To: to}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	ran = func(from, to float64, tokens int64, key string) {
		t.Helper()
		n++
		q := request(fmt.Sprint("r", n), minutes(to), tokens)
		q.Started, q.Key = minutes(from), key
		add(t, led, q)
	}
	if err := led.AddEvent(minutes(-11), ledger.GatewayStarted{}); err != nil {
		t.Fatal(err)
	}
	engine(-8, ledger.Stopped, ledger.Starting)
	engine(0, ledger.Starting, ledger.Ready)
	for m := -10; m <= 250; m++ {
		billed(float64(m), 100_000_000_000+ledger.Nanos(m)*40_000_000)
	}
	ran(0, 40, 1_000_000, "ann")
	ran(20, 60, 2_000_000, "bob")
	ran(90, 120, 500_000, "ann")
	engine(180, ledger.Ready, ledger.Suspending)
	engine(180.5, ledger.Suspending, ledger.Suspended)
	engine(209, ledger.Suspended, ledger.Waking)
	engine(210, ledger.Waking, ledger.Ready)
	ran(209, 215, 1000, "")
	engine(230, ledger.Ready, ledger.Crashed)
	return led, ran, engine, billed
}

func minutes(n float64) time.Time { return t0.Add(time.Duration(n * float64(time.Minute))) }

// TestKeySpend: what a key's budget counts is the gross figure of the report by key,
// whatever the window, and a refund does not lower it.
func TestKeySpend(t *testing.T) {
	t.Parallel()
	led, ran, engine, billed := afternoon(t)
	f := func(from, to float64) map[string]ledger.Nanos {
		t.Helper()
		w := ledger.Window{From: minutes(from), To: minutes(to)}
		got, err := led.KeySpend(w)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := report.Cost(led.Reader, report.CostQuery{Window: w, Now: w.To, MaxSampleAge: 3 * time.Minute, By: report.ByKey})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]ledger.Nanos{}
		for _, g := range rep.Groups {
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
	engine(251, ledger.Crashed, ledger.Ready)
	billed(252, 90_000_000_000)
	ran(250.5, 252, 1, "ann")
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
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	addSample(t, led, sample(minute(0), bill("vm", 1_000_000_000)))
	if got, err := led.KeySpend(ledger.Window{From: minute(0), To: minute(1)}); err != nil || len(got) > 0 {
		t.Errorf("one sample: %v, %v", got, err)
	}
	addSample(t, led, sample(minute(10), bill("vm", 2_000_000_000)))
	q := request("r", minute(9), 5) // and no event says that an engine ran
	q.Started, q.Key = minute(1), "ann"
	add(t, led, q)
	if _, err := led.KeySpend(ledger.Window{From: minute(0), To: minute(10)}); !errors.Is(err, ledger.ErrKeySpend) {
		t.Errorf("without the engine's states: %v", err)
	}
}
