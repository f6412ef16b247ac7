package ledger_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
)

// traffic makes requests as a gateway writes them, by the order of their commits:
// bursts and lulls, most of them short and some for hours, many late, some that
// begin or end at the same instant as another, and some whose clock stepped back.
func traffic(r *rand.Rand, n int) (all []ledger.Request) {
	taken := map[int64]bool{}
	now := t0
	for i := range n {
		switch r.IntN(100) {
		case 0:
			now = now.Add(-time.Duration(r.Int64N(int64(2 * time.Hour)))) // the clock steps back
		case 1:
			now = now.Add(time.Duration(r.Int64N(int64(2 * time.Hour)))) // a lull, or a step ahead
		default:
			now = now.Add(time.Duration(r.Int64N(int64(4 * time.Second))))
		}
		ran := time.Duration(r.Int64N(int64(time.Second)))
		switch k := r.IntN(1000); {
		case k < 20:
			ran *= 60
		case k < 25:
			ran *= 3600
		case k == 25:
			ran *= 365 * 24 * 3600 // from before the ledger: a clock that was wrong at first
		case k < 50:
			ran = -ran
		case k < 60:
			ran = 0
		}
		q := ledger.Request{ID: fmt.Sprint("r", i), Endpoint: "chat", Status: ledger.OK, HTTP: 200}
		q.Finished = now.Truncate(time.Microsecond)
		q.Started = q.Finished.Add(-ran.Truncate(time.Microsecond))
		if len(all) > 0 && r.IntN(20) == 0 {
			o := all[r.IntN(len(all))]
			switch r.IntN(3) {
			case 0:
				q.Started = o.Started
			case 1:
				q.Started = o.Finished
			case 2:
				q.Started, q.Finished = o.Started.Add(-time.Second), o.Started
			}
		}
		for taken[q.Finished.UnixMicro()] {
			q.Finished = q.Finished.Add(time.Microsecond)
		}
		taken[q.Finished.UnixMicro()] = true
		all = append(all, q)
	}
	return all
}

// union is the naive one: sorted, and merged.
func union(all []ledger.Request) (spans []ledger.Window) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(x, y ledger.Request) int {
		return cmp.Or(x.Started.Compare(y.Started), x.Finished.Compare(y.Finished))
	})
	for _, q := range all {
		switch n := len(spans); {
		case !q.Started.Before(q.Finished):
		case n > 0 && !q.Started.After(spans[n-1].To):
			if q.Finished.After(spans[n-1].To) {
				spans[n-1].To = q.Finished
			}
		default:
			spans = append(spans, ledger.Window{From: q.Started, To: q.Finished})
		}
	}
	return spans
}

// within is how much of w the spans cover.
func within(spans []ledger.Window, w ledger.Window) (sum time.Duration) {
	for _, s := range spans {
		from, to := s.From, s.To
		if from.Before(w.From) {
			from = w.From
		}
		if to.After(w.To) {
			to = w.To
		}
		sum += max(0, to.Sub(from))
	}
	return sum
}

// busyEqualsTheRows asks for the busy time between random instants.
func busyEqualsTheRows(t *testing.T, r *rand.Rand, led *ledger.Ledger, all []ledger.Request) {
	t.Helper()
	spans := union(all)
	edges := []time.Time{t0.Add(-24 * time.Hour), t0.Add(100 * time.Hour)}
	for range 200 {
		edges = append(edges, t0.Add(time.Duration(r.Int64N(int64(30*time.Hour)))-5*time.Hour).Truncate([]time.Duration{time.Microsecond, time.Minute, time.Hour}[r.IntN(3)]))
	}
	for range min(50, len(all)) {
		q := all[r.IntN(len(all))]
		edges = append(edges, q.Started, q.Finished)
	}
	slices.SortFunc(edges, time.Time.Compare)
	edges = slices.CompactFunc(edges, time.Time.Equal)
	got, err := led.Busy(edges)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(edges)-1 {
		t.Fatalf("%d spans between %d edges", len(got), len(edges))
	}
	for i, d := range got {
		w := ledger.Window{From: edges[i], To: edges[i+1]}
		if want := within(spans, w); d != want {
			t.Fatalf("busy %v of (%v, %v], want %v", d, w.From, w.To, want)
		}
	}
}

// The time that the engine was busy is that of the rows, in whatever order they
// came, however they shared commits, and whatever became of the writer meanwhile.
func TestBusyEqualsTheRows(t *testing.T) {
	t.Parallel()
	seeds := uint64(12)
	if raceDetector {
		seeds = 3
	}
	for seed := range seeds {
		r := seeded(seed)
		all := traffic(r, 600)
		path := filepath.Join(t.TempDir(), "l.db")
		led := open(t, path)
		for done := 0; done < len(all); {
			n := min(len(all)-done, 1+r.IntN(1+r.IntN(60)))
			part := all[done : done+n]
			switch r.IntN(20) {
			case 0:
				led.Close()
				led = open(t, path)
			case 1, 2:
				led.FailCommit(r.IntN(2) == 0)
				if err := led.AddRequests(part); !errors.Is(err, ledger.ErrInjected) {
					t.Fatalf("AddRequests = %v", err)
				}
				led.HealCommit()
			}
			if err := led.AddRequests(part); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			done += n
			if r.IntN(8) == 0 {
				busyEqualsTheRows(t, r, led, all[:done])
			}
		}
		busyEqualsTheRows(t, r, led, all)
		verified(t, led)
		led.Close()
	}
}

// What a commit that failed would have added is not taken for written.
func TestBusyAfterAFailedCommit(t *testing.T) {
	t.Parallel()
	for _, written := range []bool{false, true} {
		led := open(t, filepath.Join(t.TempDir(), "l.db"))
		for i := range 3 {
			q := request(fmt.Sprint(i), minute(i), 1)
			q.Started = q.Finished.Add(-time.Second)
			led.FailCommit(written)
			if err := led.AddRequest(q); !errors.Is(err, ledger.ErrInjected) {
				t.Fatalf("AddRequest = %v", err)
			}
			led.HealCommit()
			verified(t, led)
			if i > 0 {
				add(t, led, q)
			}
			add(t, led, request(fmt.Sprint("after ", i), minute(i).Add(20*time.Second), 1))
			verified(t, led)
		}
		led.Close()
	}
}

// A ledger from before that knew no busy time has it after it was opened.
func TestBusyOfAnOlderLedger(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		r := seeded(seed)
		all := traffic(r, int(seed)*200)
		path := filepath.Join(t.TempDir(), "l.db")
		oldLedger(t, path, history{}, all, nil)
		led := open(t, path)
		busyEqualsTheRows(t, r, led, all)
		verified(t, led)
		more := traffic(r, 100)
		for i := range more {
			more[i].ID = "more" + more[i].ID
		}
		if err := led.AddRequests(more); err != nil {
			t.Fatal(err)
		}
		verified(t, led)
		led.Close()
	}
}

// Verify names what is not what the requests make.
func TestVerifyBusyTime(t *testing.T) {
	t.Parallel()
	f := func(want string, statement string) {
		t.Helper()
		led := open(t, filepath.Join(t.TempDir(), "l.db"))
		if err := led.AddRequests(traffic(seeded(1), 250)); err != nil {
			t.Fatal(err)
		}
		verified(t, led)
		if err := led.Exec(statement); err != nil {
			t.Fatal(err)
		}
		got, err := led.Verify(t.Context())
		if err != nil || len(got.Problems) != 1 || !strings.Contains(got.Problems[0], want) {
			t.Errorf("%s: %q, %v, want %q", statement, got.Problems, err, want)
		}
		led.Close()
	}
	const not = "it is not what its requests make"
	f(not, "DELETE FROM busy WHERE start = (SELECT max(start) FROM busy)")
	f(not, "DELETE FROM busy WHERE start = (SELECT min(start) FROM busy)")
	f(not, "DELETE FROM busy")
	f(not, "UPDATE busy SET before = before + 1")
	f(not, "UPDATE busy SET before = before + 1 WHERE start = (SELECT max(start) FROM busy)")
	f(not, "UPDATE busy SET start = start + 1 WHERE start = (SELECT min(start) FROM busy)")
	f(not, "INSERT INTO busy VALUES (7, 0, x'05')")
	f(not, "UPDATE busy SET spans = CAST(spans || x'0101' AS BLOB)")
	f("is not coded as it should be", "UPDATE busy SET spans = CAST(substr(spans, 1, length(spans) - 1) AS BLOB)")
	f("is not coded as it should be", "UPDATE busy SET spans = x''")
}
