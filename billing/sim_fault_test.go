package billing_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"spotinference/billing"
	"spotinference/billing/sim"
)

// Each way of the simulator to misbehave is, in each API that it speaks, a failure
// of its class without a line, and is over when the fault is.
func TestSimulatedFaults(t *testing.T) {
	onStages(t, simulateFaults, "hyperstack", "runpod", "vast", "verda")
}

func simulateFaults(t *testing.T, st *stage) {
	f := func(fault sim.Fault, want billing.Class, only ...string) {
		t.Helper()
		if len(only) > 0 && !slices.Contains(only, st.rig.name) {
			return
		}
		if fault.Mode == sim.StatusFalse && st.rig.name == "runpod" {
			want = billing.Malformed // its pods have a status, which is a word
		}
		misbehave(t, st, fault, want)
	}
	f(sim.Fault{Mode: sim.Dark}, billing.Timeout)
	f(sim.Fault{Mode: sim.Slow, Delay: 20 * time.Second}, billing.Timeout)
	f(sim.Fault{Mode: sim.ServerError}, billing.HTTP5xx)
	f(sim.Fault{Mode: sim.TooMany}, billing.HTTP429)
	f(sim.Fault{Mode: sim.TooMany, RetryAfter: 120}, billing.HTTP429)
	f(sim.Fault{Mode: sim.Unauthorized}, billing.HTTP401)
	f(sim.Fault{Mode: sim.HTML}, billing.Malformed)
	f(sim.Fault{Mode: sim.Truncated}, billing.Malformed)
	f(sim.Fault{Mode: sim.Truncated, Only: "volume"}, billing.Malformed, "hyperstack")
	f(sim.Fault{Mode: sim.Truncated, Only: "volumes"}, billing.Malformed, "runpod", "verda")
	f(sim.Fault{Mode: sim.Truncated, Only: "charges"}, billing.Malformed, "vast")
	f(sim.Fault{Mode: sim.ServerError, Only: "instances"}, billing.HTTP5xx, "verda")
	f(sim.Fault{Mode: sim.Empty, Only: "volumes"}, billing.Incomplete, "runpod")
	f(sim.Fault{Mode: sim.Cut}, billing.Network)
	f(sim.Fault{Mode: sim.NaN}, billing.Malformed)
	f(sim.Fault{Mode: sim.Negative}, billing.Malformed, "hyperstack")
	f(sim.Fault{Mode: sim.Euro}, billing.Currency, "hyperstack")
	f(sim.Fault{Mode: sim.Empty}, billing.Incomplete)
	f(sim.Fault{Mode: sim.StatusFalse}, billing.Incomplete)
	f(sim.Fault{Mode: sim.Elsewhere, To: "https://elsewhere.test/"}, billing.Redirect)
	f(sim.Fault{Mode: sim.Huge}, billing.TooLarge)
	f(sim.Fault{Mode: sim.Skew}, billing.ClockSkew)
}

func misbehave(t *testing.T, st *stage, fault sim.Fault, want billing.Class) {
	t.Helper()
	p := st.open()
	set := func(f sim.Fault) {
		t.Helper()
		if err := st.cloud.SetFault(f); err != nil {
			t.Fatal(err)
		}
	}
	st.sample(t, p)
	set(fault)
	time.Sleep(time.Minute)
	s, err := p.Sample(t.Context(), time.Now())
	var failure *billing.Failure
	if !errors.As(err, &failure) || failure.Class != want || s.Lines != nil {
		t.Errorf("%s, %s %s: %v with %d lines, want %q", st.rig.name, fault.Mode, fault.Only, err, len(s.Lines), want)
	}
	set(sim.Fault{})
	st.sample(t, p)
}
