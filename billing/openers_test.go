package billing_test

import (
	"testing"
	"testing/synctest"

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

// inBubble runs a test in fake time, with a directory for a ledger, beside others.
func inBubble(t *testing.T, name string, test func(t *testing.T, dir string)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		dir := rig.MemoryDir(t)
		synctest.Test(t, func(t *testing.T) { test(t, dir) })
	})
}
