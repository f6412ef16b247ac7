package ledger_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"spotinference/ledger"
)

func nanos(n ledger.Nanos) *ledger.Nanos { return &n }

func bill(resource string, n ledger.Nanos) ledger.Line {
	return ledger.Line{Resource: resource, Kind: ledger.Instance, Status: "ACTIVE", Running: true,
		Rate: nanos(2_500_000_000), Bill: nanos(n), Epoch: "e1", Raw: []byte(`{"bill":1}`)}
}

func sample(at time.Time, lines ...ledger.Line) ledger.Sample {
	return ledger.Sample{At: at, Provider: "p", Currency: "USD", Truth: ledger.TruthResource, Calibrated: true,
		Step: time.Minute, Lag: 5 * time.Minute, Every: time.Minute, Lines: lines}
}

func addSample(t *testing.T, led *ledger.Ledger, ss ...ledger.Sample) {
	t.Helper()
	for _, s := range ss {
		if _, err := led.AddSample(context.Background(), s); err != nil {
			t.Fatal(err)
		}
	}
}

func minute(n int) time.Time { return t0.Add(time.Duration(n) * time.Minute) }

// spends wants the spend of a window over these samples, and the sum of its resources
// to be the same.
func spends(t *testing.T, name string, samples []ledger.Sample, from, to time.Time, net, gross ledger.Nanos, flags ...string) {
	t.Helper()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	if err := led.AddSamples(samples); err != nil {
		t.Fatal(err)
	}
	got, err := led.Spent(from, to)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if got.Net != net || got.Gross != gross || !slices.Equal(got.Flags, flags) {
		t.Errorf("%s: net %s gross %s flags %v, want %s, %s, %v", name, got.Net, got.Gross, got.Flags, net, gross, flags)
	}
	var sum ledger.Nanos
	for _, r := range got.Resources {
		sum += r.Net
	}
	if sum != got.Net {
		t.Errorf("%s: resources sum to %s, net is %s", name, sum, got.Net)
	}
}

func TestSpent(t *testing.T) {
	t.Parallel()
	f := func(name string, samples []ledger.Sample, from, to time.Time, net, gross ledger.Nanos, flags ...string) {
		t.Helper()
		spends(t, name, samples, from, to, net, gross, flags...)
	}
	born := func(l ledger.Line, at time.Time) ledger.Line { l.Created = at; return l }
	epoch := func(l ledger.Line, e string) ledger.Line { l.Epoch = e; return l }
	unknown := func(l ledger.Line) ledger.Line { l.Bill = nil; return l }
	steady := []ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), bill("vm", 130)), sample(minute(2), bill("vm", 170))}

	f("a subtraction", steady, minute(0), minute(2), 70, 70)
	f("snapped to the samples before both bounds", steady, minute(1).Add(30*time.Second), minute(2).Add(30*time.Second), 40, 40)
	f("a window older than the ledger", steady, minute(-60), minute(2), 70, 70, ledger.FlagStartsLate)
	f("inside one sample: nothing over no time", steady, minute(1).Add(time.Second), minute(1).Add(2*time.Second), 0, 0)
	f("idle reads zero", []ledger.Sample{sample(minute(0), bill("vm", 9)), sample(minute(1), bill("vm", 9))}, minute(0), minute(1), 0, 0)
	f("a resource born inside the window counts whole",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), bill("vm", 110), born(bill("vol", 7), minute(0).Add(time.Second))), sample(minute(2), bill("vm", 120), born(bill("vol", 9), minute(0).Add(time.Second)))},
		minute(0), minute(2), 29, 29)
	f("a resource that was there before is a baseline at first sight",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), bill("vm", 110), born(bill("vol", 7), minute(-5))), sample(minute(2), bill("vm", 120), born(bill("vol", 9), minute(-5)))},
		minute(0), minute(2), 22, 22, ledger.FlagFirstSeen)
	f("a resource that left counts up to its last sight",
		[]ledger.Sample{sample(minute(0), bill("vm", 100), bill("vol", 5)), sample(minute(1), bill("vm", 110), bill("vol", 8)), sample(minute(2), bill("vm", 120))},
		minute(0), minute(2), 23, 23, ledger.FlagGone)
	f("a resource that came back goes on where it was",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1)), sample(minute(2), bill("vm", 120))},
		minute(0), minute(2), 20, 20)
	f("missing at the start: its growth counts where it is seen again",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1)), sample(minute(2), bill("vm", 130)), sample(minute(3), bill("vm", 135))},
		minute(1), minute(3), 35, 35, ledger.FlagUnseen)
	f("missing all through, and back later: nobody knows",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1)), sample(minute(2)), sample(minute(3), bill("vm", 135))},
		minute(1), minute(2), 0, 0, ledger.FlagUnseen)
	f("its bill is not known at the start",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), unknown(bill("vm", 0))), sample(minute(2), bill("vm", 130))},
		minute(1), minute(2), 30, 30, ledger.FlagUnknownBill, ledger.FlagUnseen)
	f("gone is not superseded: a late figure alone does not hide that the new bill left",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), epoch(bill("vm", 3), "e0")), sample(minute(2), bill("vm", 105))},
		minute(0), minute(2), 5, 5, ledger.FlagEpochChanged, ledger.FlagGone)
	f("samples without a line: nothing counts, and that is known",
		[]ledger.Sample{sample(minute(0)), sample(minute(1))}, minute(0), minute(1), 0, 0)
	f("a new epoch closes the old one at its last sight",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), bill("vm", 110)), sample(minute(2), epoch(bill("vm", 3), "e2")), sample(minute(3), epoch(bill("vm", 8), "e2"))},
		minute(0), minute(3), 15, 15, ledger.FlagEpochChanged)
	f("a late figure of the old epoch counts",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), bill("vm", 112), epoch(bill("vm", 3), "e2")), sample(minute(2), epoch(bill("vm", 8), "e2"))},
		minute(0), minute(2), 17, 17, ledger.FlagEpochChanged)
	says := func(l ledger.Line, status string) ledger.Line { l.Status = status; return l }
	moved := func(n ledger.Nanos) ledger.Line { return says(bill("vm", n), ledger.StatusMoved) }
	f("a bill that moved: both read in one sample, nothing lost",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), moved(112), epoch(bill("vm", 3), "e2")), sample(minute(2), epoch(bill("vm", 8), "e2"))},
		minute(0), minute(2), 17, 17)
	f("a window that ends where the bill moved",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), moved(112), epoch(bill("vm", 3), "e2")), sample(minute(2), epoch(bill("vm", 8), "e2"))},
		minute(0), minute(1), 12, 12)
	f("a window that begins where the bill moved",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), moved(112), epoch(bill("vm", 3), "e2")), sample(minute(2), epoch(bill("vm", 8), "e2"))},
		minute(1), minute(2), 5, 5)
	f("it says that it moved, and the new bill is in another sample",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), moved(112)), sample(minute(2), epoch(bill("vm", 8), "e2"))},
		minute(0), minute(2), 12, 12, ledger.FlagEpochChanged)
	f("it moved, and is there again",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), moved(112), epoch(bill("vm", 3), "e2")), sample(minute(2), bill("vm", 113), epoch(bill("vm", 8), "e2"))},
		minute(0), minute(2), 18, 18, ledger.FlagEpochChanged)
	f("it moved with a bill that is not known",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), unknown(moved(0)), epoch(bill("vm", 3), "e2")), sample(minute(2), epoch(bill("vm", 8), "e2"))},
		minute(0), minute(2), 5, 5, ledger.FlagEpochChanged, ledger.FlagUnknownBill)
	f("it moved to a bill that is not known yet",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), moved(112), unknown(epoch(bill("vm", 0), "e2"))), sample(minute(2), epoch(bill("vm", 8), "e2"))},
		minute(0), minute(2), 12, 12, ledger.FlagEpochChanged, ledger.FlagUnknownBill)
	f("another one moved, not the bill that ended",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), epoch(bill("vm", 3), "e2")), sample(minute(2), moved(101), epoch(bill("vm", 1), "e3"))},
		minute(0), minute(2), 1, 1, ledger.FlagEpochChanged)
	f("gone, and its bill may still settle",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), says(bill("vm", 103), ledger.StatusGone)), sample(minute(2), bill("vol", 1))},
		minute(0), minute(2), 3, 3, ledger.FlagFirstSeen, ledger.FlagGone)
	f("closed with its final bill",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), says(bill("vm", 103), ledger.StatusClosed)), sample(minute(2))},
		minute(0), minute(2), 3, 3)
	f("not closed before its final bill",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1)), sample(minute(2), says(bill("vm", 103), ledger.StatusClosed)), sample(minute(3))},
		minute(0), minute(1), 0, 0, ledger.FlagGone)
	f("a bill that is not known is not zero",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), unknown(bill("vm", 0))), sample(minute(2), bill("vm", 130))},
		minute(0), minute(2), 30, 30, ledger.FlagUnknownBill)
	f("a resource whose bill is not known is still there",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(1), bill("vm", 130)), sample(minute(2), unknown(bill("vm", 0)))},
		minute(0), minute(2), 30, 30, ledger.FlagUnknownBill)
	f("hours without samples: the sum is known",
		[]ledger.Sample{sample(minute(0), bill("vm", 100)), sample(minute(500), bill("vm", 900))},
		minute(0), minute(500), 800, 800, ledger.FlagGaps)
}

// A bill that falls is a refund, a credit or a restatement. The net has it, as the
// invoice will; the gross, which the gate goes by, does not.
func TestPitfall05NegativeDelta(t *testing.T) {
	t.Parallel()
	f := func(name string, samples []ledger.Sample, from, to time.Time, net, gross ledger.Nanos, flags ...string) {
		t.Helper()
		spends(t, name, samples, from, to, net, gross, flags...)
	}
	f("a refund lowers net, not gross",
		[]ledger.Sample{sample(minute(0), bill("vm", 10_000)), sample(minute(1), bill("vm", 15_000)), sample(minute(2), bill("vm", 9000)), sample(minute(3), bill("vm", 9500))},
		minute(0), minute(3), -500, 5500, ledger.FlagAdjusted)
	f("a fall below a millionth is noise: it counts and is no adjustment",
		[]ledger.Sample{sample(minute(0), bill("vm", 10_000)), sample(minute(1), bill("vm", 9001)), sample(minute(2), bill("vm", 9101))},
		minute(0), minute(2), -899, 100)
	f("a fall of a millionth is an adjustment",
		[]ledger.Sample{sample(minute(0), bill("vm", 10_000)), sample(minute(1), bill("vm", 9000))},
		minute(0), minute(1), -1000, 0, ledger.FlagAdjusted)
}

// What is billed beside the machine's rate (a platform's fee, say) is in the bill, and
// the rate is in no figure: a rate of nothing, of too much or not known is one spend.
func TestPitfall14PlatformFee(t *testing.T) {
	t.Parallel()
	for _, rate := range []*ledger.Nanos{nil, nanos(0), nanos(1), nanos(2_500_000_000), nanos(9e18)} {
		at := func(m int, n ledger.Nanos) ledger.Sample {
			l := bill("vm", n)
			l.Rate = rate
			return sample(minute(m), l)
		}
		spends(t, "whatever the rate", []ledger.Sample{at(0, 100), at(1, 130), at(2, 170)}, minute(0), minute(2), 70, 70)
	}
}

// Two samplers, or one that is started again while it polls, store an instant once:
// the second process is kept out, and the second row.
func TestPitfall31TwoSamplers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "l.db")
	led := open(t, path)
	addSample(t, led, sample(minute(0), bill("vm", 100)), sample(minute(1), bill("vm", 130)))
	if second, err := ledger.Open(config(path)); err == nil {
		second.Close()
		t.Error("a second process writes this ledger")
	}
	for range 2 {
		if _, err := led.AddSample(context.Background(), sample(minute(1), bill("vm", 130))); !errors.Is(err, ledger.ErrRefused) {
			t.Errorf("the same instant again: %v", err)
		}
		if err := led.Close(); err != nil {
			t.Fatal(err)
		}
		led = open(t, path)
	}
	addSample(t, led, sample(minute(2), bill("vm", 170)))
	if sp, err := led.Spent(minute(0), minute(2)); err != nil || sp.Net != 70 || sp.Count != 3 {
		t.Errorf("spent %+v, %v", sp, err)
	}
}

func TestSpentNamesItsSamples(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	if _, err := led.Spent(minute(0), minute(9)); !errors.Is(err, ledger.ErrNoSamples) {
		t.Errorf("Spent of nothing = %v", err)
	}
	addSample(t, led, sample(minute(1), bill("vm", 1)), sample(minute(2), bill("vm", 2)), sample(minute(7), bill("vm", 3)), sample(minute(8), bill("vm", 4)))
	got, err := led.Spent(minute(0), minute(7))
	if err != nil {
		t.Fatal(err)
	}
	if got.From.ID != 1 || !got.From.At.Equal(minute(1)) || got.To.ID != 3 || !got.To.At.Equal(minute(7)) || got.Count != 3 || got.Currency != "USD" {
		t.Errorf("Spent = %+v", got)
	}
	if len(got.Gaps) != 1 || !got.Gaps[0].From.Equal(minute(2)) || !got.Gaps[0].To.Equal(minute(7)) {
		t.Errorf("gaps = %v", got.Gaps)
	}
	if raw, err := led.Raw(got.To.ID, "vm", "e1"); err != nil || string(raw) != `{"bill":1}` {
		t.Errorf("raw = %q, %v", raw, err)
	}
}

func TestAddSampleRefuses(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	addSample(t, led, sample(minute(5), bill("vm", 1)))
	f := func(name string, s ledger.Sample) {
		t.Helper()
		if _, err := led.AddSample(context.Background(), s); !errors.Is(err, ledger.ErrRefused) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	euro := sample(minute(6), bill("vm", 2))
	euro.Currency = "EUR"
	lower := sample(minute(6), bill("vm", 2))
	lower.Currency = "usd"
	f("a second currency", euro)
	f("a currency in lower case", lower)
	f("the same instant twice", sample(minute(5), bill("vm", 2)))
	f("a clock that stepped back", sample(minute(4), bill("vm", 2)))
	f("a date ahead of the clock", sample(t0.Add(24*time.Hour+2*time.Minute), bill("vm", 2)))
	if led.Err() != nil {
		t.Errorf("a refusal made the ledger ill: %v", led.Err())
	}
	twice := sample(minute(6), bill("vm", 2), bill("vm", 3))
	if _, err := led.AddSample(context.Background(), twice); err == nil {
		t.Error("one resource twice in a sample was taken")
	}
	if s, ok, err := led.Newest(); err != nil || !ok || !s.At.Equal(minute(5)) || len(s.Lines) != 1 {
		t.Errorf("a refused sample left something: %+v, %v, %v", s, ok, err)
	}
}

// A bill that moves in steps of ten minutes stands still in between, and is frozen
// only when it does so for longer than it says that a step may take to show.
func TestPitfall03StepBilling(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	at := func(m int, n ledger.Nanos) {
		t.Helper()
		s := sample(minute(m), bill("vm", n))
		s.Step, s.Lag = 10*time.Minute, 15*time.Minute
		addSample(t, led, s)
	}
	frozen := func(m int, want bool) {
		t.Helper()
		if _, _, got, err := led.Frozen(); err != nil || got != want {
			t.Errorf("minute %d: frozen = %v, %v, want %v", m, got, err, want)
		}
	}
	m := 0
	for ; m < 60; m++ {
		at(m, ledger.Nanos(1000*(m/10)))
		frozen(m, false)
	}
	for ; m <= 50+15; m++ { // the step of minute 60 does not come
		at(m, 5000)
		frozen(m, false)
	}
	at(m, 5000)
	frozen(m, true)
	if sp, err := led.Spent(minute(0), minute(59)); err != nil || sp.Net != 5000 || len(sp.Flags) != 0 {
		t.Errorf("spent %+v, %v", sp, err)
	}
}

func TestFrozen(t *testing.T) {
	t.Parallel()
	f := func(name string, want bool, samples ...ledger.Sample) {
		t.Helper()
		led := open(t, filepath.Join(t.TempDir(), "l.db"))
		addSample(t, led, samples...)
		if _, _, got, err := led.Frozen(); err != nil || got != want {
			t.Errorf("%s: frozen = %v, %v, want %v", name, got, err, want)
		}
	}
	run := func(n int, of func(i int) ledger.Line) (out []ledger.Sample) {
		for i := range n {
			out = append(out, sample(minute(i), of(i)))
		}
		return out
	}
	stopped := func(l ledger.Line) ledger.Line { l.Running = false; return l }
	volume := func(l ledger.Line) ledger.Line { l.Kind = ledger.Volume; return l }
	f("no sample", false)
	f("one sample", false, sample(minute(0), bill("vm", 5)))
	f("a bill that moves", false, run(20, func(i int) ledger.Line { return bill("vm", ledger.Nanos(i)) })...)
	f("still, within its lag", false, run(6, func(int) ledger.Line { return bill("vm", 5) })...)
	f("still for longer than its lag", true, run(7, func(int) ledger.Line { return bill("vm", 5) })...)
	f("moved, then still for long", true, run(20, func(i int) ledger.Line { return bill("vm", ledger.Nanos(min(i, 10))) })...)
	f("stopped: may stand still", false, run(20, func(int) ledger.Line { return stopped(bill("vm", 5)) })...)
	unrated := func(l ledger.Line) ledger.Line { l.Rate = nil; return l }
	free := func(l ledger.Line) ledger.Line { l.Rate = nanos(0); return l }
	f("still, and its rate is not known", true, run(20, func(int) ledger.Line { return unrated(bill("vm", 5)) })...)
	f("free of charge: may stand still", false, run(20, func(int) ledger.Line { return free(bill("vm", 5)) })...)
	seldom := run(30, func(int) ledger.Line { return bill("vm", 5) })
	f("still, seen every fourth minute", true, seldom[0], seldom[4], seldom[8])
	f("away for hours: nobody knows", false, sample(minute(0), bill("vm", 5)), sample(minute(500), bill("vm", 5)), sample(minute(504), bill("vm", 5)))
	f("a volume may move slowly", false, run(20, func(int) ledger.Line { return volume(bill("vol", 5)) })...)
}

func TestOpen(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	f := func(name string, s ledger.Sample, want ...string) {
		t.Helper()
		addSample(t, led, s)
		if got, err := led.Open("p"); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: Open = %v, %v; want %v", name, got, err, want)
		}
	}
	says := func(l ledger.Line, epoch, status string) ledger.Line { l.Epoch, l.Status = epoch, status; return l }
	f("all that is there", sample(minute(0), bill("vm", 1), bill("vol", 1)), "vm", "vol")
	f("what is missing", sample(minute(1), bill("vm", 2)), "vm", "vol")
	f("what moved, once", sample(minute(2), says(bill("vm", 3), "e1", ledger.StatusMoved), bill("vol", 2), says(bill("vm", 1), "e2", "ACTIVE")), "vm", "vol")
	f("what is gone", sample(minute(3), bill("vm", 4), says(bill("vol", 3), "e1", ledger.StatusGone)), "vm", "vol")
	f("not what is closed", sample(minute(4), bill("vm", 5), says(bill("vol", 3), "e1", ledger.StatusClosed)), "vm")
	f("nor later", sample(minute(5)), "vm")
	f("not what was out of sight for long", sample(minute(60), bill("other", 1)), "other")
	if got, err := led.Open("q"); err != nil || len(got) != 0 {
		t.Errorf("Open of another provider = %v, %v", got, err)
	}
}
