package hyperstack_test

import (
	"errors"
	"testing"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
)

func TestHyperstackAnchor(t *testing.T) {
	f := func(name, born, now string, stored api.History, want string) {
		t.Helper()
		c := newCloud(t)
		at := rig.Time(t, now)
		c.Now = func() time.Time { return at }
		c.Reply[rig.HyperstackVMPath] = c.Body("instance", "2026-11-22T10:58:31", born)
		p := c.Provider(func(o *api.Options) { o.History = stored })
		s, err := p.Sample(t.Context(), at)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if got := s.Lines[0].Epoch; got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		// It does not move with the month.
		at = at.AddDate(0, 2, 0)
		if s, err = p.Sample(t.Context(), at); err != nil || s.Lines[0].Epoch != want {
			t.Errorf("%s: two months later %s (%v)", name, s.Lines[0].Epoch, err)
		}
	}
	f("young", "2026-11-22T10:58:31", "2026-11-23T12:00:00Z", nil, "anchor:2026-11-22T00:00:00Z")
	f("young over the month", "2026-11-22T10:58:31", "2026-12-02T12:00:00Z", nil, "anchor:2026-11-22T00:00:00Z")
	f("old", "2026-03-22T10:58:31", "2026-11-23T12:00:00Z", nil, "anchor:2026-11-01T00:00:00Z")
	f("stored", "2026-03-22T10:58:31", "2026-11-23T12:00:00Z", rig.FixedAnchor(rig.Time(t, "2026-06-01T00:00:00Z")), "anchor:2026-06-01T00:00:00Z")

	c := newCloud(t)
	now := rig.Time(t, "2026-11-23T12:00:00Z")
	c.Now = func() time.Time { return now }
	var failure *api.Failure
	p := c.Provider(func(o *api.Options) { o.History = rig.FixedAnchor(now.Add(time.Hour)) })
	if _, err := p.Sample(t.Context(), now); !errors.As(err, &failure) || failure.Class != api.ClockSkew {
		t.Errorf("anchor to come: %v", err)
	}
}
