package ledger_test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/ledger/ledgertest"
)

// Spent against two judges that know nothing of how it works. The first knows
// what really was billed at every instant, which no ledger does: where Spent says
// that nothing is unknown, the two agree to the nano. The second knows only the
// samples, all of them at once, and reads the rules off them one by one.

// point is a bill at one sample; a nil bill is a line that came without.
type point struct {
	sample  int
	bill    *ledger.Nanos
	created time.Time
	kind    ledger.Kind
	status  string
}

// history is what happened: the samples, and what was really billed at each.
type history struct {
	past    []ledger.Sample // of the time before the ledger
	samples []ledger.Sample
	first   int64                     // the id of samples[0]
	truth   map[string][]ledger.Nanos // by resource and sample: all that it ever cost
}

// life is one resource while a history is made.
type life struct {
	name           string
	kind           ledger.Kind
	created        time.Time
	says           bool // the provider tells when it was created
	cost           ledger.Nanos
	zero           ledger.Nanos // what the bill of this epoch does not count
	epoch, shown   int          // the current one, and the one in the last line
	late           *ledger.Line // the old epoch's last figure, while it is shown
	lateFor        int
	frozen, hidden int // samples to come
	seen           bool
	ending         int // lines to come of what has ended, the final one last
}

// makeHistory invents one that begins at start. Every step is a chance; names
// keep the resources of two histories apart.
func makeHistory(r *rand.Rand, start time.Time, name string) history {
	chance := func(percent int) bool { return r.IntN(100) < percent }
	h := history{truth: map[string][]ledger.Nanos{}}
	every := time.Duration(1+r.IntN(20)) * time.Minute
	wild := r.IntN(4) // how eventful it is
	var lives []*life
	born := 0
	birth := func(now time.Time, old bool) {
		l := &life{name: fmt.Sprintf("%s-%d", name, born), kind: []ledger.Kind{ledger.Instance, ledger.Volume, ledger.IP}[born%3], created: now, says: chance(70)}
		born++
		if old {
			l.created = start.Add(-time.Duration(1+r.IntN(1e6)) * time.Second)
			l.cost = ledger.Nanos(r.Int64N(1e12))
			l.zero = ledger.Nanos(r.Int64N(int64(l.cost) + 1))
		}
		lives = append(lives, l)
	}
	for range r.IntN(3) {
		birth(start, true)
	}
	now := start
	for range 3 + r.IntN(25) {
		tick := every
		switch {
		case chance(3 * wild): // hours without a sample
			tick = time.Duration(r.Int64N(int64(9 * time.Hour)))
		case chance(10): // off the beat, and sometimes on the hour
			tick = time.Duration(1 + r.Int64N(int64(2*every)))
		}
		last := now
		if now = now.Add(tick).Truncate(time.Microsecond); chance(10) {
			now = now.Truncate(time.Hour).Add(time.Hour)
		}
		if !now.After(last) {
			continue
		}
		if chance(8*wild) && born < 6 {
			// Born since the last tick, or there before and attached now.
			birth(last.Add(time.Duration(1+r.Int64N(int64(now.Sub(last))))).Truncate(time.Microsecond), chance(20))
		}
		lives = slices.DeleteFunc(lives, func(l *life) bool {
			if l.ending > 0 {
				return chance(10) // and its final bill is never read
			}
			grow := ledger.Nanos(r.Int64N(5e9))
			switch {
			case l.frozen > 0:
				l.frozen, grow = l.frozen-1, 0
			case chance(3 * wild):
				l.frozen = r.IntN(6)
			case chance(2 * wild):
				grow = -ledger.Nanos(r.Int64N(1e9)) // a refund
			case chance(3 * wild):
				grow = -ledger.Nanos(r.Int64N(1200)) // noise, and a little more
			}
			l.cost += grow
			if l.seen && chance(2*wild) {
				if l.shown != l.epoch || chance(40) {
					return true // and nobody reads it once more
				}
				l.ending, l.late, l.hidden = 1+r.IntN(3), nil, 0
				return false
			}
			if l.seen && chance(3*wild) && l.epoch < 3 {
				// A new period: the old one ended somewhere on the way here.
				cut := l.cost - max(0, ledger.Nanos(r.Int64N(max(1, int64(grow)+1))))
				old := cut - l.zero
				if l.late = nil; l.shown == l.epoch { // only what was seen running has a late figure
					l.late, l.lateFor = &ledger.Line{Epoch: epochName(l.epoch), Bill: &old}, r.IntN(3)
				}
				l.zero = cut
				l.epoch++
			}
			if l.hidden > 0 {
				l.hidden--
			} else if l.seen && chance(3*wild) {
				l.hidden = 1 + r.IntN(4)
			}
			return false
		})
		if chance(5 * wild) {
			continue // the poll failed
		}
		s := ledger.Sample{At: now, Provider: "p", Currency: "USD", Truth: ledger.TruthResource, Calibrated: !chance(wild), Step: time.Minute, Lag: 5 * time.Minute, Every: every}
		if chance(wild) {
			s.Truth = ledger.TruthAccount
		}
		for _, l := range lives {
			if l.hidden > 0 {
				continue
			}
			bill := l.cost - l.zero
			ln := ledger.Line{Resource: l.name, Kind: l.kind, Status: "ACTIVE", Running: true, Rate: nanos(1), Bill: &bill, Epoch: epochName(l.epoch)}
			if l.says {
				ln.Created = l.created
			}
			if l.ending > 0 {
				ln.Status, ln.Running, ln.Rate = ledger.StatusGone, false, nil
				if l.ending--; l.ending == 0 {
					ln.Status = ledger.StatusClosed
				}
			}
			if ln.Status != ledger.StatusClosed && chance(2*wild) {
				ln.Bill = nil
			}
			if l.seen && l.late == nil && l.shown == l.epoch && ln.Status == "ACTIVE" && l.epoch < 3 && chance(2*wild) {
				// Read from a later start too, which leaves out a part of what it cost so far.
				moved := ln
				moved.Status, moved.Running, moved.Rate = ledger.StatusMoved, false, nil
				s.Lines = append(s.Lines, moved)
				l.zero += ledger.Nanos(r.Int64N(max(1, int64(bill)+1)))
				l.epoch++
				bill := l.cost - l.zero
				if ln.Epoch, ln.Bill = epochName(l.epoch), &bill; chance(2 * wild) {
					ln.Bill = nil
				}
			}
			s.Lines = append(s.Lines, ln)
			l.seen = true
			if l.late != nil && l.lateFor == 0 && chance(70) {
				late := ln
				late.Epoch, late.Bill = l.late.Epoch, l.late.Bill
				if l.shown != l.epoch || chance(50) {
					s.Lines = append(s.Lines, late)
				} else {
					s.Lines[len(s.Lines)-1] = late // and the new one is missing
				}
				if chance(70) {
					l.late = nil
				}
			}
			l.lateFor = max(0, l.lateFor-1)
			l.shown = l.epoch
		}
		h.samples = append(h.samples, s)
		for _, l := range lives {
			costs := h.truth[l.name]
			for len(costs) < len(h.samples)-1 {
				// Before its birth it cost nothing; what was there before has cost
				// what its first figure says, as far as anybody could know.
				before := ledger.Nanos(0)
				if !l.created.After(h.samples[0].At) {
					before = l.cost
				}
				costs = append(costs, before)
			}
			h.truth[l.name] = append(costs, l.cost)
		}
		for n, costs := range h.truth {
			if len(costs) < len(h.samples) { // dead
				h.truth[n] = append(costs, costs[len(costs)-1])
			}
		}
		lives = slices.DeleteFunc(lives, func(l *life) bool { return closed(s, l.name) })
	}
	return h
}

// makePast invents what the provider tells of the time before a ledger whose first sample
// is h's: lower bills of what was there, at up to three instants.
func makePast(r *rand.Rand, h history) (past []ledger.Sample) {
	if len(h.samples) == 0 {
		return nil
	}
	own := h.samples[0]
	at := own.At
	lines := own.Lines
	for range r.IntN(4) {
		at = at.Add(-time.Duration(1 + r.Int64N(int64(90*time.Minute)))).Truncate(time.Microsecond)
		s := own
		s.At, s.Past, s.Every, s.Lines = at, true, 0, nil
		for _, ln := range lines {
			if ln.Created.After(at) || ln.Status == ledger.StatusMoved || ln.Status == ledger.StatusGone || ln.Status == ledger.StatusClosed || r.IntN(10) == 0 {
				continue
			}
			ln.Status, ln.Running, ln.Rate = "", false, nil
			if ln.Bill != nil {
				lower := *ln.Bill - ledger.Nanos(r.Int64N(1e9)) + ledger.Nanos(r.Int64N(1e7))
				ln.Bill = &lower
			}
			s.Lines = append(s.Lines, ln)
		}
		lines = s.Lines
		past = append([]ledger.Sample{s}, past...)
	}
	return past
}

func closed(s ledger.Sample, resource string) bool {
	return slices.ContainsFunc(s.Lines, func(ln ledger.Line) bool { return ln.Resource == resource && ln.Status == ledger.StatusClosed })
}

// Names whose order is not their order in time.
func epochName(n int) string { return [...]string{"m", "z", "a", "q"}[n] }

// series gathers the lines of each resource and epoch.
func (h history) series() map[[2]string][]point {
	all := map[[2]string][]point{}
	for i, s := range h.samples {
		for _, ln := range s.Lines {
			k := [2]string{ln.Resource, ln.Epoch}
			all[k] = append(all[k], point{i, ln.Bill, ln.Created, ln.Kind, ln.Status})
		}
	}
	return all
}

func (h history) ref(i int) ledger.SampleRef {
	return ledger.SampleRef{ID: h.first + int64(i), At: h.samples[i].At}
}

// bounds snaps a window to two samples; false where there is none.
func (h history) bounds(from, to time.Time) (a, b int, ok bool) {
	a, b = -1, -1
	for i, s := range h.samples {
		if !s.At.After(from) {
			a = i
		}
		if !s.At.After(to) {
			b = i
		}
	}
	if b < 0 {
		return 0, 0, false
	}
	return max(a, 0), b, true
}

// scan reads the rules off the samples.
func (h history) scan(from, to time.Time) ledger.Spend {
	a, b, ok := h.bounds(from, to)
	if !ok {
		return ledger.Spend{}
	}
	flags := map[string]bool{}
	newest := h.samples[b]
	sp := ledger.Spend{From: h.ref(a), To: h.ref(b), Count: b - a + 1, Currency: "USD", Provider: "p", Every: newest.Every}
	flags[ledger.FlagStartsLate] = h.samples[a].At.After(from)
	for i := a; i <= b; i++ {
		s := h.samples[i]
		if !s.Calibrated {
			flags[ledger.FlagUncalibrated] = true
		}
		if s.Truth == ledger.TruthAccount {
			flags[ledger.FlagAccountTruth] = true
		}
		if i > a && 2*s.At.Sub(h.samples[i-1].At) > 5*s.Every {
			sp.Gaps = append(sp.Gaps, ledger.Window{From: h.samples[i-1].At.UTC(), To: s.At.UTC()})
			flags[ledger.FlagGaps] = true
		}
	}
	all := h.series()
	for k, points := range all {
		h.scanSeries(&sp, flags, all, k, points, a, b)
	}
	for name := range h.truth {
		var before, inside, after bool
		newest, atB := -1, false // when its newest epoch by B began, and whether all such are at B
		for k, points := range all {
			if k[0] != name {
				continue
			}
			here := false
			for _, p := range points {
				before = before || p.sample < a
				inside = inside || p.sample >= a && p.sample <= b
				after = after || p.sample > b
				here = here || p.sample == b
			}
			if last := points[len(points)-1]; last.sample <= b && last.status == ledger.StatusClosed {
				here = true // it is missed no more
			}
			switch began := points[0].sample; {
			case began > b || began < newest:
			case began > newest:
				newest, atB = began, here
			default:
				atB = atB && here
			}
		}
		if inside && !atB {
			flags[ledger.FlagGone] = true
		}
		if before && after && !inside {
			flags[ledger.FlagUnseen] = true
		}
	}
	sp.Before = h.scanBefore(from, to)
	for f, on := range flags {
		if on {
			sp.Flags = append(sp.Flags, f)
		}
	}
	slices.Sort(sp.Flags)
	slices.SortFunc(sp.Resources, func(x, y ledger.ResourceSpend) int {
		return cmp.Or(cmp.Compare(x.Resource, y.Resource), x.First.At.Compare(y.First.At), cmp.Compare(x.Epoch, y.Epoch))
	})
	return sp
}

func (h history) scanSeries(sp *ledger.Spend, flags map[string]bool, all map[[2]string][]point, k [2]string, points []point, a, b int) {
	var prior, firstEver *point
	var inside []point // with a bill, after A up to B
	seen := false
	for i, p := range points {
		if p.sample >= a && p.sample <= b {
			seen = true
			if p.bill == nil {
				flags[ledger.FlagUnknownBill] = true
			}
		}
		if p.bill == nil {
			continue
		}
		if firstEver == nil {
			firstEver = &points[i]
		}
		if p.sample <= a {
			prior = &points[i]
		} else if p.sample <= b {
			inside = append(inside, p)
		}
	}
	if !seen {
		return
	}
	// Another epoch of the resource was there before its first bill.
	other := false
	for o, ps := range all {
		other = other || o[0] == k[0] && o[1] != k[1] && firstEver != nil && ps[0].sample <= firstEver.sample
	}
	if len(inside) == 0 && (prior == nil || prior.sample != a) {
		return
	}
	r := ledger.ResourceSpend{Resource: k[0], Epoch: k[1], Kind: points[0].kind}
	last := prior
	switch {
	case prior != nil:
		r.First, r.Base = h.ref(prior.sample), *prior.bill
		if prior.sample != a {
			flags[ledger.FlagUnseen] = true
		}
	case other:
		if !joined(all, k, points[0].sample, inside[0].sample, b) {
			flags[ledger.FlagEpochChanged] = true
		}
		r.First, r.Base = h.ref(inside[0].sample), *inside[0].bill
	case inside[0].created.After(h.samples[a].At):
		r.First = h.ref(inside[0].sample)
	default:
		flags[ledger.FlagFirstSeen] = true
		r.First, r.Base = h.ref(inside[0].sample), *inside[0].bill
	}
	was := r.Base
	for i := range inside {
		d := *inside[i].bill - was
		r.Gross += max(d, 0)
		if d <= -1000 {
			flags[ledger.FlagAdjusted] = true
		}
		was, last = *inside[i].bill, &inside[i]
	}
	r.Last, r.Bill, r.Net = h.ref(last.sample), *last.bill, *last.bill-r.Base
	sp.Resources = append(sp.Resources, r)
	sp.Net += r.Net
	sp.Gross += r.Gross
}

// scanBefore reads off the past samples, and the first of h, what was billed before h. A
// history that is not the first of its ledger has nothing before it.
func (h history) scanBefore(from, to time.Time) *ledger.BeforeSpend {
	own := h.samples[0]
	if h.first != 1+int64(len(h.past)) || !from.Before(own.At) || own.At.After(to) {
		return nil
	}
	before := &ledger.BeforeSpend{Until: h.ref(0)}
	type key struct{ resource, epoch string }
	last, known := map[key]ledger.Nanos{}, from.UTC()
	var any bool
	for _, s := range append(slices.Clone(h.past), own) {
		if s.At.Before(from) {
			continue
		}
		for _, ln := range s.Lines {
			any = true
			k := key{ln.Resource, ln.Epoch}
			was, seen := last[k]
			other := slices.ContainsFunc(slices.Collect(maps.Keys(last)), func(o key) bool { return o.resource == ln.Resource && o != k })
			for _, o := range s.Lines {
				other = other || o.Resource == ln.Resource && o.Epoch != ln.Epoch && o.Status == ledger.StatusMoved
			}
			switch {
			case ln.Bill == nil:
				known = own.At.UTC()
				continue
			case seen, !other && ln.Created.After(from):
				before.Net += *ln.Bill - was
				before.Gross += max(0, *ln.Bill-was)
			case other:
			case s.At.After(known):
				known = s.At.UTC()
			}
			last[k] = *ln.Bill
		}
	}
	if before.Since = known; !any {
		before.Since = own.At.UTC()
	}
	return before
}

// joined tells whether each of the epochs that began last before began has, in the
// sample at, its last line up to b, with a bill and saying that it moved.
func joined(all map[[2]string][]point, k [2]string, began, at, b int) bool {
	newest, yes := -1, false
	for o, ps := range all {
		if o[0] != k[0] || ps[0].sample >= began || ps[0].sample < newest {
			continue
		}
		var last point
		for _, p := range ps {
			if p.sample <= b {
				last = p
			}
		}
		moved := last.sample == at && last.bill != nil && last.status == ledger.StatusMoved
		if yes = moved && (yes || ps[0].sample > newest); ps[0].sample > newest {
			newest = ps[0].sample
		}
	}
	return yes
}

// knowable are the flags under which the net spend is exact all the same.
var knowable = []string{ledger.FlagGaps, ledger.FlagUncalibrated, ledger.FlagAccountTruth, ledger.FlagAdjusted}

// real is what was really billed from sample a to b, and whether a resource cost
// something after it had left the bill for good, which no later sample tells.
func (h history) real(a, b int) (sum ledger.Nanos, lost bool) {
	lastSight := map[string]int{}
	for i, s := range h.samples {
		for _, ln := range s.Lines {
			lastSight[ln.Resource] = i
		}
	}
	for name, costs := range h.truth {
		d := costs[b] - costs[a]
		sum += d
		if lastSight[name] < a && costs[len(costs)-1] != costs[lastSight[name]] {
			lost = true
		}
	}
	return sum, lost
}

// verdicts are counts of what the judges saw.
type verdicts struct{ histories, windows, exact, lost int }

// judge makes histories from a seed, one after the other in one ledger, and asks
// for windows of each.
func judge(t *testing.T, seed uint64, histories, windows int) (n verdicts) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 3))
	dir, err := os.MkdirTemp(t.TempDir(), "oracle")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	led := openFar(t, filepath.Join(dir, "l.db"))
	defer led.Close()
	start, id := t0, int64(1)
	for i := range histories {
		h := makeHistory(r, start, strconv.Itoa(i))
		if i == 0 {
			h.past = makePast(r, h)
		}
		id += int64(len(h.past))
		h.first = id
		if err := led.AddSamples(append(slices.Clone(h.past), h.samples...)); err != nil {
			t.Fatalf("seed %d history %d: %v", seed, i, err)
		}
		n.histories++
		if len(h.samples) == 0 {
			continue
		}
		begin, end := h.samples[0].At, h.samples[len(h.samples)-1].At
		for range windows {
			from, to := window(r, h)
			if i == 0 && r.IntN(4) == 0 {
				from = begin.Add(-time.Duration(r.Int64N(int64(3 * time.Hour)))) // the ledger begins late
				if len(h.past) > 0 && r.IntN(2) == 0 {
					from = h.past[r.IntN(len(h.past))].At
				}
			}
			got, err := led.Spent(from, to)
			if err != nil {
				t.Fatalf("seed %d history %d (%v, %v]: %v", seed, i, from, to, err)
			}
			n.windows++
			if want := h.scan(from, to); !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d history %d (%v, %v]:\n got %+v\nwant %+v\n%s", seed, i, from, to, got, want, h)
			}
			a, b, _ := h.bounds(from, to)
			real, lost := h.real(a, b)
			switch {
			case slices.ContainsFunc(got.Flags, func(f string) bool { return !slices.Contains(knowable, f) && f != ledger.FlagStartsLate }):
			case lost:
				n.lost++
			case got.Net != real:
				t.Fatalf("seed %d history %d (%v, %v]: net %s, really %s, flags %v\n%s", seed, i, from, to, got.Net, real, got.Flags, h)
			default:
				n.exact++
			}
		}
		h.judgeNeighbours(t, r, led, i == 0)
		start, id = end.Add(48*time.Hour), id+int64(len(h.samples))
	}
	verified(t, led)
	return n
}

// window is a random one inside a history: at samples, on the hour and elsewhere.
func window(r *rand.Rand, h history) (from, to time.Time) {
	begin, end := h.samples[0].At, h.samples[len(h.samples)-1].At
	at := func() time.Time {
		somewhere := begin.Add(time.Duration(r.Int64N(int64(end.Sub(begin)) + 1))).Truncate(time.Microsecond)
		switch r.IntN(3) {
		case 0:
			return h.samples[r.IntN(len(h.samples))].At
		case 1:
			return somewhere
		}
		return somewhere.Truncate(time.Hour).Add(time.Hour)
	}
	from, to = at(), at()
	if to.Before(from) {
		from, to = to, from
	}
	return from, to
}

// openFar opens a ledger whose clock is ahead of all that a history invents.
func openFar(t *testing.T, path string) *ledger.Ledger {
	t.Helper()
	return ledgertest.Open(t, ledger.Config{Path: path, Log: quiet(), Now: func() time.Time { return t0.AddDate(100, 0, 0) }})
}

func verified(t *testing.T, led *ledger.Ledger) {
	t.Helper()
	if v, err := led.Verify(t.Context()); err != nil || len(v.Problems) > 0 {
		t.Fatalf("verify: %v, %v", v.Problems, err)
	}
}

// judgeNeighbours asks for many windows at once, whose edges are whole hours, samples,
// minutes or anything, and holds each against what the rules say of it.
func (h history) judgeNeighbours(t *testing.T, r *rand.Rand, led *ledger.Ledger, first bool) {
	t.Helper()
	begin, end := h.samples[0].At, h.samples[len(h.samples)-1].At.Add(time.Duration(r.IntN(90))*time.Minute)
	if first {
		begin = begin.Add(-time.Duration(r.IntN(5)) * time.Hour) // the ledger begins late
	}
	edges := []time.Time{begin, end}
	if step := time.Duration(r.IntN(4)) * time.Hour; step > 0 {
		for at := begin.Truncate(step).Add(step); at.Before(end); at = at.Add(step) {
			edges = append(edges, at)
		}
	}
	for range r.IntN(20) {
		at, _ := window(r, h)
		edges = append(edges, at)
	}
	slices.SortFunc(edges, time.Time.Compare)
	var windows []ledger.Window
	for i := range len(edges) - 1 {
		windows = append(windows, ledger.Window{From: edges[i], To: edges[i+1]}) // some of no length
	}
	got, err := led.SpentOf(windows)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(windows) {
		t.Fatalf("%d spends for %d windows", len(got), len(windows))
	}
	for i, w := range windows {
		if want := h.scan(w.From, w.To); !reflect.DeepEqual(got[i], want) {
			t.Fatalf("window %v of %v:\n got %+v\nwant %+v\n%s", w, windows, got[i], want, h)
		}
	}
}

func (h history) String() string {
	s := ""
	for i, sm := range h.samples {
		s += fmt.Sprintf("#%d %s", h.first+int64(i), sm.At.Format("02 15:04:05.000000"))
		for _, ln := range sm.Lines {
			bill := "-"
			if ln.Bill != nil {
				bill = ln.Bill.String()
			}
			s += fmt.Sprintf("  %s/%s=%s (really %s)", ln.Resource, ln.Epoch, bill, h.truth[ln.Resource][i])
		}
		s += "\n"
	}
	return s
}

// TestSpentAgainstTheOracle asks for thousands of windows; SPOTINFERENCE_HISTORIES=100000
// makes so many histories.
func TestSpentAgainstTheOracle(t *testing.T) {
	t.Parallel()
	histories := 250
	if raceDetector {
		histories = 50 // SQLite is slow under it, and a judge runs on one goroutine
	}
	if s := os.Getenv("SPOTINFERENCE_HISTORIES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		histories = n
	}
	const each, windows = 25, 8
	var mu sync.Mutex // guards n
	var n verdicts
	t.Run("seed", func(t *testing.T) {
		for seed := range uint64((histories + each - 1) / each) {
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				t.Parallel()
				one := judge(t, seed, each, windows)
				mu.Lock()
				defer mu.Unlock()
				n = verdicts{n.histories + one.histories, n.windows + one.windows, n.exact + one.exact, n.lost + one.lost}
			})
		}
	})
	t.Logf("%d histories, %d windows: %d knowable and exact, %d beyond knowing, the others flagged", n.histories, n.windows, n.exact, n.lost)
	if n.exact < n.windows/5 || n.exact > n.windows*9/10 {
		t.Errorf("%d of %d windows are knowable: the histories are too tame or too wild to tell anything", n.exact, n.windows)
	}
}

func FuzzSpent(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { judge(t, seed, 3, 8) })
}
