package runpod_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/internal/hint"
	"spotinference/ledger"
)

func TestRunpodSample(t *testing.T) {
	f := func(name, pod, bill string, running bool, rate *ledger.Nanos, want ledger.Nanos) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			p := newPods(t)
			p.Bill = bill
			p.Reply[rig.RunpodPodPath] = func(w http.ResponseWriter, _ *http.Request) { p.Cases[pod].Serve(w) }
			s, err := p.Provider(nil).Sample(t.Context(), p.Now().Add(300*time.Millisecond))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			if !s.At.Equal(rig.Time(t, "2026-11-23T12:25:00Z")) || s.At.Location() != time.UTC || s.Provider != "runpod" || s.Account != "" ||
				s.Currency != "USD" || s.Truth != ledger.TruthResource || s.Step != 5*time.Minute || s.Lag != 15*time.Minute || s.Calibrated {
				t.Errorf("%s: sample = %+v", name, s)
			}
			if len(s.Lines) != 1 {
				t.Fatalf("%s: %d lines, want 1", name, len(s.Lines))
			}
			l := s.Lines[0]
			if l.Resource != "pod-7h9k2m4n6p" || l.Kind != ledger.Instance || l.Running != running ||
				!l.Created.Equal(rig.Time(t, "2026-11-23T10:02:11Z")) || l.Epoch != "anchor:2026-11-23T10:00:00Z" {
				t.Errorf("%s: pod = %+v", name, l)
			}
			if *l.Bill != want {
				t.Errorf("%s: bill %s, want %s", name, *l.Bill, want)
			}
			if (l.Rate == nil) != (rate == nil) || rate != nil && *l.Rate != *rate {
				t.Errorf("%s: rate %v, want %v", name, l.Rate, rate)
			}
			if !bytes.Equal(l.Raw, p.Cases[bill].Body) {
				t.Errorf("%s: the raw reply is not the one that came", name)
			}
			// Both ends of the window are sent.
			if got, want := p.Calls[1].RawQuery, "bucketSize=hour&endTime=2026-11-23T12%3A25%3A00Z&podId=7h9k2m4n6p&startTime=2026-11-23T10%3A00%3A00Z"; got != want {
				t.Errorf("%s: asked %s, want %s", name, got, want)
			}
		})
	}
	rate := ledger.Nanos(2_690_000_000)
	f("t0", "pod_running", "pods_billing_t0", true, &rate, 6_397_000_000)
	f("t1, restated", "pod_running", "pods_billing_t1", true, &rate, 6_639_500_000)
	f("exited", "pod_exited", "pods_billing_t1", false, nil, 6_639_500_000)
	f("stopped", "action_stop", "pods_billing_t1", false, nil, 6_639_500_000)
}

func TestRunpodNetworkVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPods(t)
		p.Reply[rig.RunpodPodPath] = p.Body("pod_running", rig.RunpodPersistentMount, rig.RunpodNetworkMount)
		s, err := p.Provider(nil).Sample(t.Context(), p.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Lines) != 2 {
			t.Fatalf("%d lines, want 2", len(s.Lines))
		}
		l := s.Lines[1]
		if l.Resource != "volume-agv6w2qcg7" || l.Kind != ledger.Volume || !l.Running || l.Rate != nil || !l.Created.IsZero() ||
			l.Status != "" || l.Epoch != "anchor:2026-11-23T12:00:00Z" || *l.Bill != 19_200_000 ||
			!bytes.Equal(l.Raw, p.Cases["netvol_billing"].Body) {
			t.Errorf("volume = %+v, bill %s", l, *l.Bill)
		}
		if got, want := p.Calls[1].RawQuery, "bucketSize=hour&endTime=2026-11-23T12%3A25%3A00Z&networkVolumeId=agv6w2qcg7&startTime=2026-11-23T12%3A00%3A00Z"; got != want {
			t.Errorf("asked %s, want %s", got, want)
		}
		if len(p.Calls) != 3 {
			t.Errorf("%d calls, want 3", len(p.Calls))
		}
	})
}

// Replies that are well formed, and no good bill of this pod. What is malformed is for
// every adapter alike: TestMalformedText and those beside it.
func TestRunpodRefuses(t *testing.T) {
	t.Parallel()
	f := func(name, path string, h func(*rig.RunpodCloud) http.HandlerFunc, class api.Class, call string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			p := newPods(t)
			p.Reply[rig.RunpodPodPath] = p.Body("pod_running", rig.RunpodPersistentMount, rig.RunpodNetworkMount)
			p.Reply[path] = h(p)
			s, err := p.Provider(nil).Sample(t.Context(), p.Now())
			var f *api.Failure
			if !errors.As(err, &f) {
				t.Fatalf("%s: err = %v, want a failure", name, err)
			}
			if f.Class != class || f.Call != call {
				t.Errorf("%s: %q in %q (%v), want %q in %q", name, f.Class, f.Call, err, class, call)
			}
			if s.Lines != nil || !s.At.IsZero() {
				t.Errorf("%s: a failed sample holds something: %+v", name, s)
			}
			if strings.Contains(err.Error()+hint.Of(f), rig.RunpodKey) {
				t.Errorf("%s: the key is in %q", name, err)
			}
			if (class == api.HTTP401 || class == api.HTTP403) && !strings.Contains(hint.Of(f), "billing:read under RUNPOD_API_KEY_FILE") {
				t.Errorf("%s: hint %q", name, hint.Of(f))
			}
		})
	}
	replay := func(name string) func(*rig.RunpodCloud) http.HandlerFunc {
		return func(p *rig.RunpodCloud) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { p.Cases[name].Serve(w) }
		}
	}
	bill := func(name string, class api.Class, oldNew ...string) {
		t.Helper()
		f(name, rig.RunpodPodBillPath, func(p *rig.RunpodCloud) http.HandlerFunc { return p.Body("pods_billing_t0", oldNew...) }, class, rig.RunpodPodBillCall)
	}
	volume := func(name string, class api.Class, oldNew ...string) {
		t.Helper()
		f(name, rig.RunpodVolumeBillPath, func(p *rig.RunpodCloud) http.HandlerFunc { return p.Body("netvol_billing", oldNew...) }, class, rig.RunpodVolumeBillCall)
	}
	pod := func(name string, class api.Class, oldNew ...string) {
		t.Helper()
		f(name, rig.RunpodPodPath, func(p *rig.RunpodCloud) http.HandlerFunc { return p.Body("pod_running", oldNew...) }, class, rig.RunpodPodCall)
	}

	f("429", rig.RunpodPodBillPath, replay("err_429"), api.HTTP429, rig.RunpodPodBillCall)
	f("empty", rig.RunpodPodBillPath, replay("pods_billing_empty"), api.Incomplete, rig.RunpodPodBillCall)
	f("conflict", rig.RunpodPodPath, replay("action_conflict"), api.HTTP4xx, rig.RunpodPodCall)
	for _, code := range []int{401, 403} { // which have a hint
		problem := rig.Recorded{Status: code, Headers: map[string]string{"Content-Type": "application/problem+json"},
			Body: fmt.Appendf(nil, `{"title":"no","status":%d,"detail":"key %s"}`, code, rig.RunpodKey)}
		f("a problem", rig.RunpodVolumeBillPath, func(*rig.RunpodCloud) http.HandlerFunc { return rig.Answer(problem) },
			map[int]api.Class{401: api.HTTP401, 403: api.HTTP403}[code], rig.RunpodVolumeBillCall)
	}

	// Another call's reply is not this bill, however much it looks like it.
	f("volume for pod", rig.RunpodPodBillPath, replay("netvol_billing"), api.Incomplete, rig.RunpodPodBillCall)
	f("pod for volume", rig.RunpodVolumeBillPath, replay("pods_billing_t0"), api.Incomplete, rig.RunpodVolumeBillCall)
	f("list for pod", rig.RunpodPodPath, replay("pods"), api.Incomplete, rig.RunpodPodCall)
	f("pod for bill", rig.RunpodPodBillPath, replay("pod_running"), api.Incomplete, rig.RunpodPodBillCall)
	f("balance for bill", rig.RunpodPodBillPath, replay("graphql_balance"), api.Incomplete, rig.RunpodPodBillCall)
	f("errors with 200", rig.RunpodPodBillPath, replay("graphql_error"), api.Incomplete, rig.RunpodPodBillCall)

	// A total that is not the sum of its records.
	for _, n := range []string{`6.397`, `2.723`} {
		bill("a cent less than "+n, api.Malformed, `"totalAmount":`+n, `"totalAmount":`+n[:len(n)-1])
	}
	bill("sum out of range", api.Malformed, `"totalAmount":2.54`, `"totalAmount":9e9`, `"totalAmount":2.723`, `"totalAmount":9e9`, `"totalAmount":6.397`, `"totalAmount":9e9`)
	bill("a millionth and a bit", api.Malformed, `"totalAmount":6.397`, `"totalAmount":6.397001004`)
	bill("wrong currency inside", api.Currency, `"metadata":{`, `"metadata":{"currency":"EUR",`)

	// Bills of something else, or of a part.
	const ownPod, ownVolume = `"podId":"7h9k2m4n6p"`, `"networkVolumeId":"agv6w2qcg7"`
	bill("another pod", api.Malformed, ownPod, `"podId":"other"`)
	bill("another pod's record", api.Malformed, `"gpuAmount":2.51,`+ownPod, `"gpuAmount":2.51,"podId":"other"`)
	bill("a record of nobody", api.Incomplete, `"gpuAmount":2.51,`+ownPod, `"gpuAmount":2.51`)
	bill("all pods", api.Incomplete, `"endTime":"2026-11-23T13:00:00Z",`+ownPod+`,"start`, `"endTime":"2026-11-23T13:00:00Z","podId":null,"start`)
	volume("another volume", api.Malformed, ownVolume, `"networkVolumeId":"other"`)
	bill("one record too few", api.Incomplete, `"recordCount":3`, `"recordCount":4`)
	bill("null record", api.Incomplete, `"records":[`, `"records":[null,`, `"recordCount":3`, `"recordCount":4`)

	// Windows that are not the one asked for.
	bill("by the day", api.Malformed, `"bucketSize":"hour"`, `"bucketSize":"day"`)
	bill("snapped start", api.Malformed, `"startTime":"2026-11-23T10:00:00Z"},`, `"startTime":"2026-11-23T00:00:00Z"},`)
	bill("cut end", api.Malformed, `{"bucketSize":"hour","endTime":"2026-11-23T13:00:00Z"`, `{"bucketSize":"hour","endTime":"2026-11-23T12:00:00Z"`)
	bill("unreadable start", api.Malformed, `"startTime":"2026-11-23T10:00:00Z"`, `"startTime":"`+rig.RunpodKey+`"`)
	bill("start without a zone", api.Malformed, `"startTime":"2026-11-23T10:00:00Z"`, `"startTime":"2026-11-23T10:00:00"`)
	bill("null start", api.Incomplete, `"startTime":"2026-11-23T11:00:00Z"`, `"startTime":null`)
	bill("record before the window", api.Malformed, `"2026-11-23T11:00:00Z","gpuAmount":2.51`, `"2026-11-23T10:00:00Z","gpuAmount":2.51`,
		`"startTime":"2026-11-23T10:00:00Z","totalAmount":2.54`, `"startTime":"2026-11-23T09:00:00Z","totalAmount":2.54`)
	bill("record after the window", api.Malformed, `"endTime":"2026-11-23T13:00:00Z","gpu`, `"endTime":"2026-11-23T14:00:00Z","gpu`,
		`"startTime":"2026-11-23T12:00:00Z"`, `"startTime":"2026-11-23T13:00:00Z"`)
	bill("record of two hours", api.Malformed, `"endTime":"2026-11-23T13:00:00Z","gpu`, `"endTime":"2026-11-23T14:00:00Z","gpu`)
	bill("record off the hour", api.Malformed, `"endTime":"2026-11-23T12:00:00Z","gpu`, `"endTime":"2026-11-23T12:30:00Z","gpu`,
		`"startTime":"2026-11-23T11:00:00Z"`, `"startTime":"2026-11-23T11:30:00Z"`)
	bill("an hour twice", api.Malformed, `"endTime":"2026-11-23T12:00:00Z","gpu`, `"endTime":"2026-11-23T11:00:00Z","gpu`,
		`"startTime":"2026-11-23T11:00:00Z"`, `"startTime":"2026-11-23T10:00:00Z"`)

	// A pod that cannot be read, or whose bill is not in its bill.
	pod("another pod", api.Malformed, `"id":"7h9k2m4n6p"`, `"id":"other"`)
	pod("unreadable birth", api.Malformed, `"createdAt":"2026-11-23T10:02:11Z"`, `"createdAt":"`+rig.RunpodKey+`"`)
	f("born in a minute", rig.RunpodPodPath, func(p *rig.RunpodCloud) http.HandlerFunc {
		return p.Body("pod_running", `"createdAt":"2026-11-23T10:02:11Z"`, `"createdAt":"2026-11-23T12:26:00Z"`)
	}, api.Incomplete, "")
	pod("mount without a volume", api.Incomplete, rig.RunpodPersistentMount, `"mounts":{"network":[{"path":"/workspace"}]}`)
	pod("volume that is none", api.Malformed, rig.RunpodPersistentMount, `"mounts":{"network":[{"volumeId":"../pods"}]}`)
	pod("the key as a volume", api.Malformed, rig.RunpodPersistentMount, `"mounts":{"network":[{"volumeId":"`+rig.RunpodKey+`"}]}`)
	pod("mounts in words", api.Malformed, rig.RunpodPersistentMount, `"mounts":"none"`)
	pod("part of a cluster", api.Incomplete, `"cloud":`, `"cluster":{"id":"c1"},"cloud":`)
}

// What is odd and still a good bill.
func TestRunpodAccepts(t *testing.T) {
	t.Parallel()
	f := func(name, path, from string, oldNew []string, check func(ledger.Line) bool) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			p := newPods(t)
			p.Reply[path] = p.Body(from, oldNew...)
			s, err := p.Provider(nil).Sample(t.Context(), p.Now())
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			if !check(s.Lines[0]) {
				t.Errorf("%s: %+v", name, s.Lines[0])
			}
		})
	}
	bill := func(name string, want ledger.Nanos, oldNew ...string) {
		t.Helper()
		f(name, rig.RunpodPodBillPath, "pods_billing_t0", oldNew, func(l ledger.Line) bool { return *l.Bill == want })
	}
	bill("numeric strings", 6_397_000_000, `"totalAmount":6.397`, `"totalAmount":"6.397"`, `"totalAmount":2.54`, `"totalAmount":"2.54"`)
	bill("exponent", 6_397_000_000, `"totalAmount":6.397`, `"totalAmount":639.7e-2`)
	bill("noise of a double", 6_397_000_000, `"totalAmount":6.397`, `"totalAmount":6.396999999999999`)
	bill("a millionth", 6_397_001_000, `"totalAmount":6.397`, `"totalAmount":6.397001`)
	bill("an hour that cost nothing", 3_857_000_000, `"totalAmount":2.54`, `"totalAmount":0`, `"totalAmount":6.397`, `"totalAmount":3.857`)
	bill("an hour without a record", 3_857_000_000, `{"cpuAmount":0,"diskAmount":0.03,"endTime":"2026-11-23T11:00:00Z","gpuAmount":2.51,"podId":"7h9k2m4n6p","startTime":"2026-11-23T10:00:00Z","totalAmount":2.54},`, ``,
		`"recordCount":3`, `"recordCount":2`, `"totalAmount":6.397`, `"totalAmount":3.857`)
	bill("another zone", 6_397_000_000, `"startTime":"2026-11-23T10:00:00Z"`, `"startTime":"2026-11-23T11:00:00+01:00"`)
	bill("currency", 6_397_000_000, `"records":`, `"currency":"usd","records":`)

	pod := func(name string, old, new string, running bool, rate bool) {
		t.Helper()
		f(name, rig.RunpodPodPath, "pod_running", []string{old, new}, func(l ledger.Line) bool { return l.Running == running && (l.Rate != nil) == rate })
	}
	const status = `"status":"RUNNING"`
	pod("lower case", status, `"status":"running"`, true, true)
	pod("provisioning", status, `"status":"PROVISIONING"`, false, true)
	pod("starting", status, `"status":"STARTING"`, false, true)
	pod("error", status, `"status":"ERROR"`, false, true)
	pod("terminated", status, `"status":"TERMINATED"`, false, true)
	pod("unknown word", status, `"status":"MIGRATING"`, true, true)
	pod("no cost", `"cost":2.69,`, ``, true, false)
	pod("null cost", `"cost":2.69`, `"cost":null`, true, false)
	pod("runs for nothing", `"cost":2.69`, `"cost":0.0`, true, false)
	pod("no cluster", `"cloud":`, `"cluster":null,"cloud":`, true, true)
	pod("no disk of any kind", rig.RunpodPersistentMount, `"mounts":{}`, true, true)
}
