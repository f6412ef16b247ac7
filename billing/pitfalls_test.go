package billing_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/billing/sim"
	"spotinference/internal/hint"
)

// sampling samples p for d of fake time, and returns what was stored and the log.
func sampling(t *testing.T, p api.Provider, d time.Duration) (*rig.Memory, string) {
	t.Helper()
	var log bytes.Buffer
	st := &rig.Memory{}
	run(t, billing.SamplerConfig{Provider: p, Store: st, Log: slog.New(slog.NewTextHandler(&log, nil))}, d)
	return st, log.String()
}

// wantDark wants every poll to have failed with class.
func wantDark(t *testing.T, m *rig.Memory, what string, polls int, class api.Class) {
	t.Helper()
	if len(m.Samples) != 0 || len(m.Failures) != polls {
		t.Errorf("%s: %d samples and %d failures, want %d", what, len(m.Samples), len(m.Failures), polls)
	}
	for _, f := range m.Failures {
		if f.Class != string(class) {
			t.Errorf("%s: class %q, want %q", what, f.Class, class)
		}
	}
}

// Two clocks that disagree make every minute dark: no window means anything then.
func TestPitfall18ClockSkew(t *testing.T) {
	clouds(t, func(t *testing.T, cloud *sim.Sim, p api.Provider) {
		for _, off := range []time.Duration{-62 * time.Second, 62 * time.Second, -24 * time.Hour} {
			if err := cloud.SetFault(sim.Fault{Mode: sim.Skew, Delay: off}); err != nil {
				t.Fatal(err)
			}
			st, log := sampling(t, p, 2*time.Minute)
			wantDark(t, st, off.String(), 3, api.ClockSkew)
			if !strings.Contains(log, "clock is synchronised") {
				t.Errorf("%s: %s", off, log)
			}
		}
		if err := cloud.SetFault(sim.Fault{Mode: sim.Skew, Delay: 30 * time.Second}); err != nil {
			t.Fatal(err)
		}
		if st, log := sampling(t, p, 30*time.Second); len(st.Samples) != 1 {
			t.Errorf("half a minute off: %s", log)
		}
	})
}

// 207 says "look at each": a reply of which a part failed is no bill, also where it
// comes as a 200.
func TestPitfall22PartialSuccess(t *testing.T) {
	const failed = `{"action":"list","instanceId":"b9a1c0de-0000-4000-8000-000000000010","status":"error","error":"timed out","statusCode":504}`
	f := func(path string, status int, body string, class api.Class) {
		t.Helper()
		c := newVerdaCloud(t)
		c.Reply[path] = rig.Answer(rig.Recorded{Status: status, Body: []byte(body)})
		s, err := c.Provider(nil).Sample(t.Context(), c.Now())
		rig.WantClass(t, err, class)
		if s.Lines != nil {
			t.Errorf("%s %d %s: lines %+v", path, status, body, s.Lines)
		}
	}
	good := newVerdaCloud(t).Cases
	list := func(name string) string { return strings.TrimSpace(string(good[name].Body)) }
	with := func(name string) string { return strings.TrimSuffix(list(name), "]") + "," + failed + "]" }
	for _, c := range []struct{ path, name string }{{rig.VerdaInstancesPath, "instances"}, {rig.VerdaVolumesPath, "volumes"}} {
		f(c.path, 207, "["+failed+"]", api.Malformed)
		f(c.path, 207, with(c.name), api.Malformed)
		f(c.path, 207, list(c.name), api.Malformed) // all well, and still no answer of this call's
		f(c.path, 200, "["+failed+"]", api.Incomplete)
		f(c.path, 200, with(c.name), api.Incomplete)
	}
	f(rig.VerdaBalancePath, 207, list("balance_t0"), api.Malformed)
	f(rig.VerdaBalancePath, 207, "["+failed+"]", api.Malformed)
	f(rig.VerdaBalancePath, 200, "["+failed+"]", api.Malformed)
}

// The key that a pod finds in itself may read the pod and not its bill. The first
// sample, which serve takes as it starts, says so and what key to set; it is asked for
// once a minute, and not again and again.
func TestPitfall26PodKey(t *testing.T) {
	f := func(status int, class api.Class) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c := newPods(t)
			c.Reply[rig.RunpodPodBillPath] = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(status)
			}
			p := c.Provider(func(o *api.Options) {
				o.Instance = ""
				o.Getenv = rig.Env(map[string]string{"RUNPOD_API_KEY": rig.RunpodKey, "RUNPOD_POD_ID": "7h9k2m4n6p"})
			})
			var log bytes.Buffer
			st := &rig.Memory{}
			run(t, billing.SamplerConfig{Provider: p, Store: st, Now: c.Now, Log: slog.New(slog.NewTextHandler(&log, nil))}, time.Second)
			wantDark(t, st, http.StatusText(status), 1, class)
			if text := log.String(); strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, "RUNPOD_API_KEY_FILE") {
				t.Errorf("log:\n%s", text)
			}
			if len(c.Calls) != 2 { // the pod, and its bill
				t.Errorf("calls %v", c.Calls)
			}
		})
	}
	f(401, api.HTTP401)
	f(403, api.HTTP403)

	// At Vast.ai the container's key has another name, and is refused before any call.
	_, err := billing.New("vast", api.Options{Getenv: rig.Env(map[string]string{"CONTAINER_API_KEY": rig.Key, "CONTAINER_ID": "1"})})
	if err == nil || !strings.Contains(hint.Of(err), "VAST_API_KEY") {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
}

// An API that is not there any more is a bill that is lost, and said aloud once.
func TestPitfall27Retired(t *testing.T) {
	doors(t, func(t *testing.T, _ *sim.Sim, d *door, p api.Provider) {
		for status, class := range map[int]api.Class{
			404: api.HTTP4xx, 410: api.HTTP4xx, 301: api.Redirect, 308: api.Redirect,
		} {
			var calls []string
			d.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/oauth2/token") {
					return false // the way in stays
				}
				calls = append(calls, r.URL.Path)
				w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
				w.Header().Set("Location", "https://elsewhere.test/v9")
				w.WriteHeader(status)
				return true
			}
			st, log := sampling(t, p, 2*time.Minute)
			wantDark(t, st, http.StatusText(status), 3, class)
			if strings.Count(log, "level=ERROR") != 1 || strings.Count(log, "\n") != 1 {
				t.Errorf("%d: log:\n%s", status, log)
			}
			if p.Name() != "vast" && !strings.Contains(log, "retired this API") { // there a 404 is a key that nobody has
				t.Errorf("%d: log:\n%s", status, log)
			}
			if len(calls) != 3 || slices.Contains(calls, "/v9") {
				t.Errorf("%d: calls %v", status, calls)
			}
		}
	})
}
