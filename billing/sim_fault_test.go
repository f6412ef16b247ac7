package billing_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/billing/sim"
)

// Each way of the simulator to misbehave is, in each API that it speaks, a failure
// of its class without a line, and is over when the fault is.
func TestSimulatedFaults(t *testing.T) {
	onStages(t, simulateFaults, "hyperstack", "runpod", "vast", "verda")
}

func simulateFaults(t *testing.T, st *rig.Stage) {
	f := func(fault sim.Fault, want api.Class, only ...string) {
		t.Helper()
		if len(only) > 0 && !slices.Contains(only, st.Rig.Name) {
			return
		}
		if fault.Mode == sim.StatusFalse && st.Rig.Name == "runpod" {
			want = api.Malformed // its pods have a status, which is a word
		}
		misbehave(t, st, fault, want)
	}
	f(sim.Fault{Mode: sim.Dark}, api.Timeout)
	f(sim.Fault{Mode: sim.Slow, Delay: 20 * time.Second}, api.Timeout)
	f(sim.Fault{Mode: sim.ServerError}, api.HTTP5xx)
	f(sim.Fault{Mode: sim.TooMany}, api.HTTP429)
	f(sim.Fault{Mode: sim.TooMany, RetryAfter: 120}, api.HTTP429)
	f(sim.Fault{Mode: sim.Unauthorized}, api.HTTP401)
	f(sim.Fault{Mode: sim.HTML}, api.Malformed)
	f(sim.Fault{Mode: sim.Truncated}, api.Malformed)
	f(sim.Fault{Mode: sim.Truncated, Only: "volume"}, api.Malformed, "hyperstack")
	f(sim.Fault{Mode: sim.Truncated, Only: "volumes"}, api.Malformed, "runpod", "verda")
	f(sim.Fault{Mode: sim.Truncated, Only: "charges"}, api.Malformed, "vast")
	f(sim.Fault{Mode: sim.ServerError, Only: "instances"}, api.HTTP5xx, "verda")
	f(sim.Fault{Mode: sim.Empty, Only: "volumes"}, api.Incomplete, "runpod")
	f(sim.Fault{Mode: sim.Cut}, api.Network)
	f(sim.Fault{Mode: sim.NaN}, api.Malformed)
	f(sim.Fault{Mode: sim.Negative}, api.Malformed, "hyperstack")
	f(sim.Fault{Mode: sim.Euro}, api.Currency, "hyperstack")
	f(sim.Fault{Mode: sim.Empty}, api.Incomplete)
	f(sim.Fault{Mode: sim.StatusFalse}, api.Incomplete)
	f(sim.Fault{Mode: sim.Elsewhere, To: "https://elsewhere.test/"}, api.Redirect)
	f(sim.Fault{Mode: sim.Huge}, api.TooLarge)
	f(sim.Fault{Mode: sim.Skew}, api.ClockSkew)
}

func misbehave(t *testing.T, st *rig.Stage, fault sim.Fault, want api.Class) {
	t.Helper()
	p := st.OpenAdapter()
	set := func(f sim.Fault) {
		t.Helper()
		if err := st.Cloud.SetFault(f); err != nil {
			t.Fatal(err)
		}
	}
	st.Sample(t, p)
	set(fault)
	time.Sleep(time.Minute)
	s, err := p.Sample(t.Context(), time.Now())
	var failure *api.Failure
	if !errors.As(err, &failure) || failure.Class != want || s.Lines != nil {
		t.Errorf("%s, %s %s: %v with %d lines, want %q", st.Rig.Name, fault.Mode, fault.Only, err, len(s.Lines), want)
	}
	set(sim.Fault{})
	st.Sample(t, p)
}
