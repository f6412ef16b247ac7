package billing_test

import (
	"testing"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/ledger"
)

// opens opens a provider by its name.
func opens(provider string) rig.Opener {
	return func(opts api.Options) (api.Provider, error) { return billing.New(provider, opts) }
}

func newCloud(t testing.TB) *rig.HyperstackCloud {
	return rig.NewHyperstackCloud(t, opens("hyperstack"))
}
func newPods(t testing.TB) *rig.RunpodCloud      { return rig.NewRunpodCloud(t, opens("runpod")) }
func newVastCloud(t testing.TB) *rig.VastCloud   { return rig.NewVastCloud(t, opens("vast")) }
func newVerdaCloud(t testing.TB) *rig.VerdaCloud { return rig.NewVerdaCloud(t, opens("verda")) }

func nano(n ledger.Nanos) *ledger.Nanos { return &n }

// onStages runs a test on every rig, or on those named.
func onStages(t *testing.T, test func(*testing.T, *rig.Stage), names ...string) {
	t.Helper()
	rig.OnEach(t, billing.New, test, names...)
}
