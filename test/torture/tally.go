package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"spotinference/billing/sim"
	"spotinference/ledger"
)

// tally is what a run came to.
type tally struct {
	rounds, pairs  int
	done, missed   map[string]int // faults by kind
	inRound        int            // faults done in this round
	requests       map[string]int // by what came of them
	bad            int            // of the floods
	acknowledged   int            // tokens
	unacknowledged int            // in rows of answers that no client has whole
	compared       int            // reports that agreed with the books
	noFigure       int
	lastRecovery   time.Duration
	recovery       time.Duration // the longest
	bytes          int
	days           map[time.Time]int64 // the bill at the last admission of each day
}

func newTally() *tally {
	return &tally{done: map[string]int{}, missed: map[string]int{}, requests: map[string]int{}, days: map[time.Time]int64{}}
}

func (t *tally) fault(kind string, done bool) {
	if done {
		t.done[kind]++
		t.inRound++
	} else {
		t.missed[kind]++
	}
}

func (t *tally) round(all []*attempt) {
	t.rounds++
	if t.inRound > 1 {
		t.pairs++
	}
	t.inRound = 0
	for _, a := range all {
		switch {
		case a.Whole:
			t.requests["whole"]++
		case a.Status == 200:
			t.requests["cut"]++
		case a.Status == 0:
			t.requests["no answer"]++
		default:
			t.requests["refused "+strconv.Itoa(a.Status)]++
		}
	}
}

func (t *tally) recovered(after time.Duration) {
	t.lastRecovery = after
	t.recovery = max(t.recovery, after)
}

func (t *tally) answer(a *attempt, w row, ok bool) {
	switch {
	case a.Whole:
		t.acknowledged += a.Received
	case ok:
		t.unacknowledged += w.Completion
	}
}

func (t *tally) unnamed(w row) { t.unacknowledged += w.Completion }

// admitted notes the bill of the day when a request was let in.
func (t *tally) admitted(at, from time.Time, books func(from, to time.Time) sim.Books) {
	b := books(from, at)
	day := at.Truncate(24 * time.Hour)
	t.days[day] = max(t.days[day], b.Nanos+b.Refunds)
}

func (t *tally) print(w io.Writer, seed uint64) {
	fmt.Fprintf(w, "\nseed %d: %d rounds, %d of them with two faults or more at a time\n\n", seed, t.rounds, t.pairs)
	fmt.Fprintln(w, "| fault | times | nothing to hit |\n|---|---|---|")
	kinds := maps.Clone(t.done)
	for kind := range t.missed {
		kinds[kind] += 0
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Fprintf(w, "| %s | %d | %d |\n", kind, t.done[kind], t.missed[kind])
	}
	fmt.Fprintln(w, "\n| requests | |\n|---|---|")
	for _, kind := range slices.Sorted(maps.Keys(t.requests)) {
		fmt.Fprintf(w, "| %s | %d |\n", kind, t.requests[kind])
	}
	var most int64
	spent := 0
	for _, bill := range t.days {
		most = max(most, bill)
		if bill >= budgetPerDay-headroom-2*dollar {
			spent++
		}
	}
	fmt.Fprintf(w, `| bad ones | %d |

| | |
|---|---|
| tokens acknowledged | %d |
| of them missing, counted twice or wrong | 0 |
| tokens of answers that were cut, as lower bounds | %d |
| reports that agree with the provider's books | %d |
| reports without a figure | %d |
| days, and of them with the budget reached | %d, %d |
| highest bill of a day when a request was let in, of a budget of %s less %s | %s |
| longest time until all was well again | %s |
| most memory of the gateway at rest | %.0f MB |
`, t.bad, t.acknowledged, t.unacknowledged, t.compared, t.noFigure, len(t.days), spent, ledger.Nanos(budgetPerDay), ledger.Nanos(headroom), ledger.Nanos(most),
		t.recovery.Round(100*time.Millisecond), float64(t.bytes)/1e6)
}
