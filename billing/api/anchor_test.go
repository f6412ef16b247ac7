package api_test

import (
	"testing"

	"spotinference/billing/api"
	"spotinference/billing/rig"
)

func TestEpoch(t *testing.T) {
	at := rig.Time(t, "2026-11-22T01:00:00+01:00")
	epoch := api.Epoch(at)
	if epoch != "anchor:2026-11-22T00:00:00Z" {
		t.Errorf("Epoch = %q", epoch)
	}
	if got, err := api.ParseEpoch(epoch); err != nil || !got.Equal(at) {
		t.Errorf("ParseEpoch = %v, %v", got, err)
	}
	for _, bad := range []string{"", "anchor:", "period:2026-11", "2026-11-22T00:00:00Z", "anchor:2026-11-22T00:00:00.5Z", "anchor:2026-11-22"} {
		if _, err := api.ParseEpoch(bad); err == nil {
			t.Errorf("ParseEpoch(%q) is accepted", bad)
		}
	}
}
