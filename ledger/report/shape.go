package report

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"time"

	"spotinference/ledger"
)

// Split is the net spend by what the engine did meanwhile. Its fields add up to
// it, or are null where the ledger does not know the engine's state for all of
// the window.
type Split struct {
	Serving   *Decimal `json:"serving"`   // ready, with a request at least
	Idle      *Decimal `json:"idle"`      // ready, with none
	Waking    *Decimal `json:"waking"`    // starting, or coming back from its suspension
	Suspended *Decimal `json:"suspended"` // it has let go of the GPU
	Down      *Decimal `json:"down"`      // stopped, crashed, or no gateway to run it
}

// The fields of a Split, in order.
const (
	serving = iota
	idle
	waking
	suspended
	down
	parts
)

// partNames are what text calls them.
var partNames = [parts]string{"serving", "idle", "waking", "suspended", "down"}

// partMeanings say in a text what is not plain.
var partMeanings = [parts]string{
	"a request was in the engine",
	"ready, without a request",
	"starting, or coming back from suspension",
	"the GPU was let go",
	"stopped or crashed",
}

// partOf is the part of an engine's state without requests, -1 where unknown.
func partOf(state string) int {
	switch state {
	case "ready":
		return idle
	case "starting", "waking":
		return waking
	case "suspending", "suspended":
		return suspended
	case "stopped", "crashed", ledger.GatewayDown:
		return down
	}
	return -1
}

func (s *Split) fields() [parts]**Decimal {
	return [parts]**Decimal{&s.Serving, &s.Idle, &s.Waking, &s.Suspended, &s.Down}
}

// maxPieces bounds how finely the spend is split: by the sample interval in a day
// of samples a minute, coarser in a longer window.
const maxPieces = 1500

// piece is a span of the window within which spend is taken to be even.
type piece struct {
	to      time.Time
	micros  [parts]int64  // of each part
	wakes   map[int]int64 // of waking, by the index of the wake in the query
	unknown bool          // some of it is in no part
}

// add takes the times of another piece in.
func (p *piece) add(other piece) {
	for part, us := range other.micros {
		p.micros[part] += us
	}
	for i, us := range other.wakes {
		p.addWake(i, us)
	}
}

func (p *piece) addWake(i int, us int64) {
	if p.wakes == nil {
		p.wakes = map[int]int64{}
	}
	p.wakes[i] += us
}

// pure is the one part that the piece is all in, -1 where it is mixed.
func (p piece) pure() int {
	only := -1
	for part, us := range p.micros {
		if us > 0 && only >= 0 {
			return -1
		} else if us > 0 {
			only = part
		}
	}
	return only
}

// shape is how the window's time went: what the engine did, and when.
type shape struct {
	busy   time.Duration   // of the window
	bucket []time.Duration // busy, by bucket
	pieces []piece
	wakes  int // how many shares are asked for
	from   time.Time
	// even is the span within which spend is taken to be even, 0 for one between
	// two samples.
	even time.Duration
}

// shape reads requests and events of the snapped window once, cut wherever a
// bucket or a piece ends or the engine's state changes.
func (b basis) shape(r *ledger.Reader, buckets []time.Time) (s shape, err error) {
	w := b.window()
	s.from, s.wakes = w.From, len(b.query.wakes)
	var ends []time.Time
	if b.spend.Count <= maxPieces {
		ends, err = r.SampleTimes(w.From, w.To)
	} else {
		s.even = fitting(w.To.Sub(w.From), time.Hour, 0, maxPieces)
		ends, err = bucketEdges(r, w, s.even)
	}
	if err != nil {
		return s, err
	}
	states, err := r.EngineStates(w.From, w.To)
	if err != nil {
		return s, err
	}
	cuts := append(slices.Clone(ends), buckets...)
	for _, st := range states {
		cuts = append(cuts, st.At)
	}
	slices.SortFunc(cuts, time.Time.Compare)
	cuts = slices.CompactFunc(cuts, time.Time.Equal)
	busy, err := r.Busy(cuts)
	if err != nil {
		return s, err
	}

	for _, end := range ends[1:] {
		s.pieces = append(s.pieces, piece{to: end})
	}
	s.bucket = make([]time.Duration, max(0, len(buckets)-1))
	for i, d := range busy {
		from, to := cuts[i], cuts[i+1]
		s.busy += d
		if len(buckets) > 0 {
			// The bucket that ends at or after to.
			s.bucket[sort.Search(len(buckets), func(n int) bool { return !buckets[n].Before(to) })-1] += d
		}
		p := &s.pieces[sort.Search(len(s.pieces), func(n int) bool { return !s.pieces[n].to.Before(to) })]
		state := states[sort.Search(len(states), func(n int) bool { return states[n].At.After(from) })-1]
		switch part := partOf(state.State); part {
		case -1:
			p.unknown = true
		case idle:
			p.micros[serving] += d.Microseconds()
			p.micros[idle] += (to.Sub(from) - d).Microseconds()
		default:
			p.micros[part] += to.Sub(from).Microseconds()
			if i := wakeAt(b.query.wakes, from); part == waking && i >= 0 {
				p.addWake(i, to.Sub(from).Microseconds())
			}
		}
	}
	return s, nil
}

// wakeAt is the index of the wake that is under way from at on, -1 where none is.
func wakeAt(wakes []ledger.Window, at time.Time) int {
	i := sort.Search(len(wakes), func(n int) bool { return wakes[n].From.After(at) }) - 1
	if i < 0 || !wakes[i].To.After(at) {
		return -1
	}
	return i
}

// divided is a spend by what the engine did meanwhile.
type divided struct {
	part  [parts]ledger.Nanos
	wakes []ledger.Nanos // of what is waking, by the index of the wake in the query
}

// split divides the spend of each piece in proportion to the time of each part
// in it. What the pieces' spends do not tell (a resource that came without its
// bill for a while) is divided by the whole window's time, so that the parts
// always add up to the spend. Both are nil where the engine's state is not known.
func (s shape) split(r *ledger.Reader, of ledger.Spend) (net, gross *divided, err error) {
	edges, merged, all := []time.Time{s.from}, []piece{}, piece{}
	for _, p := range s.pieces {
		if p.unknown {
			return nil, nil, nil
		}
		all.add(p)
		// Neighbours that are all in the same part are one: their spend is.
		if n := len(merged); n > 0 && p.pure() >= 0 && merged[n-1].pure() == p.pure() {
			merged[n-1].to, edges[n] = p.to, p.to
			merged[n-1].add(p)
			continue
		}
		p.wakes = maps.Clone(p.wakes)
		merged, edges = append(merged, p), append(edges, p.to)
	}
	sums, err := spends(r, edges)
	if err != nil {
		return nil, nil, err
	}
	divide := func(figure func(ledger.Spend) ledger.Nanos) (*divided, error) {
		sum := divided{wakes: make([]ledger.Nanos, s.wakes)}
		left := figure(of)
		give := func(n ledger.Nanos, p piece) error {
			for part, d := range allot(n, p.micros[:]) {
				var err error
				if part == waking {
					if err = p.giveWakes(d, sum.wakes); err != nil {
						return err
					}
				}
				if sum.part[part], err = sum.part[part].Add(d); err != nil {
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
	if net, err = divide(func(sp ledger.Spend) ledger.Nanos { return sp.Net }); err != nil {
		return nil, nil, err
	}
	gross, err = divide(func(sp ledger.Spend) ledger.Nanos { return sp.Gross })
	return net, gross, err
}

// split is d as it is published.
func (d *divided) split() (out Split) {
	if d == nil {
		return out
	}
	for part, field := range out.fields() {
		*field = nanosDecimal(d.part[part])
	}
	return out
}

// giveWakes divides what the piece's waking cost among its wakes. What was no wake, a
// first start, keeps its part.
func (p piece) giveWakes(n ledger.Nanos, wakes []ledger.Nanos) (err error) {
	indexes := slices.Sorted(maps.Keys(p.wakes))
	weights, rest := []int64{}, p.micros[waking]
	for _, i := range indexes {
		weights = append(weights, p.wakes[i])
		rest -= p.wakes[i]
	}
	for k, d := range allot(n, append(weights, rest)) {
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

// utilisation is how much of a span the engine was busy.
func utilisation(busy, span time.Duration) *Decimal {
	return share(busy.Microseconds(), span.Microseconds())
}
