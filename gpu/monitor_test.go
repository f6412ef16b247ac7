package gpu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a source whose processes a test speaks for.
type fake struct {
	name   Source
	starts chan *fakeProcess // what the next starts give; a start waits for one
	refuse error             // or why there is none
}

type fakeProcess struct {
	out      chan []byte
	exited   chan struct{}
	how      error // it ends with this
	deaf     bool  // SIGKILL does nothing
	killed   bool
	exitOnce sync.Once
}

func newFakeProcess() *fakeProcess {
	return &fakeProcess{out: make(chan []byte), exited: make(chan struct{}), how: errors.New("signal: killed")}
}

func (p *fakeProcess) lines() <-chan []byte  { return p.out }
func (p *fakeProcess) gone() <-chan struct{} { return p.exited }
func (p *fakeProcess) send([]byte) error     { return nil }
func (p *fakeProcess) exit()                 { p.exitOnce.Do(func() { close(p.exited) }) }

func (p *fakeProcess) end() error {
	p.killed = true
	if p.deaf {
		return errStuck
	}
	p.exit()
	return p.how
}

func (f *fake) source() source {
	return source{name: f.name, decoder: helperDecoder, start: func() (process, error) {
		if f.refuse != nil {
			return nil, f.refuse
		}
		return <-f.starts, nil
	}}
}

// watched is a monitor in a bubble, and what it told.
type watched struct {
	*Monitor
	states []State
	xids   []XID
	sums   []Minute
	stop   func()
}

func watch(t *testing.T, fakes ...*fake) *watched {
	t.Helper()
	w := &watched{}
	var all []source
	for _, f := range fakes {
		all = append(all, f.source())
	}
	w.Monitor = newMonitor(Config{Log: slog.New(slog.DiscardHandler)}, all)
	hooks := Hooks{
		OnState:  func(s State) { w.states = append(w.states, s) },
		OnXID:    func(x XID, _ time.Time) { w.xids = append(w.xids, x) },
		OnMinute: func(m Minute) { w.sums = append(w.sums, m) },
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.Run(ctx, hooks); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	w.stop = func() { cancel(); <-done }
	return w
}

func cardLine(energy int) []byte {
	return fmt.Appendf(nil, `{"driver":"570","cards":[{"index":0,"uuid":"GPU-a","name":"H100","utilisation":50,"energy":%d}]}`, energy)
}

// speak gives a reading a second, n times.
func speak(p *fakeProcess, n int) {
	for i := range n {
		p.out <- cardLine(i)
		time.Sleep(time.Second)
	}
}

func TestReadings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		helper := &fake{name: Helper, starts: make(chan *fakeProcess)}
		w := watch(t, helper)
		if s := w.Latest(); s.Source != None || s.Fresh(time.Now()) || !s.At.IsZero() {
			t.Errorf("before the first reading: %+v", s)
		}
		p := newFakeProcess()
		helper.starts <- p
		speak(p, 60)
		s := w.Latest()
		if s.State != (State{Source: Helper}) || !s.Fresh(time.Now()) || s.Driver != "570" || len(s.Cards) != 1 || *s.Cards[0].Energy != 59 || !s.Cards[0].At.Equal(s.At) {
			t.Errorf("snapshot %+v", s)
		}
		w.stop()
		if !p.killed {
			t.Error("the helper was left behind")
		}
		var energy int64
		for _, m := range w.sums {
			energy += *m.Energy
		}
		if energy != 59 {
			t.Errorf("minutes %+v: energy %d, want 59: what is open at the end is told, too", w.sums, energy)
		}
		if want := []State{{Source: Helper}}; !reflect.DeepEqual(w.states, want) {
			t.Errorf("states %v, want %v", w.states, want)
		}
	})
}

// Silent, talking nonsense, giving up, dying: the readings go stale, the state says
// why, and they come back.
func TestAHelperThatFails(t *testing.T) {
	for _, c := range []struct {
		name   string
		fail   func(*fakeProcess)
		reason string
	}{
		{"hangs", func(*fakeProcess) { time.Sleep(patience + time.Second) }, "helper: silent for 10s, and killed"},
		{"hangs while it still tells errors", func(p *fakeProcess) {
			for range 9 { // the last reading was a second ago
				p.out <- []byte(`{"xid":{"uuid":"GPU-a","code":79}}`)
				time.Sleep(time.Second)
			}
		}, "helper: silent for 10s, and killed"},
		{"talks nonsense", func(p *fakeProcess) { p.out <- []byte("oops") }, `helper: line "oops": invalid character 'o' looking for beginning of value`},
		{"gives up", func(p *fakeProcess) { p.out <- []byte(`{"error":"the driver sees no card"}`) }, "helper: the driver sees no card"},
		{"dies", func(p *fakeProcess) { p.how = errors.New("exit status 127: undefined symbol"); close(p.out) }, "helper: exit status 127: undefined symbol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				helper := &fake{name: Helper, starts: make(chan *fakeProcess)}
				w := watch(t, helper)
				first := newFakeProcess()
				helper.starts <- first
				speak(first, 3)
				c.fail(first)
				synctest.Wait()
				s := w.Latest()
				if s.State != (State{None, c.reason}) || s.Fresh(time.Now()) || len(s.Cards) != 1 {
					t.Errorf("after it failed: %+v, want the reason %q", s, c.reason)
				}
				if !first.killed {
					t.Error("it was left running")
				}
				second := newFakeProcess()
				helper.starts <- second
				speak(second, 3)
				if s := w.Latest(); s.Source != Helper || !s.Fresh(time.Now()) {
					t.Errorf("after it came back: %+v", s)
				}
				w.stop()
				want := []State{{Source: Helper}, {None, c.reason}, {Source: Helper}}
				if !reflect.DeepEqual(w.states, want) {
					t.Errorf("states %v, want %v", w.states, want)
				}
			})
		})
	}
}

// A process that SIGKILL does not end is never joined by a second one, and does not
// hold up the end of the program.
func TestAHelperThatCannotBeKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		helper := &fake{name: Helper, starts: make(chan *fakeProcess)}
		w := watch(t, helper)
		first := newFakeProcess()
		first.deaf = true
		helper.starts <- first
		speak(first, 1)
		time.Sleep(time.Hour)
		if s := w.Latest(); s.Source != None || !strings.Contains(s.Reason, "cannot be killed") {
			t.Errorf("state %+v", s.State)
		}
		select {
		case helper.starts <- newFakeProcess():
			t.Error("a second one was started beside it")
		default:
		}
		first.exit() // the driver let go of it
		second := newFakeProcess()
		second.deaf = true
		helper.starts <- second
		speak(second, 1)
		w.stop() // returns
	})
}

// Pauses double up to a minute, and begin anew after a minute of readings.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		helper := &fake{name: Helper, starts: make(chan *fakeProcess)}
		w := watch(t, helper)
		defer w.stop()
		pause := func(readings int) time.Duration {
			p := newFakeProcess()
			helper.starts <- p
			speak(p, readings)
			close(p.out)
			began := time.Now()
			next := newFakeProcess()
			close(next.out)
			helper.starts <- next
			return time.Since(began)
		}
		var got []time.Duration
		for range 5 {
			got = append(got, pause(0).Round(time.Second))
		}
		got = append(got, pause(60).Round(time.Second))
		s := time.Second
		want := []time.Duration{1 * s, 4 * s, 16 * s, 60 * s, 60 * s, 1 * s}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("pauses %v, want %v", got, want)
		}
	})
}

// The lesser source is used where the better one gives nothing, says why, and
// makes way for it again.
func TestSecondSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		helper := &fake{name: Helper, starts: make(chan *fakeProcess), refuse: errors.New("this build carries none")}
		smi := &fake{name: SMI, starts: make(chan *fakeProcess)}
		w := watch(t, helper, smi)
		p := newFakeProcess()
		smi.starts <- p
		speak(p, 3)
		if s := w.Latest(); s.State != (State{SMI, "helper: this build carries none"}) {
			t.Errorf("state %+v", s.State)
		}
		helper.refuse = nil
		go speak(p, int(secondBest/time.Second)-3)
		better := newFakeProcess()
		helper.starts <- better
		speak(better, 3)
		if s := w.Latest(); s.State != (State{Source: Helper}) || !p.killed {
			t.Errorf("state %+v; nvidia-smi was killed: %t", s.State, p.killed)
		}
		w.stop()
		want := []State{{SMI, "helper: this build carries none"}, {Source: Helper}}
		if !reflect.DeepEqual(w.states, want) {
			t.Errorf("states %v, want %v", w.states, want)
		}
	})
}

// Without a driver there is a state and no error; it is told once, however often
// it is tried.
func TestNoSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t,
			&fake{name: Helper, refuse: errors.New("this build carries none")},
			&fake{name: SMI, refuse: errors.New("not found in PATH")})
		time.Sleep(time.Hour)
		want := State{None, "helper: this build carries none; nvidia-smi: not found in PATH"}
		if s := w.Latest(); s.State != want || s.Fresh(time.Now()) {
			t.Errorf("state %+v, want %+v", s.State, want)
		}
		w.stop()
		if !reflect.DeepEqual(w.states, []State{want}) {
			t.Errorf("states %v, want %v once", w.states, want)
		}
	})
}

// A query that had to be changed is asked again at once.
func TestAskAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		smi := &fake{name: SMI, starts: make(chan *fakeProcess)}
		s := smi.source()
		asked := 0
		s.decoder = func() func([]byte) (Message, bool, error) {
			asked++
			return func(line []byte) (Message, bool, error) {
				if asked == 1 {
					return Message{}, false, errAskAgain
				}
				m, err := ParseMessage(line)
				return m, true, err
			}
		}
		m := newMonitor(Config{Log: slog.New(slog.DiscardHandler)}, []source{s})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx, Hooks{}) }()
		began := time.Now()
		for range 2 {
			p := newFakeProcess()
			smi.starts <- p
			p.out <- cardLine(1)
		}
		synctest.Wait()
		if got := time.Since(began); got != 0 || m.Latest().Source != SMI {
			t.Errorf("asked again after %s, state %+v", got, m.Latest().State)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Each kind of error is told once a minute, and counted every time.
func TestXIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		helper := &fake{name: Helper, starts: make(chan *fakeProcess)}
		w := watch(t, helper)
		p := newFakeProcess()
		helper.starts <- p
		for range 90 {
			p.out <- cardLine(1)
			p.out <- []byte(`{"xid":{"uuid":"GPU-a","code":31}}`)
			time.Sleep(time.Second)
		}
		p.out <- []byte(`{"xid":{"uuid":"GPU-a","code":79}}`)
		synctest.Wait()
		if got, want := w.Latest().XIDs, (map[XID]int64{{"GPU-a", 31}: 90, {"GPU-a", 79}: 1}); !reflect.DeepEqual(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
		w.stop()
		if want := []XID{{"GPU-a", 31}, {"GPU-a", 31}, {"GPU-a", 79}}; !reflect.DeepEqual(w.xids, want) {
			t.Errorf("told %v, want %v", w.xids, want)
		}
	})
}

// A ledger that hangs does not make the readings stale.
func TestASlowTeller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		helper := &fake{name: Helper, starts: make(chan *fakeProcess)}
		release := make(chan struct{})
		m := newMonitor(Config{Log: slog.New(slog.DiscardHandler)}, []source{helper.source()})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx, Hooks{OnXID: func(XID, time.Time) { <-release }}) }()
		p := newFakeProcess()
		helper.starts <- p
		for i := range 2 * notesMax {
			p.out <- fmt.Appendf(nil, `{"xid":{"uuid":"GPU-a","code":%d}}`, i)
		}
		p.out <- cardLine(1)
		synctest.Wait()
		if !m.Latest().Fresh(time.Now()) {
			t.Errorf("state %+v", m.Latest().State)
		}
		close(release)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
