package runpod_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/billing/sim"
)

// The sample is of the time at which the bill came, not of that at which it was
// asked for: there is no asking for a bill as of a second.
func TestRunpodAt(t *testing.T) {
	f := func(name string, before time.Duration, failures int, want string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			p := newPods(t)
			time.Sleep(before)
			calls := 0
			p.Reply[rig.RunpodPodBillPath] = func(w http.ResponseWriter, _ *http.Request) {
				if calls++; calls <= failures {
					rig.Recorded{Status: 429, Headers: map[string]string{"Retry-After": "3"}}.Serve(w)
					return
				}
				p.Cases["pods_billing_t0"].Serve(w)
			}
			provider := p.Provider(nil)
			s, err := provider.Sample(t.Context(), p.Now())
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := s.At.Format(time.TimeOnly); got != want {
				t.Errorf("%s: At = %s, want %s", name, got, want)
			}
			_, err = provider.Sample(t.Context(), s.At.Add(900*time.Millisecond))
			rig.WantClass(t, err, api.ClockSkew)
		})
	}
	f("at once", 400*time.Millisecond, 0, "12:25:00")
	f("at the second try", 400*time.Millisecond, 1, "12:25:03")
	f("at the third try", 0, 2, "12:25:06")
	f("over the end of the window", 34*time.Minute+58*time.Second, 1, "13:00:00")
}

// The window ends where the API snaps the time to: the hour that begins at it is not
// part of it.
func TestRunpodWindow(t *testing.T) {
	f := func(at, asked string, want api.Class) {
		t.Helper()
		p := newPods(t)
		now := rig.Time(t, at)
		p.Now = func() time.Time { return now }
		_, err := p.Provider(nil).Sample(t.Context(), now)
		if got := p.Calls[1].Query().Get("endTime"); got != asked {
			t.Errorf("at %s: asked up to %s, want %s", at, got, asked)
		}
		if want == "" && err != nil {
			t.Errorf("at %s: %v", at, err)
		} else if want != "" {
			rig.WantClass(t, err, want)
		}
	}
	f("2026-11-23T12:00:01.9Z", "2026-11-23T12:00:01Z", "")
	f("2026-11-23T12:59:59.9Z", "2026-11-23T12:59:59Z", "")
	f("2026-11-23T13:00:00.9Z", "2026-11-23T13:00:00Z", "")
	f("2026-11-23T18:15:00+05:30", "2026-11-23T12:45:00Z", "")
	f("2026-11-23T12:00:00Z", "2026-11-23T12:00:00Z", api.Malformed)
	f("2026-11-23T13:00:01Z", "2026-11-23T13:00:01Z", api.Malformed)
}

func TestRunpodBoundary(t *testing.T) {
	p := newPods(t)
	now := rig.Time(t, "2026-11-23T14:25:00Z")
	p.Now = func() time.Time { return now }
	b, ok := p.Provider(nil).(api.Boundary)
	if !ok {
		t.Fatal("runpod can be asked for the past")
	}
	one := rig.Time(t, "2026-11-23T14:00:00+01:00")
	s, err := b.SampleAt(t.Context(), one, now)
	if err != nil {
		t.Fatal(err)
	}
	l := s.Lines[0]
	if !s.At.Equal(one) || s.At.Location() != time.UTC || *l.Bill != 6_397_000_000 || l.Rate != nil || l.Status != "" || l.Running {
		t.Errorf("sample = %+v", s)
	}
	f := func(at string, want api.Class) {
		t.Helper()
		_, err := b.SampleAt(t.Context(), rig.Time(t, at), now)
		rig.WantClass(t, err, want)
	}
	f("2026-11-23T13:00:01Z", api.Incomplete) // there is no such bucket
	f("2026-11-23T13:30:00Z", api.Incomplete) // a midnight in Kolkata
	f("2026-11-23T15:00:00Z", api.Internal)   // to come
	f("2026-11-23T10:00:00Z", api.Incomplete) // before its birth
	f("2026-11-23T12:00:00Z", api.Malformed)  // the recording is of another window
}

func TestRunpodAnchor(t *testing.T) {
	f := func(name, born, now string, stored api.History, want string) {
		t.Helper()
		p := newPods(t)
		at := rig.Time(t, now)
		p.Now = func() time.Time { return at }
		p.Reply[rig.RunpodPodPath] = p.Body("pod_running", "2026-11-23T10:02:11Z", born, rig.RunpodPersistentMount, rig.RunpodNetworkMount)
		asked := map[string]string{}
		ask := func(w http.ResponseWriter, r *http.Request) {
			id := r.FormValue("podId") + r.FormValue("networkVolumeId")
			asked[id] = r.FormValue("startTime")
			owner := "podId"
			if r.URL.Path == rig.RunpodVolumeBillPath {
				owner = "networkVolumeId"
			}
			start, err := time.Parse(time.RFC3339, r.FormValue("startTime"))
			if err != nil {
				t.Error(err)
			}
			rig.Recorded{Status: 200, Body: fmt.Appendf(nil, `{"records":[{"startTime":%[1]q,"endTime":%[2]q,%[3]q:%[4]q,"totalAmount":1}],
				"metadata":{"query":{"startTime":%[1]q,"endTime":%[5]q,"bucketSize":"hour",%[3]q:%[4]q},"recordCount":1,"totals":{"totalAmount":1}}}`,
				r.FormValue("startTime"), start.Add(time.Hour).Format(time.RFC3339), owner, id, at.Add(time.Hour-1).Truncate(time.Hour).UTC().Format(time.RFC3339))}.Serve(w)
		}
		p.Reply[rig.RunpodPodBillPath], p.Reply[rig.RunpodVolumeBillPath] = ask, ask
		provider := p.Provider(func(o *api.Options) { o.History = stored })
		for range 2 { // it does not move with the month
			s, err := provider.Sample(t.Context(), at)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := s.Lines[0].Epoch + " " + s.Lines[1].Epoch; got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
			if got := "anchor:" + asked["7h9k2m4n6p"] + " anchor:" + asked["agv6w2qcg7"]; got != want {
				t.Errorf("%s: asked from %s, want %s", name, got, want)
			}
			at = at.AddDate(0, 2, 0)
		}
	}
	f("young", "2026-11-22T10:58:31Z", "2026-11-23T12:00:00Z", nil, "anchor:2026-11-22T00:00:00Z anchor:2026-11-16T00:00:00Z")
	f("old", "2026-03-22T10:58:31Z", "2026-11-23T12:00:00Z", nil, "anchor:2026-11-01T00:00:00Z anchor:2026-11-16T00:00:00Z")
	f("stored", "2026-03-22T10:58:31Z", "2026-11-23T12:00:00Z", rig.FixedAnchor(rig.Time(t, "2026-06-01T00:00:00Z")), "anchor:2026-06-01T00:00:00Z anchor:2026-06-01T00:00:00Z")

	bad := func(anchor string, want api.Class) {
		t.Helper()
		p := newPods(t)
		provider := p.Provider(func(o *api.Options) { o.History = rig.AnchoredAt{"pod-7h9k2m4n6p": anchor} })
		_, err := provider.Sample(t.Context(), p.Now())
		rig.WantClass(t, err, want)
	}
	bad("2026-11-23T13:00:00Z", api.ClockSkew) // to come
	bad("2026-11-23T10:30:00Z", api.Internal)  // would be snapped down
}

// Of a long window, the newest day is kept with the total; the bill is of all of it.
func TestRunpodRawIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		born := time.Now()
		cloud, p := rig.Simulated(t, open, "runpod", sim.Config{Volumes: []sim.Volume{}})
		time.Sleep(29*24*time.Hour + 90*time.Minute)
		s, err := p.Sample(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		l := s.Lines[0]
		if want := cloud.Books(born, s.At); int64(*l.Bill) != want.Nanos {
			t.Errorf("bill %s, want %s", *l.Bill, want.Spend)
		}
		var raw struct {
			Cut     int `json:"records_cut"`
			Records []struct{ StartTime time.Time }
			Meta    struct {
				Count  int `json:"recordCount"`
				Totals struct{ TotalAmount json.Number }
			} `json:"metadata"`
		}
		if err := json.Unmarshal(l.Raw, &raw); err != nil {
			t.Fatal(err)
		}
		if len(raw.Records) != 24 || raw.Cut+24 != raw.Meta.Count || raw.Meta.Count != 29*24+2 ||
			raw.Meta.Totals.TotalAmount.String() != l.Bill.String() || !raw.Records[23].StartTime.Equal(s.At.Truncate(time.Hour)) || len(l.Raw) > 8<<10 {
			t.Errorf("%d bytes are kept: %s", len(l.Raw), l.Raw)
		}
	})
}
