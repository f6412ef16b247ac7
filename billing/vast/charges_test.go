package vast_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
)

// Charges are listed by the day, so the bill of a midnight is known, and no other.
func TestVastBoundary(t *testing.T) {
	c := newVastCloud(t)
	now := rig.Time(t, "2026-11-26T10:46:40Z")
	c.Now = func() time.Time { return now }
	b, ok := c.Provider(nil).(api.Boundary)
	if !ok {
		t.Fatal("vast can be asked for a past midnight")
	}
	midnight := rig.Time(t, "2026-11-26T00:00:00Z")
	s, err := b.SampleAt(t.Context(), midnight, now)
	if err != nil {
		t.Fatal(err)
	}
	if !s.At.Equal(midnight) || len(s.Lines) != 2 {
		t.Errorf("sample = %+v", s)
	}
	for _, l := range s.Lines {
		if l.Rate != nil || l.Status != "" || l.Running || l.Bill == nil {
			t.Errorf("%s knows of then what is known of now: %+v", l.Resource, l)
		}
	}
	want := fmt.Sprintf(`{"day":{"gte":%d,"lte":%d},"type":{"in":["instance","volume"]}}`, midnight.Unix()-86400, midnight.Unix()-1)
	for _, u := range c.Calls {
		if u.Path == rig.VastChargesPath && u.Query().Get("select_filters") != want {
			t.Errorf("asked %s", u)
		}
	}
	for _, at := range []string{"2026-11-26T01:00:00Z", "2026-11-26T00:00:00.5Z", "2026-11-26T00:00:00+01:00", "2026-11-27T00:00:00Z", "2026-11-25T00:00:00Z"} {
		if s, err := b.SampleAt(t.Context(), rig.Time(t, at), now); err == nil || s.Lines != nil {
			t.Errorf("a bill as of %s: %+v", at, s)
		}
	}
}

func TestVastAnchor(t *testing.T) {
	f := func(name, born, now string, stored api.History, want string) {
		t.Helper()
		c := newVastCloud(t)
		at := rig.Time(t, now)
		c.Now = func() time.Time { return at }
		c.Reply[rig.VastInstancePath] = c.Body("instance", `"start_date":1795600000.0`, fmt.Sprintf(`"start_date":%d.5`, rig.Time(t, born).Unix()))
		p := c.Provider(func(o *api.Options) { o.History = stored })
		for range 2 { // it does not move with the month
			s, err := p.Sample(t.Context(), at)
			if err != nil || s.Lines[0].Epoch != want {
				t.Errorf("%s: %v, %+v, want %s", name, err, s.Lines, want)
			}
			last := ""
			for _, u := range c.Calls {
				if u.Path == rig.VastChargesPath {
					last = u.Query().Get("select_filters")
				}
			}
			if end := fmt.Sprintf(`"lte":%d}`, at.Truncate(24*time.Hour).Unix()+86399); !strings.Contains(last, end) {
				t.Errorf("%s: asked for %s, want %s", name, last, end)
			}
			at = at.AddDate(0, 2, 0)
		}
	}
	f("young", "2026-11-25T09:46:40Z", "2026-11-26T10:46:40Z", nil, "anchor:2026-11-25T00:00:00Z")
	f("old", "2026-03-22T10:58:31Z", "2026-11-26T10:46:40Z", nil, "anchor:2026-11-01T00:00:00Z")
	f("stored", "2026-03-22T10:58:31Z", "2026-11-26T10:46:40Z", rig.FixedAnchor(rig.Time(t, "2026-06-01T00:00:00Z")), "anchor:2026-06-01T00:00:00Z")

	// A volume older than the instance has a listing of its own.
	c := newVastCloud(t)
	at := rig.Time(t, "2026-11-26T10:46:40Z")
	c.Now = func() time.Time { return at }
	c.Reply[rig.VastVolumesPath] = c.Body("volumes", `"start_date":1795599990.25`, `"start_date":1795000000`)
	s, err := c.Provider(nil).Sample(t.Context(), at)
	if err != nil || s.Lines[1].Epoch != "anchor:2026-11-18T00:00:00Z" || len(c.Calls) != 5 {
		t.Errorf("%v, %+v, %d calls", err, s.Lines, len(c.Calls))
	}

	c = newVastCloud(t)
	c.Now = func() time.Time { return at }
	_, err = c.Provider(func(o *api.Options) { o.History = rig.FixedAnchor(at.AddDate(0, 0, 1)) }).Sample(t.Context(), at)
	rig.WantClass(t, err, api.ClockSkew)
}
