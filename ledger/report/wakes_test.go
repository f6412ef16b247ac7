package report_test

import (
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/ledger/report"
)

// change notes a change of the engine's state with all that is known of it.
func (b *book) change(minutes float64, from, to ledger.EngineState, c ledger.EngineChange) {
	b.t.Helper()
	c.At, c.From, c.To = at(minutes), from, to
	if err := b.AddEvent(c.At, c); err != nil {
		b.t.Fatal(err)
	}
}

func phases(pairs ...any) map[string]ledger.Seconds {
	m := map[string]ledger.Seconds{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = ledger.Seconds(pairs[i+1].(time.Duration))
	}
	return m
}

// suspended suspends the engine within half a minute.
func (b *book) suspended(minutes float64, method string) {
	b.t.Helper()
	b.change(minutes, "ready", "suspending", ledger.EngineChange{Cause: "idle", Method: method})
	b.change(minutes+0.5, "suspending", "suspended", ledger.EngineChange{Cause: "done", Method: method, Phases: phases(method, 30*time.Second)})
}

const ms = time.Millisecond

// nights is a story with each way in which a wake may end. The bill grows by four
// cents a minute.
func nights(t *testing.T) *book {
	b := open(t)
	b.event(-11, ledger.GatewayStarted{})
	b.bills(-10, 101)
	b.engine(-8, "stopped→starting")
	b.engine(-2, "starting→ready")

	b.suspended(10, "stop") // and comes back in order
	b.change(20, "suspended", "starting", ledger.EngineChange{Cause: "request", Phases: phases("queue", 12*ms)})
	b.change(20.5, "starting", "ready", ledger.EngineChange{Cause: "healthy", Method: "stop", Waiters: 2, Left: 1, Late: 1,
		Phases: phases("spawn", 100*ms, "load", 29800*ms, "canary", 100*ms), Canary: &ledger.CanaryTokens{Prompt: 2, Completion: 1}})
	b.ran(20.5, 22, 100, func(r *ledger.Request) { r.First = at(20.5).Add(250 * ms) })
	b.ran(20.6, 21, 100, func(r *ledger.Request) { r.First = at(20.8) })

	b.suspended(30, "sleep") // and is started afresh
	b.change(40, "suspended", "waking", ledger.EngineChange{Cause: "request", Method: "sleep", Phases: phases("queue", 5*ms)})
	b.change(40.25, "waking", "starting", ledger.EngineChange{Cause: "wake failed: canary: the answer is not JSON", Phases: phases("queue", 15*time.Second)})
	b.change(40.75, "starting", "ready", ledger.EngineChange{Cause: "healthy", Method: "stop", Waiters: 1, Phases: phases("spawn", 100*ms, "load", 29900*ms)})

	b.suspended(50, "sleep") // and reads its weights again
	b.change(55, "suspended", "waking", ledger.EngineChange{Cause: "asked", Method: "sleep"})
	b.change(55.5, "waking", "ready", ledger.EngineChange{Cause: "healthy", Method: "sleep", Waiters: 1,
		Phases: phases("wake_up", 4*time.Second, "reload", 25*time.Second, "kv_cache", 500*ms, "canary", 500*ms)})

	b.suspended(58, "stop") // and crashes
	b.change(60, "suspended", "starting", ledger.EngineChange{Cause: "request", Phases: phases("queue", 0*ms)})
	b.change(61, "starting", "crashed", ledger.EngineChange{Cause: "exit status 1", Waiters: 3})
	b.change(62, "crashed", "starting", ledger.EngineChange{Cause: "restart"})
	b.change(63, "starting", "ready", ledger.EngineChange{Cause: "healthy"})

	b.suspended(70, "stop") // and serve is stopped
	b.change(80, "suspended", "starting", ledger.EngineChange{Cause: "request", Phases: phases("queue", 1*ms)})
	b.change(80.5, "starting", "stopped", ledger.EngineChange{Cause: "shutdown", Waiters: 1})
	b.event(80.6, ledger.GatewayStopped{})
	b.event(90, ledger.GatewayStarted{})
	b.engine(90.5, "stopped→starting")
	b.engine(91, "starting→ready")

	b.suspended(95, "stop") // and serve dies
	b.change(100, "suspended", "starting", ledger.EngineChange{Cause: "request", Phases: phases("queue", 1*ms)})
	b.event(110, ledger.GatewayStarted{})
	b.engine(110, "stopped→starting")
	b.engine(111, "starting→ready")
	b.bills(110, 140)

	b.suspended(120, "stop") // and is still on its way
	b.change(130, "suspended", "starting", ledger.EngineChange{Cause: "request", Phases: phases("queue", 1*ms)})
	return b
}

func (b *book) wakes(q report.CostQuery) report.WakesReport {
	b.t.Helper()
	w, err := report.Wakes(b.Reader, report.WakesQuery{Window: q.Window, Explicit: q.Explicit, Now: q.Now, MaxSampleAge: q.MaxSampleAge})
	if err != nil {
		b.t.Fatal(err)
	}
	return w
}

func TestWakes(t *testing.T) {
	t.Parallel()
	b := nights(t)
	w := b.wakes(until(0, 140))
	same(t, "csv", written(t, w, report.CSV), `began,ended,cause,method,result,error,queue_seconds,restore_seconds,spawn_seconds,load_seconds,canary_seconds,ready_seconds,first_token_seconds,waiters,left,late,currency,spend,reason,flags,demo
2026-10-17T08:20:00Z,2026-10-17T08:20:30Z,request,stop,ready,,0.012,,0.1,29.8,0.1,30,0.25,2,1,1,USD,0.02,,gaps,false
2026-10-17T08:40:00Z,2026-10-17T08:40:45Z,request,stop,ready,wake failed: canary: the answer is not JSON,0.005,,0.1,29.9,,45,,1,0,0,USD,0.03,,gaps,false
2026-10-17T08:55:00Z,2026-10-17T08:55:30Z,asked,sleep,ready,,,4.5,,25,0.5,30,,1,0,0,USD,0.02,,gaps,false
2026-10-17T09:00:00Z,2026-10-17T09:01:00Z,request,stop,failed,exit status 1,0,,,,,,,3,0,0,USD,0.04,,gaps,false
2026-10-17T09:20:00Z,2026-10-17T09:20:30Z,request,stop,stopped,,0.001,,,,,,,1,0,0,USD,0.02,,gaps,false
2026-10-17T09:40:00Z,,request,stop,lost,,0.001,,,,,,,0,0,0,USD,,,gaps,false
2026-10-17T10:10:00Z,,request,stop,waking,,0.001,,,,,,,0,0,0,USD,,,gaps,false
`)
	same(t, "text", written(t, w, report.Text), `Wakes from 2026-10-17 08:00:00 to 10:20:00 UTC (2h 20m)

began (UTC)           cause     by        queue   restore     spawn       load    canary      ready   first token   waiters   gone    spend
2026-10-17 08:20:00   request   stop    0.012 s         -   0.100 s   29.800 s   0.100 s   30.000 s       0.250 s         2      2   $ 0.02
2026-10-17 08:40:00   request   stop    0.005 s         -   0.100 s   29.900 s         -   45.000 s             -         1      0   $ 0.03
2026-10-17 08:55:00   asked     sleep         -   4.500 s         -   25.000 s   0.500 s   30.000 s             -         1      0   $ 0.02
2026-10-17 09:00:00   request   stop    0.000 s         -         -          -         -          -             -         3      0   $ 0.04   failed
2026-10-17 09:20:00   request   stop    0.001 s         -         -          -         -          -             -         1      0   $ 0.02   stopped
2026-10-17 09:40:00   request   stop    0.001 s         -         -          -         -          -             -         0      0        -   lost
2026-10-17 10:10:00   request   stop    0.001 s         -         -          -         -          -             -         0      0        -   waking

by      suspends     median   wakes     median
sleep          2   30.000 s       1   30.000 s
stop           5   30.000 s       1   30.000 s

2026-10-17 08:40:00 UTC: wake failed: canary: the answer is not JSON; started
  afresh
2026-10-17 09:00:00 UTC: exit status 1
Waking, first starts and restarts included, took $ 0.67 of the $ 5.60 that the
  window cost: see report cost.
note: where no spend is shown, the samples of the bill do not reach around the
  wake yet, or the engine's state was not known all the time.
note: some waiters were told that the engine did not wake in time; they are
  among those gone.
note: samples are missing, which leaves the sum right and hides when it was
  spent: 2026-10-17 09:41:00 to 09:50:00 UTC (9m).
Counted: GPU compute and this box's volumes. Not counted: egress and other
  machines, the gateway's own among them.
note: suspending the engine does not lower the bill of a machine that is billed
  by the minute it exists.
`)
}

// TestWakesShareTheBill: whatever the window, the wakes within it and what else was
// starting cost together what the cost report calls waking.
func TestWakesShareTheBill(t *testing.T) {
	t.Parallel()
	b := nights(t)
	for _, c := range []struct {
		from, to float64
		starts   string // what was started without a wake, in cents a minute
	}{
		{0, 57, "0"},
		{0, 79, "0.04"}, // the restart
	} {
		q := until(c.from, c.to)
		w, cost := b.wakes(q), b.cost(q)
		sum, err := ledger.ParseNanos(c.starts)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range w.Wakes {
			n, err := ledger.ParseNanos(string(*k.Spend))
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
		if got := string(*cost.Split.Waking); got != sum.String() || *w.Waking != *cost.Split.Waking {
			t.Errorf("to %v: the wakes cost %s, waking %s", c.to, sum, got)
		}
	}
}

// TestWakesInTheDark: what is known of the wakes is shown, and the report is refused.
func TestWakesInTheDark(t *testing.T) {
	t.Parallel()
	b := nights(t)
	w := b.wakes(explicitly(0, 160, 160))
	if !w.Refused() || w.Reason != report.ReasonDark || len(w.Wakes) != 7 || w.Wakes[0].Spend != nil || w.Waking != nil {
		t.Errorf("report = %+v", w)
	}
	text := strings.Join(strings.Fields(written(t, w, report.Text)), " ") // however it is broken
	if !strings.Contains(text, "What these wakes cost is not known: ") || !strings.Contains(text, report.SuspendedBill) {
		t.Errorf("text = %s", text)
	}
	quiet := b.wakes(explicitly(150, 160, 160))
	if quiet.Refused() || len(quiet.Wakes) != 0 {
		t.Errorf("a window without a wake: %+v", quiet)
	}
	if text := written(t, quiet, report.Text); !strings.Contains(text, "No wake began in this window.") {
		t.Errorf("text = %s", text)
	}
}

// How old a bill may be is asked of every report that shows what it came to.
func TestSampleAgeIsAsked(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.bills(0, 10)
	b.served(5, 1000)
	for _, c := range []struct {
		age  time.Duration
		want string
	}{{3 * time.Minute, report.ReasonDark}, {15 * time.Minute, ""}} {
		q := explicitly(0, 20, 30)
		q.MaxSampleAge = c.age
		cost := b.cost(q).Reason
		g, err := report.GPU(b.Reader, report.GPUQuery{Window: q.Window, Explicit: true, Now: q.Now, MaxSampleAge: c.age})
		if err != nil {
			t.Fatal(err)
		}
		if w := b.wakes(q); cost != c.want || g.CostReason != c.want || w.Reason != c.want {
			t.Errorf("%s: cost %q, gpu %q, wakes %q, want %q", c.age, cost, g.CostReason, w.Reason, c.want)
		}
	}
}
