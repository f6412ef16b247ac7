package ledger_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"spotinference/ledger"
)

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 5)) }

// randomRequests makes requests that finish in (from, to], many of them on the
// edges of minutes and hours.
func randomRequests(r *rand.Rand, n int, from, to time.Time) (all []ledger.Request) {
	taken := map[int64]bool{}
	for i := range n {
		at := from.Add(time.Duration(1 + r.Int64N(int64(to.Sub(from))))).Truncate(time.Microsecond)
		if unit := []time.Duration{time.Microsecond, time.Minute, time.Hour}[r.IntN(3)]; unit > time.Microsecond {
			at = at.Truncate(unit).Add(time.Duration(r.IntN(3)-1) * time.Microsecond)
		}
		if taken[at.UnixMicro()] {
			continue
		}
		taken[at.UnixMicro()] = true
		all = append(all, ledger.Request{ID: fmt.Sprint("r", i), Endpoint: "chat", Started: at.Add(-time.Second), Finished: at, HTTP: 200,
			Model: []string{"", "a", "b"}[r.IntN(3)], Key: []string{"", "k"}[r.IntN(2)],
			Status:     []ledger.Status{ledger.OK, ledger.Aborted, ledger.Failed, ledger.Lost}[r.IntN(4)],
			LowerBound: r.IntN(2) == 0, Usage: ledger.Usage{PromptTokens: r.Int64N(1000), CachedTokens: r.Int64N(10), CompletionTokens: r.Int64N(1e6)}})
	}
	return all
}

// sumOf is Totals by the rows.
func sumOf(all []ledger.Request, from, to time.Time) (t ledger.Totals) {
	for _, r := range all {
		if !r.Finished.After(from) || r.Finished.After(to) {
			continue
		}
		switch r.Status {
		case ledger.OK:
			t.OK++
		case ledger.Aborted:
			t.Aborted++
		case ledger.Failed:
			t.Failed++
		case ledger.Lost:
			t.Lost++
		}
		if r.LowerBound {
			t.LowerBound++
		}
		t.Usage.PromptTokens += r.Usage.PromptTokens
		t.Usage.CachedTokens += r.Usage.CachedTokens
		t.Usage.CompletionTokens += r.Usage.CompletionTokens
	}
	return t
}

// Every way to ask equals a sum of the rows, whatever edges the window cuts.
func TestTotalsEqualTheRows(t *testing.T) {
	t.Parallel()
	r := seeded(1)
	for _, start := range []time.Time{t0, time.Unix(-40000, 0).UTC()} {
		end := start.Add(9 * time.Hour)
		all := randomRequests(r, 250, start, end)
		led := open(t, filepath.Join(t.TempDir(), "l.db"))
		add(t, led, all...)
		verified(t, led)
		var windows []ledger.Window
		for range 150 {
			at := func() time.Time {
				at := start.Add(time.Duration(r.Int64N(int64(11 * time.Hour)))).Add(-time.Hour)
				return at.Truncate([]time.Duration{time.Microsecond, time.Minute, time.Hour}[r.IntN(3)])
			}
			windows = append(windows, ledger.Window{From: at(), To: at()}) // some end before they begin
		}
		windows = append(windows, ledger.Window{From: forever[0].Add(-1e6 * time.Second), To: forever[1]})
		got, err := led.TotalsOf(windows)
		if err != nil {
			t.Fatal(err)
		}
		for i, w := range windows {
			want := sumOf(all, w.From, w.To)
			if got[i] != want {
				t.Errorf("%v: TotalsOf %+v, want %+v", w, got[i], want)
			}
			if one := totals(t, led.Reader, w.From, w.To); one != want {
				t.Errorf("%v: Totals %+v, want %+v", w, one, want)
			}
			for _, by := range []string{"model", "key"} {
				parts := map[string][]ledger.Request{}
				for _, q := range all {
					name := map[string]string{"model": q.Model, "key": q.Key}[by]
					parts[name] = append(parts[name], q)
				}
				wantBy := map[string]ledger.Totals{}
				for name, rs := range parts {
					if s := sumOf(rs, w.From, w.To); s.Requests() > 0 {
						wantBy[name] = s
					}
				}
				gotBy, err := led.TotalsBy(w.From, w.To, by)
				if err != nil {
					t.Fatal(err)
				}
				if !maps.Equal(gotBy, wantBy) {
					t.Errorf("%v by %s: %+v, want %+v", w, by, gotBy, wantBy)
				}
			}
		}
	}
}
