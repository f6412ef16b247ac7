package billing_test

import (
	"testing"

	"spotinference/billing"
	"spotinference/ledger"
)

// opens opens a provider by its name.
func opens(provider string) opener {
	return func(opts billing.Options) (billing.Provider, error) { return billing.New(provider, opts) }
}

func newCloud(t testing.TB) *cloud           { return newHyperstackCloud(t, opens("hyperstack")) }
func newPods(t testing.TB) *pods             { return newRunpodCloud(t, opens("runpod")) }
func newVastCloud(t testing.TB) *vastCloud   { return newVastCloudOn(t, opens("vast")) }
func newVerdaCloud(t testing.TB) *verdaCloud { return newVerdaCloudOn(t, opens("verda")) }

func nano(n ledger.Nanos) *ledger.Nanos { return &n }

// onStages runs a test on every rig, or on those named.
func onStages(t *testing.T, test func(*testing.T, *stage), names ...string) {
	t.Helper()
	onEach(t, billing.New, test, names...)
}
