package billing_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/internal/hint"
	"spotinference/ledger"
)

func TestRunpodSample(t *testing.T) {
	f := func(name, pod, bill string, running bool, rate *ledger.Nanos, want ledger.Nanos) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			p := newPods(t)
			p.bill = bill
			p.reply[podPath] = func(w http.ResponseWriter, _ *http.Request) { p.cases[pod].serve(w) }
			s, err := p.provider(nil).Sample(t.Context(), p.now().Add(300*time.Millisecond))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			if !s.At.Equal(when(t, "2026-11-23T12:25:00Z")) || s.At.Location() != time.UTC || s.Provider != "runpod" || s.Account != "" ||
				s.Currency != "USD" || s.Truth != ledger.TruthResource || s.Step != 5*time.Minute || s.Lag != 15*time.Minute || s.Calibrated {
				t.Errorf("%s: sample = %+v", name, s)
			}
			if len(s.Lines) != 1 {
				t.Fatalf("%s: %d lines, want 1", name, len(s.Lines))
			}
			l := s.Lines[0]
			if l.Resource != "pod-7h9k2m4n6p" || l.Kind != ledger.Instance || l.Running != running ||
				!l.Created.Equal(when(t, "2026-11-23T10:02:11Z")) || l.Epoch != "anchor:2026-11-23T10:00:00Z" {
				t.Errorf("%s: pod = %+v", name, l)
			}
			if *l.Bill != want {
				t.Errorf("%s: bill %s, want %s", name, *l.Bill, want)
			}
			if (l.Rate == nil) != (rate == nil) || rate != nil && *l.Rate != *rate {
				t.Errorf("%s: rate %v, want %v", name, l.Rate, rate)
			}
			if !bytes.Equal(l.Raw, p.cases[bill].Body) {
				t.Errorf("%s: the raw reply is not the one that came", name)
			}
			// Both ends of the window are sent.
			if got, want := p.calls[1].RawQuery, "bucketSize=hour&endTime=2026-11-23T12%3A25%3A00Z&podId=7h9k2m4n6p&startTime=2026-11-23T10%3A00%3A00Z"; got != want {
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
		p.reply[podPath] = p.body("pod_running", persistentMount, networkMount)
		s, err := p.provider(nil).Sample(t.Context(), p.now())
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Lines) != 2 {
			t.Fatalf("%d lines, want 2", len(s.Lines))
		}
		l := s.Lines[1]
		if l.Resource != "volume-agv6w2qcg7" || l.Kind != ledger.Volume || !l.Running || l.Rate != nil || !l.Created.IsZero() ||
			l.Status != "" || l.Epoch != "anchor:2026-11-23T12:00:00Z" || *l.Bill != 19_200_000 ||
			!bytes.Equal(l.Raw, p.cases["netvol_billing"].Body) {
			t.Errorf("volume = %+v, bill %s", l, *l.Bill)
		}
		if got, want := p.calls[1].RawQuery, "bucketSize=hour&endTime=2026-11-23T12%3A25%3A00Z&networkVolumeId=agv6w2qcg7&startTime=2026-11-23T12%3A00%3A00Z"; got != want {
			t.Errorf("asked %s, want %s", got, want)
		}
		if len(p.calls) != 3 {
			t.Errorf("%d calls, want 3", len(p.calls))
		}
	})
}

// Replies that are well formed, and no good bill of this pod. What is malformed is for
// every adapter alike: TestMalformedText and those beside it.
func TestRunpodRefuses(t *testing.T) {
	f := func(name, path string, h func(*pods) http.HandlerFunc, class billing.Class, call string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			p := newPods(t)
			p.reply[podPath] = p.body("pod_running", persistentMount, networkMount)
			p.reply[path] = h(p)
			s, err := p.provider(nil).Sample(t.Context(), p.now())
			var f *billing.Failure
			if !errors.As(err, &f) {
				t.Fatalf("%s: err = %v, want a failure", name, err)
			}
			if f.Class != class || f.Call != call {
				t.Errorf("%s: %q in %q (%v), want %q in %q", name, f.Class, f.Call, err, class, call)
			}
			if s.Lines != nil || !s.At.IsZero() {
				t.Errorf("%s: a failed sample holds something: %+v", name, s)
			}
			if strings.Contains(err.Error()+hint.Of(f), runpodTestKey) {
				t.Errorf("%s: the key is in %q", name, err)
			}
			if (class == billing.HTTP401 || class == billing.HTTP403) && !strings.Contains(hint.Of(f), "billing:read under RUNPOD_API_KEY_FILE") {
				t.Errorf("%s: hint %q", name, hint.Of(f))
			}
		})
	}
	replay := func(name string) func(*pods) http.HandlerFunc {
		return func(p *pods) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { p.cases[name].serve(w) }
		}
	}
	bill := func(name string, class billing.Class, oldNew ...string) {
		t.Helper()
		f(name, podBillPath, func(p *pods) http.HandlerFunc { return p.body("pods_billing_t0", oldNew...) }, class, getPodBill)
	}
	volume := func(name string, class billing.Class, oldNew ...string) {
		t.Helper()
		f(name, netvolBillPath, func(p *pods) http.HandlerFunc { return p.body("netvol_billing", oldNew...) }, class, getNetvolBill)
	}
	pod := func(name string, class billing.Class, oldNew ...string) {
		t.Helper()
		f(name, podPath, func(p *pods) http.HandlerFunc { return p.body("pod_running", oldNew...) }, class, getPod)
	}

	f("429", podBillPath, replay("err_429"), billing.HTTP429, getPodBill)
	f("empty", podBillPath, replay("pods_billing_empty"), billing.Incomplete, getPodBill)
	f("conflict", podPath, replay("action_conflict"), billing.HTTP4xx, getPod)
	for _, code := range []int{401, 403} { // which have a hint
		problem := recorded{Status: code, Headers: map[string]string{"Content-Type": "application/problem+json"},
			Body: fmt.Appendf(nil, `{"title":"no","status":%d,"detail":"key %s"}`, code, runpodTestKey)}
		f("a problem", netvolBillPath, func(*pods) http.HandlerFunc { return answer(problem) },
			map[int]billing.Class{401: billing.HTTP401, 403: billing.HTTP403}[code], getNetvolBill)
	}

	// Another call's reply is not this bill, however much it looks like it.
	f("volume for pod", podBillPath, replay("netvol_billing"), billing.Incomplete, getPodBill)
	f("pod for volume", netvolBillPath, replay("pods_billing_t0"), billing.Incomplete, getNetvolBill)
	f("list for pod", podPath, replay("pods"), billing.Incomplete, getPod)
	f("pod for bill", podBillPath, replay("pod_running"), billing.Incomplete, getPodBill)
	f("balance for bill", podBillPath, replay("graphql_balance"), billing.Incomplete, getPodBill)
	f("errors with 200", podBillPath, replay("graphql_error"), billing.Incomplete, getPodBill)

	// A total that is not the sum of its records.
	for _, n := range []string{`6.397`, `2.723`} {
		bill("a cent less than "+n, billing.Malformed, `"totalAmount":`+n, `"totalAmount":`+n[:len(n)-1])
	}
	bill("sum out of range", billing.Malformed, `"totalAmount":2.54`, `"totalAmount":9e9`, `"totalAmount":2.723`, `"totalAmount":9e9`, `"totalAmount":6.397`, `"totalAmount":9e9`)
	bill("a millionth and a bit", billing.Malformed, `"totalAmount":6.397`, `"totalAmount":6.397001004`)
	bill("wrong currency inside", billing.Currency, `"metadata":{`, `"metadata":{"currency":"EUR",`)

	// Bills of something else, or of a part.
	const ownPod, ownVolume = `"podId":"7h9k2m4n6p"`, `"networkVolumeId":"agv6w2qcg7"`
	bill("another pod", billing.Malformed, ownPod, `"podId":"other"`)
	bill("another pod's record", billing.Malformed, `"gpuAmount":2.51,`+ownPod, `"gpuAmount":2.51,"podId":"other"`)
	bill("a record of nobody", billing.Incomplete, `"gpuAmount":2.51,`+ownPod, `"gpuAmount":2.51`)
	bill("all pods", billing.Incomplete, `"endTime":"2026-11-23T13:00:00Z",`+ownPod+`,"start`, `"endTime":"2026-11-23T13:00:00Z","podId":null,"start`)
	volume("another volume", billing.Malformed, ownVolume, `"networkVolumeId":"other"`)
	bill("one record too few", billing.Incomplete, `"recordCount":3`, `"recordCount":4`)
	bill("null record", billing.Incomplete, `"records":[`, `"records":[null,`, `"recordCount":3`, `"recordCount":4`)

	// Windows that are not the one asked for.
	bill("by the day", billing.Malformed, `"bucketSize":"hour"`, `"bucketSize":"day"`)
	bill("snapped start", billing.Malformed, `"startTime":"2026-11-23T10:00:00Z"},`, `"startTime":"2026-11-23T00:00:00Z"},`)
	bill("cut end", billing.Malformed, `{"bucketSize":"hour","endTime":"2026-11-23T13:00:00Z"`, `{"bucketSize":"hour","endTime":"2026-11-23T12:00:00Z"`)
	bill("unreadable start", billing.Malformed, `"startTime":"2026-11-23T10:00:00Z"`, `"startTime":"`+runpodTestKey+`"`)
	bill("start without a zone", billing.Malformed, `"startTime":"2026-11-23T10:00:00Z"`, `"startTime":"2026-11-23T10:00:00"`)
	bill("null start", billing.Incomplete, `"startTime":"2026-11-23T11:00:00Z"`, `"startTime":null`)
	bill("record before the window", billing.Malformed, `"2026-11-23T11:00:00Z","gpuAmount":2.51`, `"2026-11-23T10:00:00Z","gpuAmount":2.51`,
		`"startTime":"2026-11-23T10:00:00Z","totalAmount":2.54`, `"startTime":"2026-11-23T09:00:00Z","totalAmount":2.54`)
	bill("record after the window", billing.Malformed, `"endTime":"2026-11-23T13:00:00Z","gpu`, `"endTime":"2026-11-23T14:00:00Z","gpu`,
		`"startTime":"2026-11-23T12:00:00Z"`, `"startTime":"2026-11-23T13:00:00Z"`)
	bill("record of two hours", billing.Malformed, `"endTime":"2026-11-23T13:00:00Z","gpu`, `"endTime":"2026-11-23T14:00:00Z","gpu`)
	bill("record off the hour", billing.Malformed, `"endTime":"2026-11-23T12:00:00Z","gpu`, `"endTime":"2026-11-23T12:30:00Z","gpu`,
		`"startTime":"2026-11-23T11:00:00Z"`, `"startTime":"2026-11-23T11:30:00Z"`)
	bill("an hour twice", billing.Malformed, `"endTime":"2026-11-23T12:00:00Z","gpu`, `"endTime":"2026-11-23T11:00:00Z","gpu`,
		`"startTime":"2026-11-23T11:00:00Z"`, `"startTime":"2026-11-23T10:00:00Z"`)

	// A pod that cannot be read, or whose bill is not in its bill.
	pod("another pod", billing.Malformed, `"id":"7h9k2m4n6p"`, `"id":"other"`)
	pod("unreadable birth", billing.Malformed, `"createdAt":"2026-11-23T10:02:11Z"`, `"createdAt":"`+runpodTestKey+`"`)
	f("born in a minute", podPath, func(p *pods) http.HandlerFunc {
		return p.body("pod_running", `"createdAt":"2026-11-23T10:02:11Z"`, `"createdAt":"2026-11-23T12:26:00Z"`)
	}, billing.Incomplete, "")
	pod("mount without a volume", billing.Incomplete, persistentMount, `"mounts":{"network":[{"path":"/workspace"}]}`)
	pod("volume that is none", billing.Malformed, persistentMount, `"mounts":{"network":[{"volumeId":"../pods"}]}`)
	pod("the key as a volume", billing.Malformed, persistentMount, `"mounts":{"network":[{"volumeId":"`+runpodTestKey+`"}]}`)
	pod("mounts in words", billing.Malformed, persistentMount, `"mounts":"none"`)
	pod("part of a cluster", billing.Incomplete, `"cloud":`, `"cluster":{"id":"c1"},"cloud":`)
}

// What is odd and still a good bill.
func TestRunpodAccepts(t *testing.T) {
	f := func(name, path, from string, oldNew []string, check func(ledger.Line) bool) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			p := newPods(t)
			p.reply[path] = p.body(from, oldNew...)
			s, err := p.provider(nil).Sample(t.Context(), p.now())
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
		f(name, podBillPath, "pods_billing_t0", oldNew, func(l ledger.Line) bool { return *l.Bill == want })
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
		f(name, podPath, "pod_running", []string{old, new}, func(l ledger.Line) bool { return l.Running == running && (l.Rate != nil) == rate })
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
	pod("no disk of any kind", persistentMount, `"mounts":{}`, true, true)
}
