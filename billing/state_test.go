package billing_test

import (
	"slices"
	"testing"
	"time"

	"spotinference/billing/rig"
	"spotinference/billing/sim"
	"spotinference/ledger"
)

// A machine that its owner stopped costs what it did, so it is billed, watched and
// counted as before; one that lets go of its GPU costs less and not nothing.
func TestPitfall07StopIsNotFree(t *testing.T) {
	onStages(t, func(t *testing.T, st *rig.Stage) {
		p := st.OpenAdapter()
		tenMinutes := func(status string) (ledger.Nanos, ledger.Sample) {
			t.Helper()
			st.Cloud.SetStatus(status)
			a := st.Sample(t, p)
			time.Sleep(9 * time.Minute)
			b := st.Sample(t, p)
			return rig.Spent(t, a, b), b
		}
		running, _ := tenMinutes("ACTIVE")
		stopped, s := tenMinutes("SHUTOFF")
		if running == 0 || stopped != running || !s.Lines[0].Running {
			t.Errorf("%s: stopped, ten minutes cost %s and running they cost %s; counts as running: %v", st.Rig.Name, stopped, running, s.Lines[0].Running)
		}
		if hibernated, s := tenMinutes("HIBERNATED"); hibernated <= 0 || hibernated >= running || st.Rig.Name != "verda" && s.Lines[0].Running {
			t.Errorf("%s: hibernated, ten minutes cost %s", st.Rig.Name, hibernated)
		}
	}, "hyperstack", "runpod", "vast", "verda")
}

// A pod that was stopped tells a cost of 0 while its disk is billed: that is no rate,
// and the bill goes on.
func TestPitfall08ZeroRate(t *testing.T) {
	onStages(t, func(t *testing.T, st *rig.Stage) {
		p := st.OpenAdapter()
		st.Cloud.SetStatus("HIBERNATED")
		a := st.Sample(t, p)
		b := st.Sample(t, p)
		want := st.Cloud.Books(a.At, b.At).Nanos
		if l := b.Lines[0]; l.Status != "EXITED" || l.Running || l.Rate != nil {
			t.Errorf("%+v, rate %v", l, l.Rate)
		}
		if got := rig.Spent(t, a, b); got == 0 || got != ledger.Nanos(want) {
			t.Errorf("spent %s, the books say %s", got, ledger.Nanos(want))
		}
	}, "runpod")
}

// A state that nobody has heard of is billed, for all that is known.
func TestPitfall28UnknownStatus(t *testing.T) {
	onStages(t, func(t *testing.T, st *rig.Stage) {
		lines := len(st.Sample(t, st.OpenAdapter()).Lines)
		st.Cloud.SetStatus("HIBERNATED")
		if st.Sample(t, st.OpenAdapter()).Lines[0].Running && st.Rig.Name != "verda" {
			t.Errorf("%s: hibernated counts as running", st.Rig.Name)
		}
		for _, c := range st.Rig.Calls {
			if len(c.State) == 0 {
				continue
			}
			for _, word := range []string{"QUANTUM", "", "not running"} {
				st.Spoil(c, &rig.Bad{Text: func(good string) string {
					for _, name := range c.State {
						good = rig.Set(name, `"`+word+`"`)(good)
					}
					return good
				}})
				if s := st.Sample(t, st.OpenAdapter()); !s.Lines[0].Running || len(s.Lines) != lines {
					t.Errorf("%s: %q counts as not running, or not at all: %+v", st.Rig.Name, word, s.Lines)
				}
				if st.Hits() == 0 {
					t.Errorf("%s: %s was not called", st.Rig.Name, c.Name)
				}
			}
		}
	}, "hyperstack", "runpod", "vast", "verda")
}

// However the machine is, nothing that is asked of a provider can change it: every
// call is one of those that read, by its method and path.
func TestPitfall24CallsThatChange(t *testing.T) {
	onStages(t, func(t *testing.T, st *rig.Stage) {
		for _, status := range []string{"ACTIVE", "SHUTOFF", "HIBERNATED", "ERROR"} {
			st.Cloud.SetStatus(status)
			p := st.OpenAdapter()
			st.Sample(t, p)
			rig.LookBack(t, p)
			if err := st.Cloud.SetFault(sim.Fault{Mode: sim.ServerError, Times: 1}); err != nil {
				t.Fatal(err)
			}
			st.Sample(t, p) // with a second try
		}
		for _, asked := range st.Asked() {
			known := false
			for _, c := range slices.Concat(st.Rig.Calls, st.Rig.Beside) {
				known = known || c.Is(asked)
			}
			if !known {
				t.Errorf("%s: %s was called", st.Rig.Name, asked)
			}
		}
		if len(st.Asked()) < 8 {
			t.Errorf("%s: %d calls", st.Rig.Name, len(st.Asked()))
		}
	}, "hyperstack", "runpod", "vast", "verda")
}
