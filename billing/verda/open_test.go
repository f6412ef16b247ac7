package verda_test

import (
	"testing"

	"spotinference/billing/rig"
	"spotinference/billing/verda"
	"spotinference/ledger"
)

var open = verda.Adapter().Open

func newVerdaCloud(t testing.TB) *rig.VerdaCloud { return rig.NewVerdaCloud(t, open) }

func nano(n ledger.Nanos) *ledger.Nanos { return &n }
