package ledger_test

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"spotinference/ledger"
)

// anonymous is a spend without the numbers of its samples and without what only a budget
// counts.
func anonymous(s ledger.Spend) ledger.Spend {
	s.From.ID, s.To.ID, s.Voided = 0, 0, 0
	if s.Before != nil {
		b := *s.Before
		b.Until.ID, s.Before = 0, &b
	}
	s.Resources = slices.Clone(s.Resources)
	for i := range s.Resources {
		s.Resources[i].First.ID, s.Resources[i].Last.ID = 0, 0
	}
	return s
}

// counted is what a budget counts.
func counted(s ledger.Spend) ledger.Nanos {
	n := s.Gross + s.Voided
	if s.Before != nil {
		n += s.Before.Gross
	}
	return n
}

// A ledger some of whose samples are void says of every window what one says that never
// had them; and what a budget counts is never less than it was before.
func TestVoidSamplesAreInNoFigure(t *testing.T) {
	t.Parallel()
	seeds := uint64(12)
	if raceDetector {
		seeds = 4
	}
	voided := 0
	for seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 9))
		dir := t.TempDir()
		with, without := openFar(t, filepath.Join(dir, "with.db")), openFar(t, filepath.Join(dir, "without.db"))
		h := makeHistory(r, t0, "h")
		if len(h.samples) < 8 {
			continue
		}
		half := len(h.samples) / 2
		var void []int64
		for range 1 + r.IntN(4) {
			if at := r.IntN(half); !slices.Contains(void, int64(at+1)) {
				void = append(void, int64(at+1)) // also neighbours, the first one and the newest one
			}
			if r.IntN(2) == 0 && len(void) > 0 && void[len(void)-1] < int64(half) && !slices.Contains(void, void[len(void)-1]+1) {
				void = append(void, void[len(void)-1]+1)
			}
		}
		if err := with.AddSamples(h.samples[:half]); err != nil {
			t.Fatal(err)
		}
		var windows []ledger.Window
		var before []ledger.Spend
		for range 40 {
			from, to := window(r, history{samples: h.samples[:half]})
			sp, err := with.Spent(from, to)
			if err != nil {
				t.Fatal(err)
			}
			windows, before = append(windows, ledger.Window{From: from, To: to}), append(before, sp)
		}
		for _, id := range void {
			v, err := with.VoidSample(id, "the exec script lied")
			if err != nil || v.Sample.ID != id || !v.Sample.At.Equal(h.samples[id-1].At) || v.Ahead() {
				t.Fatalf("void %d: %+v, %v", id, v, err)
			}
			voided++
		}
		var kept []ledger.Sample
		for i, s := range h.samples {
			if !slices.Contains(void, int64(i+1)) {
				kept = append(kept, s)
			}
		}
		verified(t, with)
		compare := func(n int) {
			t.Helper()
			for range 60 {
				from, to := window(r, history{samples: h.samples[:n]})
				got, err := with.Spent(from, to)
				want, wantErr := without.Spent(from, to)
				if (err == nil) != (wantErr == nil) || !reflect.DeepEqual(anonymous(got), anonymous(want)) {
					t.Fatalf("seed %d, void %d, (%v, %v]:\n got %+v, %v\nwant %+v, %v\n%s", seed, void, from, to, got, err, want, wantErr, h)
				}
			}
			for name, ask := range map[string]func(r *ledger.Reader) (any, error){
				"Newest":      func(r *ledger.Reader) (any, error) { s, ok, err := r.Newest(); s.ID = 0; return []any{s, ok}, err },
				"SampleTimes": func(r *ledger.Reader) (any, error) { return r.SampleTimes(forever[0], forever[1]) },
				"SampleBefore": func(r *ledger.Reader) (any, error) {
					at, ok, err := r.SampleBefore(h.samples[n/2].At)
					return []any{at, ok}, err
				},
				"SampleAfter": func(r *ledger.Reader) (any, error) {
					at, ok, err := r.SampleAfter(h.samples[n/2].At)
					return []any{at, ok}, err
				},
				"MaxRate": func(r *ledger.Reader) (any, error) { return r.MaxRate(forever[0], forever[1]) },
				"Frozen":  func(r *ledger.Reader) (any, error) { name, at, is, err := r.Frozen(); return []any{name, at, is}, err },
				"Open":    func(r *ledger.Reader) (any, error) { return r.Open(h.samples[0].Provider) },
				"EachSample": func(r *ledger.Reader) (any, error) {
					var all []ledger.Sample
					err := r.EachSample(t.Context(), ledger.Window{From: forever[0], To: forever[1]}, func(s ledger.Sample) error {
						s.ID = 0
						all = append(all, s)
						return nil
					})
					return all, err
				},
			} {
				got, err := ask(with.Reader)
				want, wantErr := ask(without.Reader)
				if err != nil || wantErr != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("seed %d, void %d: %s = %v, %v, want %v, %v", seed, void, name, got, err, want, wantErr)
				}
			}
		}
		if err := without.AddSamples(kept[:half-len(void)]); err != nil {
			t.Fatal(err)
		}
		compare(half)
		for i, w := range windows {
			after, err := with.Spent(w.From, w.To)
			if errors.Is(err, ledger.ErrNoSamples) {
				continue // then the gate sees no bill at all
			}
			if err != nil {
				t.Fatal(err)
			}
			if counted(after) < counted(before[i]) {
				t.Errorf("seed %d, void %d, %v: a budget counts %s, and counted %s before\n%s", seed, void, w, counted(after), counted(before[i]), h)
			}
		}
		// What comes later is added to what is left.
		if err := errors.Join(with.AddSamples(h.samples[half:]), without.AddSamples(kept[half-len(void):])); err != nil {
			t.Fatal(err)
		}
		verified(t, with)
		compare(len(h.samples))
	}
	if voided < 8 {
		t.Errorf("%d samples were voided: that tells nothing", voided)
	}
}

// A sample from 2038 hides all that follows; void, it is as if it never was, also for the
// budget.
func TestAVoidSampleAheadOfTheClock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "l.db")
	now := t0
	led, err := ledger.Open(ledger.Config{Path: path, Log: quiet(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	sample := func(at time.Time, bill ledger.Nanos) (int64, error) {
		return led.AddSample(t.Context(), ledger.Sample{At: at, Provider: "exec", Currency: "USD", Truth: ledger.TruthResource, Every: time.Minute,
			Lines: []ledger.Line{{Resource: "vm/1", Kind: ledger.Instance, Status: "ACTIVE", Running: true, Bill: &bill}}})
	}
	must := func(at time.Time, bill ledger.Nanos) int64 {
		t.Helper()
		id, err := sample(at, bill)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	must(t0, 1e9)
	must(t0.Add(time.Minute), 2e9)
	now = time.Date(2038, 1, 1, 0, 0, 0, 0, time.UTC) // the clock is ahead
	bad := must(now, 500e9)
	now = t0.Add(2 * time.Minute)
	if _, err := sample(now, 3e9); !errors.Is(err, ledger.ErrRefused) {
		t.Fatalf("AddSample behind the sample of 2038 = %v", err)
	}
	for _, c := range []struct {
		id     int64
		reason string
	}{{bad, ""}, {bad, "two\nlines"}, {bad + 7, "there is none"}} {
		if _, err := led.VoidSample(c.id, c.reason); !errors.Is(err, ledger.ErrRefused) {
			t.Errorf("VoidSample(%d, %q) = %v, want a refusal", c.id, c.reason, err)
		}
	}
	if led.Err() != nil {
		t.Errorf("Err() = %v after refusals", led.Err())
	}
	v, err := led.VoidSample(bad, "the clock was ahead")
	if err != nil || !v.Ahead() {
		t.Fatalf("VoidSample = %+v, %v", v, err)
	}
	if _, err := led.VoidSample(bad, "again"); !errors.Is(err, ledger.ErrRefused) {
		t.Errorf("a second time: %v", err)
	}
	if latest, _, err := led.Latest(); err != nil || latest.After(now) {
		t.Errorf("Latest = %v, %v", latest, err)
	}
	must(now, 3e9)
	sp, err := led.Spent(t0, forever[1])
	if err != nil || sp.Net != 2e9 || sp.Gross != 2e9 || sp.Voided != 0 || sp.Count != 3 {
		t.Errorf("Spent = %+v, %v, want 2 of 3 samples and nothing void", sp, err)
	}
	voids, err := led.Voids(forever[0], forever[1])
	if err != nil || len(voids) != 1 || voids[0] != v {
		t.Errorf("Voids = %+v, %v, want %+v", voids, err, v)
	}
	events, err := led.Events(ledger.EventBilling, forever[0], forever[1])
	if err != nil || len(events) != 1 || events[0].Subject != "sample_void" {
		t.Errorf("events %+v, %v", events, err)
	}
	verified(t, led)
}

// A bill that was read wrongly is in no report any more; the budget, which has counted
// it, counts it still, until its day is over.
func TestAVoidSampleLowersNoBudget(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	bills := []ledger.Nanos{1e9, 2e9, 900e9, 3e9, 4e9}
	for i, bill := range bills {
		_, err := led.AddSample(t.Context(), ledger.Sample{At: t0.Add(time.Duration(i) * time.Minute), Provider: "exec", Currency: "USD", Truth: ledger.TruthResource, Every: time.Minute,
			Lines: []ledger.Line{{Resource: "vm/1", Kind: ledger.Instance, Status: "ACTIVE", Running: true, Bill: &bill}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := led.VoidSample(3, "the exec script lied"); err != nil {
		t.Fatal(err)
	}
	f := func(from, to int, net, gross, voided ledger.Nanos) {
		t.Helper()
		sp, err := led.Spent(t0.Add(time.Duration(from)*time.Minute), t0.Add(time.Duration(to)*time.Minute))
		if err != nil || sp.Net != net || sp.Gross != gross || sp.Voided != voided {
			t.Errorf("(%d, %d]: net %s, gross %s, voided %s, %v, want %s, %s, %s", from, to, sp.Net, sp.Gross, sp.Voided, err, net, gross, voided)
		}
	}
	f(0, 4, 3e9, 3e9, 898e9-1e9) // 1 + 898 + 0 + 1 were counted
	f(0, 2, 1e9, 1e9, 898e9)
	f(2, 4, 2e9, 2e9, 0) // the fall from 900 to 3 counted nothing, and the rise from 2 does
	f(3, 4, 1e9, 1e9, 0)
	f(0, 1, 1e9, 1e9, 0)
}
