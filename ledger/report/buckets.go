package report

import (
	"slices"
	"time"

	"spotinference/ledger"
)

// What a report asks of the ledger once a span, in one place: a ledger that can
// answer for all spans at once is asked here.

// spends are the spends between neighbouring edges. Each edge is the instant of
// a sample, so that the spans share their samples and leave nothing out.
func spends(r *ledger.Reader, edges []time.Time) ([]ledger.Spend, error) {
	return r.SpentOf(between(edges))
}

// totals are the sums of the requests between neighbouring edges.
func totals(r *ledger.Reader, edges []time.Time) ([]ledger.Totals, error) {
	return r.TotalsOf(between(edges))
}

func between(edges []time.Time) (windows []ledger.Window) {
	for i := range len(edges) - 1 {
		windows = append(windows, ledger.Window{From: edges[i], To: edges[i+1]})
	}
	return windows
}

// snap moves instants to the last sample at or before each. Those without one,
// and those that meet, are left out.
func snap(r *ledger.Reader, instants []time.Time) ([]time.Time, error) {
	at, err := r.SamplesBefore(instants)
	return slices.CompactFunc(at, time.Time.Equal), err
}
