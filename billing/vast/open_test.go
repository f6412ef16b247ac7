package vast_test

import (
	"testing"

	"spotinference/billing/rig"
	"spotinference/billing/vast"
)

var open = vast.Adapter().Open

func newVastCloud(t testing.TB) *rig.VastCloud { return rig.NewVastCloud(t, open) }
