package gpu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// Readings come once a second. A source that is silent for so long hangs;
	// while it starts, the driver may wake each card first.
	patience      = 10 * time.Second
	startPatience = time.Minute

	// A source that ended is started again after a second, then two, ... and the
	// first pause counts again after it has read for steady.
	firstPause = time.Second
	lastPause  = time.Minute
	steady     = time.Minute

	// secondBest is how long a lesser source is used before the better one is
	// tried again.
	secondBest = 10 * time.Minute

	// xidPause is how soon the same error of the same card is told again: a
	// broken card has hundreds a second.
	xidPause = time.Minute

	notesMax = 256 // what waits for a slow teller; more is dropped, and counted
)

// Config is what a Monitor needs.
type Config struct {
	Now func() time.Time // the wall clock, of what is recorded; time.Now where nil
	Log *slog.Logger     // slog.Default() where nil
}

// Hooks say who is told. The functions are called one at a time, from a goroutine that
// no reading waits for; each may be nil.
type Hooks struct {
	OnMinute func(Minute)
	OnXID    func(XID, time.Time)
	OnState  func(State)
}

// Monitor follows the cards of this machine. It is made by New and run once.
type Monitor struct {
	cfg     Config
	sources []source // the best first
	newest  atomic.Pointer[Snapshot]
	notes   chan func()
	dropped atomic.Int64

	// Owned by Run.
	hooks   Hooks
	minutes minutes
	told    map[XID]time.Time
}

// New starts nothing.
func New(cfg Config) *Monitor {
	return newMonitor(cfg, sources())
}

func newMonitor(cfg Config, sources []source) *Monitor {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	m := &Monitor{cfg: cfg, sources: sources, notes: make(chan func(), notesMax), told: map[XID]time.Time{}}
	m.newest.Store(&Snapshot{State: State{Source: None, Reason: "no reading yet"}, replaced: make(chan struct{})})
	return m
}

// Latest is the newest that is known. It waits for nothing, and may be called
// before and after Run.
func (m *Monitor) Latest() Snapshot { return *m.newest.Load() }

// Run reads until ctx ends, and returns nil then: what a driver does wrong is a
// state, no error.
func (m *Monitor) Run(ctx context.Context, hooks Hooks) error {
	m.hooks = hooks
	done := make(chan struct{})
	go func() { defer close(done); m.tell() }()
	m.read(ctx)
	close(m.notes)
	<-done
	return nil
}

// tell calls the callbacks: a ledger that waits for its disk must not make the
// readings wait.
func (m *Monitor) tell() {
	for note := range m.notes {
		note()
		if n := m.dropped.Swap(0); n > 0 {
			m.cfg.Log.Warn("minutes and errors of the cards were lost: the ledger is too slow", "notes", n)
		}
	}
}

func (m *Monitor) note(f func()) {
	select {
	case m.notes <- f:
	default:
		m.dropped.Add(1)
	}
}

// errTurn ends a lesser source's turn.
var errTurn = errors.New("the better source is tried again")

// read follows one source after the other.
func (m *Monitor) read(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		reasons, err := m.round(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errTurn) {
			pause = firstPause
			continue
		}
		m.setState(State{Source: None, Reason: strings.Join(reasons, "; ")})
		if time.Since(began) >= steady {
			pause = firstPause
		}
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, lastPause)
	}
}

// round tries the sources in order until one gives readings, and follows that one
// until it ends. reasons say why none is followed now.
func (m *Monitor) round(ctx context.Context) (reasons []string, err error) {
	for i, s := range m.sources {
		turn, cancel := ctx, func() {}
		if i > 0 {
			turn, cancel = context.WithTimeoutCause(ctx, secondBest, errTurn)
		}
		heard, err := m.follow(turn, s, strings.Join(reasons, "; "))
		for errors.Is(err, errAskAgain) {
			heard, err = m.follow(turn, s, strings.Join(reasons, "; "))
		}
		cancel()
		for _, d := range m.minutes.end() {
			m.minute(d)
		}
		if ctx.Err() != nil || errors.Is(err, errTurn) {
			return nil, err
		}
		reasons = append(reasons, fmt.Sprintf("%s: %s", s.name, strings.ReplaceAll(err.Error(), "\n", "; ")))
		if heard {
			// The others have no say in why it ended.
			return reasons[len(reasons)-1:], nil
		}
	}
	return reasons, nil
}

// follow runs one source until it ends, hangs, talks nonsense, or ctx is over.
// why says why no better source is used.
func (m *Monitor) follow(ctx context.Context, s source, why string) (heard bool, err error) {
	p, err := s.start()
	if err != nil {
		return false, err
	}
	decode := s.decoder()
	lines := p.lines()
	silent := time.NewTimer(startPatience)
	defer silent.Stop()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return heard, m.end(ctx, p, nil)
			}
			msg, complete, err := decode(line)
			switch {
			case err != nil:
				return heard, m.end(ctx, p, err)
			case !complete:
			case msg.Error != "":
				return heard, m.end(ctx, p, errors.New(msg.Error))
			case msg.XID != nil:
				m.xid(*msg.XID)
			default:
				heard = true
				silent.Reset(patience)
				m.publish(State{Source: s.name, Reason: why}, msg)
			}
		case <-silent.C:
			limit := patience
			if !heard {
				limit = startPatience
			}
			return heard, m.end(ctx, p, fmt.Errorf("silent for %s, and killed", limit))
		case <-ctx.Done():
			return heard, m.end(ctx, p, context.Cause(ctx))
		}
	}
}

// end kills p and waits for its end; cause is why, nil where it ended by itself. A
// process that SIGKILL does not end hangs in the driver: then there is no second
// one beside it, and nobody waits for it but the next attempt.
func (m *Monitor) end(ctx context.Context, p process, cause error) error {
	err := p.end()
	if !errors.Is(err, errStuck) {
		if cause == nil {
			cause = err
		}
		return cause
	}
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errTurn) {
		return ctx.Err() // we are stopping
	}
	if cause == nil {
		cause = errors.New("ended its output")
	}
	m.setState(State{Source: None, Reason: fmt.Sprintf("%v; %v", cause, errStuck)})
	select {
	case <-p.gone():
	case <-ctx.Done():
	}
	return cause
}

// publish makes what msg says the newest.
func (m *Monitor) publish(state State, msg Message) {
	now := m.cfg.Now()
	next := m.Latest()
	changed := next.State != state
	next.State, next.At, next.Cards = state, now, slices.Clone(msg.Cards)
	if msg.Driver != "" {
		next.Driver = msg.Driver
	}
	for i := range next.Cards {
		next.Cards[i].At = now
		if d := m.minutes.add(state.Source, next.Cards[i]); d != nil {
			m.minute(*d)
		}
	}
	m.replace(next)
	if changed {
		m.tellState(state)
	}
}

// replace makes next the newest, and tells those who wait for one. Called by Run alone.
func (m *Monitor) replace(next Snapshot) {
	last := next.replaced
	next.replaced = make(chan struct{})
	m.newest.Store(&next)
	close(last)
}

func (m *Monitor) setState(state State) {
	next := m.Latest()
	if next.State == state {
		return
	}
	next.State = state
	m.replace(next)
	m.tellState(state)
}

func (m *Monitor) tellState(state State) {
	if f := m.hooks.OnState; f != nil {
		m.note(func() { f(state) })
	}
}

func (m *Monitor) minute(d Minute) {
	if f := m.hooks.OnMinute; f != nil {
		m.note(func() { f(d) })
	}
}

// xid counts every error, and tells the first of a kind in a minute.
func (m *Monitor) xid(x XID) {
	now := m.cfg.Now()
	next := m.Latest()
	if next.XIDs = maps.Clone(next.XIDs); next.XIDs == nil {
		next.XIDs = map[XID]int64{}
	}
	next.XIDs[x]++
	m.replace(next)
	if last, ok := m.told[x]; ok && now.Sub(last) < xidPause {
		return
	}
	m.told[x] = now
	if f := m.hooks.OnXID; f != nil {
		m.note(func() { f(x, now) })
	}
}

// sleep tells whether the pause was slept through.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
