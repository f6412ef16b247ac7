package hyperstack_test

import (
	"testing"

	"spotinference/billing/hyperstack"
	"spotinference/billing/rig"
)

var open = hyperstack.Adapter().Open

func newCloud(t testing.TB) *rig.HyperstackCloud { return rig.NewHyperstackCloud(t, open) }
