package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"spotinference/billing/sim"
)

// The kinds of faults. Those of the provider are the simulator's own words.
const (
	killGateway = "kill gateway"
	killEngine  = "kill engine"
	killGuard   = "kill guard"
	killHelper  = "kill helper"
	stopGateway = "stop gateway"
	stopEngine  = "stop engine"
	stopGuard   = "stop guard"
	stopHelper  = "stop helper"
	restart     = "restart" // by SIGTERM
	diskFull    = "disk full"
	provider    = "provider " // and how
	midnight    = "midnight"  // a new day
	rollover    = "rollover"  // a day more than a month later: bills begin a new epoch
	clockBack   = "clock back"
	clockAhead  = "clock ahead"
	flood       = "flood"
	revoke      = "revoke key" // a key that worked
)

// fault is one thing that goes wrong in a round.
type fault struct {
	Kind string
	At   time.Duration // after the round's start
	For  time.Duration // 0 for what happens in a moment
	N    int64         // seconds of a clock, nano-USD of a refund
}

func (f fault) String() string {
	text := fmt.Sprintf("%s at %s", f.Kind, f.At)
	if f.For > 0 {
		text += fmt.Sprintf(" for %s", f.For)
	}
	if f.N != 0 {
		text += fmt.Sprintf(" (%d)", f.N)
	}
	return text
}

// plan is a round.
type plan struct {
	N      int
	For    time.Duration
	Faults []fault // by At
}

func (p plan) String() string {
	words := make([]string, len(p.Faults))
	for i, f := range p.Faults {
		words[i] = f.String()
	}
	return strings.Join(words, ", ")
}

// A round is so long that a gate has to close in it, and longer where that is because
// a bill stands still, which takes the lag more to see.
const (
	roundTime  = 8 * time.Second
	frozenTime = roundTime + billLag
)

// How a provider misbehaves for a while. A refund is over at once.
var lies = []string{sim.Dark, sim.Dark, sim.Slow, sim.ServerError, sim.TooMany, sim.Unauthorized, sim.HTML, sim.Truncated, sim.Cut,
	sim.NaN, sim.Negative, sim.Euro, sim.Empty, sim.StatusFalse, sim.Huge, sim.Skew, sim.Frozen, sim.Frozen, sim.Refund, sim.Refund}

// planner makes the rounds, each from the seed and those before it.
type planner struct {
	random *rand.Rand
	n      int
	day    int // the next round in which a new day begins
	deaths int // of the engine since the gateway was killed
}

func newPlanner(seed uint64) *planner {
	return &planner{random: rand.New(rand.NewPCG(seed, 0)), day: 3}
}

func (p *planner) next() plan {
	p.n++
	round := plan{N: p.n, For: roundTime}
	if p.n == p.day {
		p.day += 3 + p.random.IntN(3)
		kind := midnight
		if p.random.IntN(3) == 0 {
			kind = rollover
		}
		round.Faults = append(round.Faults, fault{Kind: kind, At: p.between(100*time.Millisecond, 3*time.Second)})
	}
	for range [...]int{0, 1, 1, 2, 2, 2, 2, 3, 3, 4}[p.random.IntN(10)] {
		f := p.fault()
		// One at a time of each sort: a provider is dark or lies, not both.
		if !slices.ContainsFunc(round.Faults, func(g fault) bool { return sort(f.Kind) == sort(g.Kind) }) {
			round.Faults = append(round.Faults, f)
			p.count(f)
			round.For = max(round.For, f.At+f.For)
		}
	}
	slices.SortStableFunc(round.Faults, func(f, g fault) int { return int(f.At - g.At) })
	return round
}

// count keeps the engine from more crashes in a row than its supervisor restarts
// soon: after five it waits for ten minutes, as it should.
func (p *planner) count(f fault) {
	switch f.Kind {
	case killEngine, killGuard:
		p.deaths++
	case killGateway, restart:
		p.deaths = 0
	}
}

func sort(kind string) string {
	for _, prefix := range []string{provider, "clock", "kill engine", "kill guard"} {
		if strings.HasPrefix(kind, prefix) {
			return strings.TrimSuffix(strings.TrimSuffix(prefix, "engine"), "guard")
		}
	}
	return kind
}

// calm rounds leave the gateway alone, so that it has a life in which to leak.
func (p *planner) calm() bool { return p.n/8%2 == 1 }

func (p *planner) fault() fault {
	f := fault{At: p.between(200*time.Millisecond, 3*time.Second)}
	kinds := []string{stopEngine, stopGuard, stopHelper, killHelper, diskFull, diskFull, provider, provider, provider, provider, provider,
		clockBack, clockAhead, flood, flood, stopGateway, revoke, revoke}
	if !p.calm() {
		kinds = append(kinds, killGateway, killGateway, killGateway, killGateway, restart)
	}
	if p.deaths < 3 {
		kinds = append(kinds, killEngine, killEngine, killGuard)
	}
	f.Kind = kinds[p.random.IntN(len(kinds))]
	rest := roundTime - f.At
	switch f.Kind {
	case stopGateway, stopEngine, stopGuard, stopHelper:
		f.For = p.between(500*time.Millisecond, min(rest, 4*time.Second))
	case diskFull, flood:
		f.For = p.between(time.Second, rest)
	case clockBack, clockAhead:
		// A minute is what the provider's clock may differ by: less is believed.
		f.For, f.N = p.between(time.Second, rest), 6+p.random.Int64N(10)
		if p.random.IntN(2) == 0 {
			f.N = 70 + p.random.Int64N(7200)
		}
		if f.Kind == clockBack {
			f.N = -f.N
		}
	case provider:
		how := lies[p.random.IntN(len(lies))]
		f.Kind += how
		if how == sim.Refund {
			f.N = (1 + p.random.Int64N(5)) * dollar
			break
		}
		// Mostly for long enough that the gate has to close.
		f.At = (f.At / 3).Truncate(time.Millisecond)
		if rest = roundTime - f.At; how == sim.Frozen {
			rest = frozenTime - f.At
		}
		f.For = min(p.between(rest/2, 2*rest), rest)
	}
	return f
}

func (p *planner) between(from, to time.Duration) time.Duration {
	return (from + time.Duration(p.random.Int64N(int64(max(to-from, 1))))).Truncate(time.Millisecond)
}
