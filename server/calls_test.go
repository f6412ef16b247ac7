package server

import (
	"maps"
	"slices"
	"testing"

	"spotinference/server/control"
)

// TestEveryCallIsAnswered: serve knows the calls that commands may make, and no other.
func TestEveryCallIsAnswered(t *testing.T) {
	want := slices.Sorted(slices.Values(control.Names()))
	if got := slices.Sorted(maps.Keys((&gateway{}).calls())); !slices.Equal(got, want) {
		t.Errorf("serve answers %q, commands know %q", got, want)
	}
}
