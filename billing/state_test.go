package billing_test

import (
	"slices"
	"testing"
	"time"

	"spotinference/billing/sim"
	"spotinference/ledger"
)

// A machine that its owner stopped costs what it did, so it is billed, watched and
// counted as before; one that lets go of its GPU costs less and not nothing.
func TestPitfall07StopIsNotFree(t *testing.T) {
	onStages(t, func(t *testing.T, st *stage) {
		p := st.open()
		tenMinutes := func(status string) (ledger.Nanos, ledger.Sample) {
			t.Helper()
			st.cloud.SetStatus(status)
			a := st.sample(t, p)
			time.Sleep(9 * time.Minute)
			b := st.sample(t, p)
			return spent(t, a, b), b
		}
		running, _ := tenMinutes("ACTIVE")
		stopped, s := tenMinutes("SHUTOFF")
		if running == 0 || stopped != running || !s.Lines[0].Running {
			t.Errorf("%s: stopped, ten minutes cost %s and running they cost %s; counts as running: %v", st.rig.name, stopped, running, s.Lines[0].Running)
		}
		if hibernated, s := tenMinutes("HIBERNATED"); hibernated <= 0 || hibernated >= running || st.rig.name != "verda" && s.Lines[0].Running {
			t.Errorf("%s: hibernated, ten minutes cost %s", st.rig.name, hibernated)
		}
	}, "hyperstack", "runpod", "vast", "verda")
}

// A pod that was stopped tells a cost of 0 while its disk is billed: that is no rate,
// and the bill goes on.
func TestPitfall08ZeroRate(t *testing.T) {
	onStages(t, func(t *testing.T, st *stage) {
		p := st.open()
		st.cloud.SetStatus("HIBERNATED")
		a := st.sample(t, p)
		b := st.sample(t, p)
		want := st.cloud.Books(a.At, b.At).Nanos
		if l := b.Lines[0]; l.Status != "EXITED" || l.Running || l.Rate != nil {
			t.Errorf("%+v, rate %v", l, l.Rate)
		}
		if got := spent(t, a, b); got == 0 || got != ledger.Nanos(want) {
			t.Errorf("spent %s, the books say %s", got, ledger.Nanos(want))
		}
	}, "runpod")
}

// A state that nobody has heard of is billed, for all that is known.
func TestPitfall28UnknownStatus(t *testing.T) {
	onStages(t, func(t *testing.T, st *stage) {
		lines := len(st.sample(t, st.open()).Lines)
		st.cloud.SetStatus("HIBERNATED")
		if st.sample(t, st.open()).Lines[0].Running && st.rig.name != "verda" {
			t.Errorf("%s: hibernated counts as running", st.rig.name)
		}
		for _, c := range st.rig.calls {
			if len(c.state) == 0 {
				continue
			}
			for _, word := range []string{"QUANTUM", "", "not running"} {
				st.spoil(c, &bad{text: func(good string) string {
					for _, name := range c.state {
						good = set(name, `"`+word+`"`)(good)
					}
					return good
				}})
				if s := st.sample(t, st.open()); !s.Lines[0].Running || len(s.Lines) != lines {
					t.Errorf("%s: %q counts as not running, or not at all: %+v", st.rig.name, word, s.Lines)
				}
				if st.hits() == 0 {
					t.Errorf("%s: %s was not called", st.rig.name, c.name)
				}
			}
		}
	}, "hyperstack", "runpod", "vast", "verda")
}

// However the machine is, nothing that is asked of a provider can change it: every
// call is one of those that read, by its method and path.
func TestPitfall24CallsThatChange(t *testing.T) {
	onStages(t, func(t *testing.T, st *stage) {
		for _, status := range []string{"ACTIVE", "SHUTOFF", "HIBERNATED", "ERROR"} {
			st.cloud.SetStatus(status)
			p := st.open()
			st.sample(t, p)
			lookBack(t, p)
			if err := st.cloud.SetFault(sim.Fault{Mode: sim.ServerError, Times: 1}); err != nil {
				t.Fatal(err)
			}
			st.sample(t, p) // with a second try
		}
		for _, asked := range st.asked() {
			known := false
			for _, c := range slices.Concat(st.rig.calls, st.rig.beside) {
				known = known || c.is(asked)
			}
			if !known {
				t.Errorf("%s: %s was called", st.rig.name, asked)
			}
		}
		if len(st.asked()) < 8 {
			t.Errorf("%s: %d calls", st.rig.name, len(st.asked()))
		}
	}, "hyperstack", "runpod", "vast", "verda")
}
