package report_test

import (
	"slices"
	"strings"
	"testing"

	"spotinference/ledger"
	"spotinference/ledger/report"
)

func (b *book) counters(minutes, started float64, prompt, completion int64, quiet bool) {
	b.t.Helper()
	s := ledger.EngineSample{At: at(minutes), Started: at(started), Engine: "llama", Prompt: prompt, Completion: completion, Quiet: quiet}
	if err := b.AddEngineSample(s); err != nil {
		b.t.Fatal(err)
	}
}

func (b *book) meter(from, to float64) report.MeterReport {
	b.t.Helper()
	m, err := report.Meter(b.Reader, ledger.Window{From: at(from), To: at(to)}, false)
	if err != nil {
		b.t.Fatal(err)
	}
	return m
}

func none(r *ledger.Request) { r.Usage.PromptTokens, r.Usage.CachedTokens = 0, 0 }

// TestMeter: each engine process against its rows, and where it differs why.
func TestMeter(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.served(2, 100, none)
	b.served(3, 50, none, cut)
	b.counters(4, 1, 0, 180, true)
	b.served(5, 30, none) // after the last sample of an engine that then died
	b.served(7, 1_000_000, none)
	b.counters(8, 6, 0, 1_000_010, true)
	b.served(9, 40, none)

	m := b.meter(0, 10)
	if len(m.Engines) != 2 || len(m.Flags) != 0 {
		t.Fatalf("%+v", m)
	}
	first, second := m.Engines[0], m.Engines[1]
	if first.Requests != 2 || first.LowerBound != 1 || first.Unchecked != 1 || first.Completion != (report.MeterCounter{Engine: 180, Ledger: 150, Unattributed: 30, Cause: "cut"}) {
		t.Errorf("first = %+v", first)
	}
	if second.Requests != 1 || second.Unchecked != 1 || second.Completion != (report.MeterCounter{Engine: 1_000_010, Ledger: 1_000_000, Rounding: 11}) {
		t.Errorf("second = %+v", second)
	}
	text := written(t, m, report.Text)
	for _, part := range []string{
		"output      180      150           30   unattributed: 1 request cut before the engine's last word",
		"within the engine's rounding", "note: 1 request finished after its last sample",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
	if csv := written(t, m, report.CSV); strings.Count(csv, "\n") != 3 || !strings.Contains(csv, ",180,150,0,30,cut,1,,false\n") {
		t.Errorf("csv = %s", csv)
	}

	// A drift that was seen is told, also once the whole agrees again.
	if err := b.AddEvent(at(8), ledger.MeterDrift{}); err != nil {
		t.Fatal(err)
	}
	m = b.meter(0, 10)
	if !slices.Equal(m.Flags, []string{report.FlagDrift}) || len(m.Drifts) != 1 || !strings.Contains(written(t, m, report.Text), `drift at `) {
		t.Errorf("%+v", m)
	}
	// So is a counter that the engine does not have.
	if err := b.AddEvent(at(9), ledger.MeterMissing{Engine: "llama", Counters: []string{"llamacpp:x_total"}}); err != nil {
		t.Fatal(err)
	}
	m = b.meter(0, 10)
	if len(m.Drifts) != 1 || len(m.Missing) != 1 || !strings.Contains(written(t, m, report.Text), "not checked: llama has no llamacpp:x_total among its metrics") {
		t.Errorf("%+v", m)
	}
	// And one that the counters show by themselves.
	b.served(11, 5, none)
	b.counters(12, 10.5, 0, 4, true)
	m = b.meter(10, 13)
	if !slices.Equal(m.Flags, []string{report.FlagDrift}) || m.Engines[0].Completion.Cause != "drift" || !strings.Contains(written(t, m, report.Text), "DRIFT") {
		t.Errorf("%+v", m)
	}
}

func TestMeterOfNothing(t *testing.T) {
	t.Parallel()
	m := open(t).meter(0, 10)
	if text := written(t, m, report.Text); !strings.Contains(text, "No engine's counters were sampled") {
		t.Errorf("text = %s", text)
	}
	if csv := written(t, m, report.CSV); strings.Count(csv, "\n") != 1 || !strings.HasPrefix(csv, "window_from,window_to,engine,started,") {
		t.Errorf("csv = %s", csv)
	}
	if text := written(t, m, report.JSON); !strings.Contains(text, `"engines": []`) || !strings.Contains(text, `"flags": []`) {
		t.Errorf("json = %s", text)
	}
}
