package runpod_test

import (
	"testing"

	"spotinference/billing/rig"
	"spotinference/billing/runpod"
)

var open = runpod.Adapter().Open

func newPods(t testing.TB) *rig.RunpodCloud { return rig.NewRunpodCloud(t, open) }
