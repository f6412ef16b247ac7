package report_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"spotinference/ledger"
)

// day is some hours of a ledger: what happened, to be scanned in full.
type day struct {
	samples  []ledger.Sample // one resource, its bill always known
	requests []ledger.Request
	events   []ledger.EngineChange // it is starting before the first one
}

// busy is how long a request ran in (from, to].
func (d day) busy(from, to time.Time) (sum time.Duration) {
	end := from
	for _, q := range d.requests { // by start
		start := q.Started
		if start.Before(end) {
			start = end
		}
		stop := q.Finished
		if stop.After(to) {
			stop = to
		}
		if stop.After(start) {
			sum, end = sum+stop.Sub(start), stop
		}
	}
	return sum
}

// split divides what each interval between two samples cost by what the engine did in it.
func (d day) split(from, to time.Time) (sum [5]ledger.Nanos) {
	for i := 1; i < len(d.samples); i++ {
		a, b := d.samples[i-1], d.samples[i]
		if a.At.Before(from) || b.At.After(to) {
			continue
		}
		var part [5]int64
		state, since := ledger.Starting, a.At
		add := func(until time.Time) {
			if !until.After(since) {
				return
			}
			us := until.Sub(since).Microseconds()
			switch state {
			case ledger.Ready:
				busy := d.busy(since, until).Microseconds()
				part[0], part[1] = part[0]+busy, part[1]+us-busy
			case ledger.Starting, ledger.Waking:
				part[2] += us
			case ledger.Suspended:
				part[3] += us
			case ledger.Stopped:
				part[4] += us
			}
			since = until
		}
		for _, e := range d.events {
			if e.At.After(b.At) {
				break
			}
			add(e.At)
			state = e.To
		}
		add(b.At)
		for p, n := range (*b.Lines[0].Bill - *a.Lines[0].Bill).Allot(part[:]) {
			sum[p] += n
		}
	}
	return sum
}

// A cost report's figures, from rollups, are those of a scan of every row.
func TestCostEqualsAFullScan(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		b, d, r := open(t), day{}, rand.New(rand.NewPCG(seed, 11))
		b.event(-1, ledger.GatewayStarted{})
		b.engine(-0.5, "stopped→starting")
		bill := ledger.Nanos(5e9)
		for m := 0; m < 400; m++ {
			if r.IntN(40) == 0 {
				m += r.IntN(30) // a gap
			}
			bill += ledger.Nanos(r.Int64N(5e7))
			s := sample(float64(m)+float64(r.IntN(900))/60e3, bill)
			s.At = s.At.Truncate(time.Microsecond)
			d.samples = append(d.samples, s)
		}
		b.bill(d.samples...)
		for i := range 100 {
			from := float64(r.IntN(400*60_000)) / 60_000
			long := r.ExpFloat64() * 2
			if r.IntN(20) == 0 {
				long *= 60
			}
			q := ledger.Request{ID: fmt.Sprint("q", i), Endpoint: "chat", Status: ledger.OK, HTTP: 200,
				Started: at(from).Truncate(time.Microsecond), Finished: at(from + long).Truncate(time.Microsecond), Usage: ledger.Usage{CompletionTokens: r.Int64N(1e5)}}
			d.requests = append(d.requests, q)
		}
		for _, i := range r.Perm(len(d.requests)) {
			if err := b.AddRequest(d.requests[i]); err != nil {
				t.Fatal(err)
			}
		}
		slices.SortFunc(d.requests, func(x, y ledger.Request) int {
			return cmp.Or(x.Started.Compare(y.Started), x.Finished.Compare(y.Finished))
		})
		minute, state := 0.5, ledger.Starting
		for minute < 400 {
			next := []ledger.EngineState{ledger.Ready, ledger.Ready, ledger.Suspended, ledger.Waking, ledger.Stopped}[r.IntN(5)]
			e := ledger.EngineChange{At: at(minute).Truncate(time.Microsecond), From: state, To: next}
			if err := b.AddEvent(e.At, e); err != nil {
				t.Fatal(err)
			}
			d.events = append(d.events, e)
			minute, state = minute+0.01+r.Float64()*20, next
		}
		q := until(float64(r.IntN(60)), float64(350+r.IntN(50)))
		c := b.cost(q)
		from, to := *c.Window.From, *c.Window.To
		var want []string
		for _, n := range d.split(from, to) {
			want = append(want, n.String())
		}
		got := []string{string(*c.Split.Serving), string(*c.Split.Idle), string(*c.Split.Waking), string(*c.Split.Suspended), string(*c.Split.Down)}
		if !slices.Equal(got, want) {
			t.Errorf("seed %d: split %v, want %v", seed, got, want)
		}
		figures := func(from, to time.Time) string {
			var tokens int64
			var first, last ledger.Nanos
			for _, q := range d.requests {
				if q.Finished.After(from) && !q.Finished.After(to) {
					tokens += q.Usage.CompletionTokens
				}
			}
			for _, s := range d.samples {
				if !s.At.After(from) {
					first = *s.Lines[0].Bill
				}
				if !s.At.After(to) {
					last = *s.Lines[0].Bill
				}
			}
			return fmt.Sprintf("net %s, %d tokens, busy %.4f", last-first, tokens, float64(d.busy(from, to))/float64(to.Sub(from)))
		}
		if got, want := fmt.Sprintf("net %s, %d tokens, busy %s", *c.Spend.Net, c.CompletionTokens, *c.Utilisation), figures(from, to); got != want {
			t.Errorf("seed %d: %s, want %s", seed, got, want)
		}
		for _, k := range c.Buckets {
			if got, want := fmt.Sprintf("net %s, %d tokens, busy %s", *k.Net, k.CompletionTokens, *k.Utilisation), figures(k.From, k.To); got != want {
				t.Errorf("seed %d, bucket from %v: %s, want %s", seed, k.From, got, want)
			}
		}
	}
}
