package ledger_test

import (
	"cmp"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"spotinference/ledger"
)

// Falls are those that a scan of the samples finds, between any two of them.
func TestFallsEqualTheSamples(t *testing.T) {
	t.Parallel()
	found := 0
	for seed := range uint64(16) {
		r := seeded(seed)
		h := makeHistory(r, t0, "f")
		if len(h.samples) == 0 {
			continue
		}
		h.first = 1
		led := openFar(t, filepath.Join(t.TempDir(), "l.db"))
		if err := led.AddSamples(h.samples); err != nil {
			t.Fatal(err)
		}
		series := h.series()
		keys := slices.SortedFunc(maps.Keys(series), func(x, y [2]string) int { return cmp.Or(cmp.Compare(x[0], y[0]), cmp.Compare(x[1], y[1])) })
		for _, k := range keys {
			points := series[k]
			for range 40 {
				from, to := window(r, h)
				var want []ledger.Fall
				prev := -1
				for i, p := range points {
					at := h.samples[p.sample].At
					if p.bill == nil || at.Before(from) || at.After(to) {
						continue
					}
					if prev >= 0 && *p.bill < *points[prev].bill {
						want = append(want, ledger.Fall{From: h.ref(points[prev].sample), To: h.ref(p.sample), By: *points[prev].bill - *p.bill})
					}
					prev = i
				}
				got, err := led.Falls(k[0], k[1], from, to)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.EqualFunc(got, want, func(x, y ledger.Fall) bool {
					return x.From.ID == y.From.ID && x.To.ID == y.To.ID && x.By == y.By && x.From.At.Equal(y.From.At) && x.To.At.Equal(y.To.At)
				}) {
					t.Fatalf("seed %d: falls of %v in [%v, %v]:\n got %v\nwant %v\n%s", seed, k, from, to, got, want, h)
				}
				found += len(want)
			}
		}
		led.Close()
	}
	if found < 20 {
		t.Errorf("only %d falls", found)
	}
}
