package report

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"spotinference/ledger"
)

// How a wake ended.
const (
	WakeReady   = "ready"   // the engine answers, and who waited was let in
	WakeFailed  = "failed"  // it crashed or gave up, and who waited was sent away
	WakeStopped = "stopped" // serve was told to stop meanwhile
	WakeLost    = "lost"    // serve died meanwhile
	WakeGoesOn  = "waking"  // it is under way
)

// WakesQuery asks how the engine was woken in a window. Its fields are those of a
// CostQuery: the bill of the same window is divided.
type WakesQuery struct {
	Window       ledger.Window
	Explicit     bool
	Now          time.Time
	MaxSampleAge time.Duration
	Demo         bool
}

// WakesReport is how the engine was woken, and what that cost. What is not known is
// null, never zero.
type WakesReport struct {
	Window CostWindow `json:"window"` // from and to are those of the bill
	Wakes  []Wake     `json:"wakes"`  // that began in the asked window, in order
	// Methods sums up, by the way in which the engine was suspended.
	Methods  []WakeMethod `json:"methods"`
	Currency string       `json:"currency"`
	// Waking is all that a cost report's split calls waking: first starts and restarts
	// after a crash, too.
	Waking *Decimal `json:"waking"`
	Net    *Decimal `json:"net"` // of the window of the bill
	Reason string   `json:"reason"`
	Flags  []string `json:"flags"` // of the cost report
	Demo   bool     `json:"demo"`
	Chain  Chain    `json:"chain"`

	cost CostReport
}

// Wake is one way back from suspension, failed attempts in it included. Its spans are
// seconds, and of the attempt that counted.
type Wake struct {
	Began  time.Time  `json:"began"`
	Ended  *time.Time `json:"ended"` // null where it goes on, or nobody saw its end
	Cause  string     `json:"cause"` // "request", or "asked": by a command
	Method string     `json:"method"`
	Result string     `json:"result"`
	// Error is why it failed, or why it was begun anew.
	Error string `json:"error"`

	Queue   *Decimal `json:"queue_seconds"`   // the first waiter waited so long until it began
	Restore *Decimal `json:"restore_seconds"` // the engine's or the driver's way back
	Spawn   *Decimal `json:"spawn_seconds"`   // of a process, where there was none
	Load    *Decimal `json:"load_seconds"`    // of the model
	Canary  *Decimal `json:"canary_seconds"`  // one token that proves it
	Ready   *Decimal `json:"ready_seconds"`   // from its beginning until it was ready
	// FirstToken is how long after that the first byte of an answer came.
	FirstToken *Decimal `json:"first_token_seconds"`

	Waiters int64 `json:"waiters"` // were let in, or sent away where it failed
	Left    int64 `json:"left"`    // left before
	Late    int64 `json:"late"`    // were told before that it took too long
	// Spend is its share of the bill. Null where the bill does not reach around it.
	Spend *Decimal `json:"spend"`
}

// WakeMethod is how one way of suspending went: medians of the suspensions and wakes
// of the window that succeeded at once.
type WakeMethod struct {
	Method   string   `json:"method"`
	Suspends int64    `json:"suspends"`
	Suspend  *Decimal `json:"suspend_median_seconds"`
	Wakes    int64    `json:"wakes"`
	Wake     *Decimal `json:"wake_median_seconds"`
}

// Refused tells whether there were wakes whose cost is not known.
func (w WakesReport) Refused() bool { return len(w.Wakes) > 0 && w.cost.Refused() }

// Wakes finds the wakes that began in a window, and divides the bill among them with
// all else that the engine did.
func Wakes(r *ledger.Reader, q WakesQuery) (WakesReport, error) {
	w, err := wakesReport(r, q)
	if err == nil {
		w.Chain, err = chainOf(r)
	}
	if err != nil {
		return WakesReport{}, fmt.Errorf("report wakes: %w", err)
	}
	return w, nil
}

func wakesReport(r *ledger.Reader, q WakesQuery) (w WakesReport, err error) {
	if q.Window, err = checkWindow(q.Window); err != nil {
		return w, err
	}
	seen, err := findWakes(r, q.Window, q.Now)
	if err != nil {
		return w, err
	}
	w = WakesReport{Wakes: []Wake{}, Methods: seen.sums(), Demo: q.Demo}
	var spans []ledger.Window
	for i := range seen.wakes {
		k := &seen.wakes[i]
		if err := k.firstToken(r); err != nil {
			return w, err
		}
		w.Wakes = append(w.Wakes, k.Wake)
		spans = append(spans, ledger.Window{From: k.Began, To: k.over})
	}
	w.cost, err = cost(r, CostQuery{
		Window: q.Window, Explicit: q.Explicit, Now: q.Now, MaxSampleAge: q.MaxSampleAge, Bucket: NoBucket, Demo: q.Demo, wakes: spans,
	})
	if err != nil {
		return w, err
	}
	w.Window, w.Currency, w.Flags = w.cost.Window, w.cost.Currency, w.cost.Flags
	w.Waking, w.Net = w.cost.Split.Waking, w.cost.Spend.Net
	if w.cost.Refused() {
		w.Reason = w.cost.Reason
	}
	for i, n := range w.cost.source.wakes {
		if k := &w.Wakes[i]; !k.Began.Before(*w.Window.From) && k.Ended != nil && !k.Ended.After(*w.Window.To) {
			k.Spend = nanosDecimal(n)
		}
	}
	return w, nil
}

// wakeHistory is what the events of a window tell of suspensions and wakes.
type wakeHistory struct {
	wakes    []wakeRecord
	suspends map[string][]time.Duration // by method
}

// wakeRecord is a wake and what is needed to find out more about it.
type wakeRecord struct {
	Wake
	over     time.Time // when it was certainly over; now while it goes on
	readyFor time.Time // when the engine was no longer ready after it; zero while it is
}

// longAnswer bounds how long after a wake the first answer that it was for may have
// ended: whoever was served later proves nothing about the wake.
const longAnswer = time.Hour

func (k *wakeRecord) firstToken(r *ledger.Reader) error {
	if k.Result != WakeReady {
		return nil
	}
	to := k.Ended.Add(longAnswer)
	if !k.readyFor.IsZero() && k.readyFor.Before(to) {
		to = k.readyFor
	}
	at, ok, err := r.FirstAnswer(*k.Ended, to)
	if ok {
		k.FirstToken = inSeconds(at.Sub(*k.Ended))
	}
	return err
}

// findWakes reads the events of a window, and those up to now that end what began in it.
func findWakes(r *ledger.Reader, w ledger.Window, now time.Time) (s wakeHistory, err error) {
	until := w.To
	if now.After(until) {
		until = now
	}
	changes, err := r.EngineChanges(w.From, until)
	if err != nil {
		return s, err
	}
	starts, err := r.GatewayStarts(w.From, until)
	if err != nil {
		return s, err
	}
	s.suspends = map[string][]time.Duration{}
	var current *wakeRecord // the last of s.wakes, while it goes on
	endWake := func(at time.Time, result string) {
		current.Ended, current.over, current.Result = &at, at, result
		current = nil
	}
	for _, c := range changes {
		for ; len(starts) > 0 && starts[0].Before(c.At); starts = starts[1:] {
			if current != nil {
				current.over, current.Result, current = starts[0], WakeLost, nil
			}
		}
		switch {
		case c.From == ledger.Suspended && (c.To == ledger.Waking || c.To == ledger.Starting):
			if c.At.After(w.To) {
				return s, nil
			}
			s.wakes = append(s.wakes, wakeRecord{over: until, Wake: Wake{Began: c.At, Cause: c.Cause, Result: WakeGoesOn, Queue: phase(c, "queue")}})
			current = &s.wakes[len(s.wakes)-1]
			if current.Method = c.Method; c.To == ledger.Starting {
				current.Method = "stop"
			}
		case current != nil && c.To == ledger.Starting: // the attempt failed, and the next one begins
			current.Error, current.Method = c.Cause, "stop"
		case current != nil && c.To == ledger.Ready:
			current.ready(c)
			endWake(c.At, WakeReady)
		case current != nil && c.To == ledger.Crashed:
			current.Waiters, current.Left, current.Late, current.Error = c.Waiters, c.Left, c.Late, c.Cause
			endWake(c.At, WakeFailed)
		case current != nil && c.To == ledger.Stopped:
			current.Waiters, current.Left, current.Late = c.Waiters, c.Left, c.Late
			result := WakeFailed
			if current.Error = c.Cause; c.Cause == "shutdown" {
				current.Error, result = "", WakeStopped
			}
			endWake(c.At, result)
		case c.From == ledger.Ready && len(s.wakes) > 0 && s.wakes[len(s.wakes)-1].readyFor.IsZero():
			s.wakes[len(s.wakes)-1].readyFor = c.At
		}
		if c.From == ledger.Suspending && c.To == ledger.Suspended && c.Cause == "done" && !c.At.After(w.To) {
			s.suspends[c.Method] = append(s.suspends[c.Method], total(c))
		}
	}
	if current != nil && len(starts) > 0 {
		current.over, current.Result = starts[0], WakeLost
	}
	return s, nil
}

// ready takes the anatomy from the change that ended the wake.
func (k *Wake) ready(c ledger.EngineChange) {
	k.Waiters, k.Left, k.Late = c.Waiters, c.Left, c.Late
	k.Spawn, k.Canary, k.Ready = phase(c, "spawn"), phase(c, "canary"), inSeconds(c.At.Sub(k.Began))
	var load, restore time.Duration
	for name, took := range c.Phases {
		switch name {
		case "spawn", "canary":
		case "load", "reload": // reload: what sleep level 2 dropped
			load += time.Duration(took)
		default: // the words of the engine and of the driver
			restore += time.Duration(took)
		}
	}
	if load > 0 {
		k.Load = inSeconds(load)
	}
	if restore > 0 {
		k.Restore = inSeconds(restore)
	}
}

func phase(c ledger.EngineChange, name string) *Decimal {
	took, ok := c.Phases[name]
	if !ok {
		return nil
	}
	return inSeconds(time.Duration(took))
}

// total is what all phases took together.
func total(c ledger.EngineChange) (sum time.Duration) {
	for _, took := range c.Phases {
		sum += time.Duration(took)
	}
	return sum
}

func inSeconds(d time.Duration) *Decimal { return decimal(big.NewInt(d.Microseconds()), 6) }

// sums are the medians by method.
func (s wakeHistory) sums() []WakeMethod {
	wakes := map[string][]time.Duration{}
	for _, k := range s.wakes {
		if k.Result == WakeReady && k.Error == "" {
			wakes[k.Method] = append(wakes[k.Method], k.over.Sub(k.Began))
		}
	}
	names := maps.Clone(s.suspends)
	maps.Copy(names, wakes)
	all := []WakeMethod{}
	for _, m := range slices.Sorted(maps.Keys(names)) {
		all = append(all, WakeMethod{
			Method: m, Suspends: int64(len(s.suspends[m])), Suspend: medianOf(s.suspends[m]),
			Wakes: int64(len(wakes[m])), Wake: medianOf(wakes[m]),
		})
	}
	return all
}

// medianOf is nil of nothing.
func medianOf(all []time.Duration) *Decimal {
	if len(all) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(all))
	return inSeconds((sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2)
}
