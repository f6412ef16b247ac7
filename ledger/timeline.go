package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"time"
)

// SpendPart is what an engine did while money was spent: a spend is split into these.
type SpendPart int

const (
	PartServing SpendPart = iota
	PartIdle
	PartWaking
	PartSuspended
	PartDown
	NumSpendParts // how many there are
)

// spendParts are their names, and what is not plain from them.
var spendParts = [NumSpendParts]struct{ name, help string }{
	PartServing:   {"serving", "a request was in the engine"},
	PartIdle:      {"idle", "ready, without a request"},
	PartWaking:    {"waking", "starting, or coming back from suspension"},
	PartSuspended: {"suspended", "the GPU was let go"},
	PartDown:      {"down", "stopped or crashed"},
}

func (p SpendPart) String() string { return spendParts[p].name }

// Help says what the engine did in this part.
func (p SpendPart) Help() string { return spendParts[p].help }

// maxSlices bounds how finely the spend is split: by the sample interval in a day
// of samples a minute, coarser in a longer window.
const maxSlices = 1500

// timeSlice is a span of the window within which spend is taken to be even.
type timeSlice struct {
	to      time.Time
	micros  [NumSpendParts]int64 // of each part
	wakes   map[int]int64        // of waking, by the index of the wake in the question
	unknown bool                 // some of it is in no part
}

// add takes the times of another slice in.
func (s *timeSlice) add(other timeSlice) {
	for part, us := range other.micros {
		s.micros[part] += us
	}
	for i, us := range other.wakes {
		s.addWake(i, us)
	}
}

func (s *timeSlice) addWake(i int, us int64) {
	if s.wakes == nil {
		s.wakes = map[int]int64{}
	}
	s.wakes[i] += us
}

// pure is the one part that the slice is all in, -1 where it is mixed.
func (s timeSlice) pure() int {
	only := -1
	for part, us := range s.micros {
		if us > 0 && only >= 0 {
			return -1
		} else if us > 0 {
			only = part
		}
	}
	return only
}

// Timeline is how the time of a spend went: when requests ran, and what the engine did.
type Timeline struct {
	Busy   time.Duration   // in which at least one request ran
	BusyIn []time.Duration // the same, between each two neighbours of the edges
	// Even is the span within which spend is taken to be even, 0 for one between two
	// samples.
	Even time.Duration

	spend  Spend
	slices []timeSlice
	wakes  int // how many shares are asked for
}

// Timeline reads requests and events between the two samples of a spend once, cut
// wherever an edge is, a slice ends or the engine's state changes. edges, if any, rise
// from the one sample to the other. wakes are spans whose shares of the spend are asked
// for, in order and none within another.
func (r *Reader) Timeline(of Spend, edges []time.Time, wakes []Window) (t Timeline, err error) {
	w := Window{From: of.From.At, To: of.To.At}
	t.spend, t.wakes = of, len(wakes)
	var ends []time.Time
	if of.Count <= maxSlices {
		ends, err = r.SampleTimes(w.From, w.To)
	} else {
		t.Even = w.Fitting(time.Hour, maxSlices)
		ends, err = r.CutAtSamples(w, t.Even)
	}
	if err != nil {
		return t, err
	}
	states, err := r.EngineHistory(w.From, w.To)
	if err != nil {
		return t, err
	}
	cuts := append(slices.Clone(ends), edges...)
	for _, st := range states {
		cuts = append(cuts, st.At)
	}
	slices.SortFunc(cuts, time.Time.Compare)
	cuts = slices.CompactFunc(cuts, time.Time.Equal)
	busy, err := r.Busy(cuts)
	if err != nil {
		return t, err
	}

	for _, end := range ends[1:] {
		t.slices = append(t.slices, timeSlice{to: end})
	}
	t.BusyIn = make([]time.Duration, max(0, len(edges)-1))
	for i, d := range busy {
		from, to := cuts[i], cuts[i+1]
		t.Busy += d
		if len(edges) > 0 {
			// The span that ends at or after to.
			t.BusyIn[sort.Search(len(edges), func(n int) bool { return !edges[n].Before(to) })-1] += d
		}
		s := &t.slices[sort.Search(len(t.slices), func(n int) bool { return !t.slices[n].to.Before(to) })]
		state := states[sort.Search(len(states), func(n int) bool { return states[n].At.After(from) })-1]
		switch part, ok := state.State.part(); {
		case !ok:
			s.unknown = true
		case part == PartIdle:
			s.micros[PartServing] += d.Microseconds()
			s.micros[PartIdle] += (to.Sub(from) - d).Microseconds()
		default:
			s.micros[part] += to.Sub(from).Microseconds()
			if i := wakeAt(wakes, from); part == PartWaking && i >= 0 {
				s.addWake(i, to.Sub(from).Microseconds())
			}
		}
	}
	return t, nil
}

// wakeAt is the index of the wake that is under way from at on, -1 where none is.
func wakeAt(wakes []Window, at time.Time) int {
	i := sort.Search(len(wakes), func(n int) bool { return wakes[n].From.After(at) }) - 1
	if i < 0 || !wakes[i].To.After(at) {
		return -1
	}
	return i
}

// SpendSplit is a spend by what the engine did meanwhile.
type SpendSplit struct {
	Parts [NumSpendParts]Nanos // together they are the spend
	Wakes []Nanos              // of what is waking, by the index of the wake in the question
}

// Split divides the spend of each slice in proportion to the time of each part
// in it. What the slices' spends do not tell (a resource that came without its
// bill for a while) is divided by the whole window's time, so that the parts
// always add up to the spend. Both are nil where the engine's state is not known.
func (r *Reader) Split(t Timeline) (net, gross *SpendSplit, err error) {
	edges, merged, all := []time.Time{t.spend.From.At}, []timeSlice{}, timeSlice{}
	for _, s := range t.slices {
		if s.unknown {
			return nil, nil, nil
		}
		all.add(s)
		// Neighbours that are all in the same part are one: their spend is.
		if n := len(merged); n > 0 && s.pure() >= 0 && merged[n-1].pure() == s.pure() {
			merged[n-1].to, edges[n] = s.to, s.to
			merged[n-1].add(s)
			continue
		}
		s.wakes = maps.Clone(s.wakes)
		merged, edges = append(merged, s), append(edges, s.to)
	}
	sums, err := r.SpentOf(WindowsBetween(edges))
	if err != nil {
		return nil, nil, err
	}
	divide := func(figure func(Spend) Nanos) (*SpendSplit, error) {
		sum := SpendSplit{Wakes: make([]Nanos, t.wakes)}
		left := figure(t.spend)
		give := func(n Nanos, s timeSlice) error {
			for part, d := range n.Allot(s.micros[:]) {
				var err error
				if SpendPart(part) == PartWaking {
					if err = s.giveWakes(d, sum.Wakes); err != nil {
						return err
					}
				}
				if sum.Parts[part], err = sum.Parts[part].Add(d); err != nil {
					return fmt.Errorf("split of the spend: %w", err)
				}
				if left, err = left.Sub(d); err != nil {
					return fmt.Errorf("split of the spend: %w", err)
				}
			}
			return nil
		}
		for i, sp := range sums {
			if err := give(figure(sp), merged[i]); err != nil {
				return nil, err
			}
		}
		return &sum, give(left, all)
	}
	if net, err = divide(func(sp Spend) Nanos { return sp.Net }); err != nil {
		return nil, nil, err
	}
	gross, err = divide(func(sp Spend) Nanos { return sp.Gross })
	return net, gross, err
}

// giveWakes divides what the slice's waking cost among its wakes. What was no wake, a
// first start, keeps its part.
func (s timeSlice) giveWakes(n Nanos, wakes []Nanos) (err error) {
	indexes := slices.Sorted(maps.Keys(s.wakes))
	weights, rest := []int64{}, s.micros[PartWaking]
	for _, i := range indexes {
		weights = append(weights, s.wakes[i])
		rest -= s.wakes[i]
	}
	for k, d := range n.Allot(append(weights, rest)) {
		if k == len(indexes) {
			break
		}
		i := indexes[k]
		if wakes[i], err = wakes[i].Add(d); err != nil {
			return fmt.Errorf("share of a wake: %w", err)
		}
	}
	return nil
}

// ServingShares is the one rule of who owes what: of the spend while the engine served,
// each name has the share that its output tokens are of all output tokens. It is nil
// where the spend is not known or no such token was made.
func (s *SpendSplit) ServingShares(of map[string]Totals) map[string]Nanos {
	if s == nil {
		return nil
	}
	names := ByOutput(of)
	weights := make([]int64, len(names))
	for i, name := range names {
		weights[i] = of[name].Usage.CompletionTokens
	}
	out := map[string]Nanos{}
	for i, n := range s.Parts[PartServing].Allot(weights) {
		out[names[i]] = n
	}
	return out
}

// ByOutput are the names of sums, those with the most output first.
func ByOutput(sums map[string]Totals) []string {
	return slices.SortedFunc(maps.Keys(sums), func(x, y string) int {
		return cmp.Or(cmp.Compare(sums[y].Usage.CompletionTokens, sums[x].Usage.CompletionTokens),
			cmp.Compare(sums[y].Requests(), sums[x].Requests()), cmp.Compare(x, y))
	})
}
