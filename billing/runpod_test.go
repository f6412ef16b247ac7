package billing_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/sim"
	"spotinference/ledger"
)

// runpodTestKey has the form of an id: the key could be mistaken for one.
const runpodTestKey = "rpa_TEST0F3B2A1C9D8E7F6A5B4C3D2E1F"

const (
	podPath        = "/v2/pods/7h9k2m4n6p"
	podBillPath    = "/v2/billing/pods"
	netvolBillPath = "/v2/billing/network-volumes"
	getPod         = "GET /v2/pods/{id}"
	getPodBill     = "GET /v2/billing/pods"
	getNetvolBill  = "GET /v2/billing/network-volumes"

	persistentMount = `"mounts":{"persistent":{"path":"/workspace","size":200}}`
	networkMount    = `"mounts":{"network":[{"path":"/workspace","volumeId":"agv6w2qcg7"}]}`
)

// pods answers as testdata/runpod.json has it, for windows that end at 13:00. Each
// test says what differs.
type pods struct {
	t     testing.TB
	now   func() time.Time
	cases map[string]recorded
	reply map[string]http.HandlerFunc // by path, before the recordings
	bill  string                      // recording of the pod's bill
	calls []*url.URL
}

func newPods(t testing.TB) *pods {
	t.Helper()
	b, err := os.ReadFile("testdata/runpod.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []recorded }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	p := &pods{t: t, now: lunch(), cases: make(map[string]recorded), reply: make(map[string]http.HandlerFunc), bill: "pods_billing_t0"}
	for _, c := range file.Cases {
		p.cases[c.Name] = c
	}
	return p
}

// lunch carries the time of the recordings on by the (often faked) clock.
func lunch() func() time.Time {
	start := time.Now()
	return func() time.Time {
		return time.Date(2026, 11, 23, 12, 25, 0, 0, time.UTC).Add(time.Since(start))
	}
}

func (p *pods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.calls = append(p.calls, r.URL)
	w.Header().Set("Date", p.now().UTC().Format(http.TimeFormat))
	if r.Header.Get("Authorization") != "Bearer "+runpodTestKey {
		p.t.Errorf("%s: without the key", r.URL.Path)
	}
	if h := p.reply[r.URL.Path]; h != nil {
		h(w, r)
		return
	}
	switch r.URL.Path {
	case podPath:
		p.cases["pod_running"].serve(w)
	case podBillPath:
		p.cases[p.bill].serve(w)
	case netvolBillPath:
		p.cases["netvol_billing"].serve(w)
	default:
		p.t.Errorf("unexpected call of %s", r.URL.Path)
	}
}

// body answers 200 with a recording in which each old is replaced by the new after it.
func (p *pods) body(name string, oldNew ...string) http.HandlerFunc {
	p.t.Helper()
	var v any
	d := json.NewDecoder(bytes.NewReader(p.cases[name].Body))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		p.t.Fatal(err)
	}
	b, err := json.Marshal(v) // with sorted keys
	if err != nil {
		p.t.Fatal(err)
	}
	s := string(b)
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(s, oldNew[i]) {
			p.t.Fatalf("recording %s does not contain %q: %s", name, oldNew[i], s)
		}
		s = strings.ReplaceAll(s, oldNew[i], oldNew[i+1])
	}
	return func(w http.ResponseWriter, _ *http.Request) { recorded{Status: 200, Body: []byte(s)}.serve(w) }
}

// anchored gives each resource the start that its recording has.
type anchored map[string]string

func (a anchored) Newest(resource string) (string, *ledger.Nanos, bool) {
	at, ok := a[resource]
	return "anchor:" + at, nil, ok
}

var runpodAnchors = anchored{"pod-7h9k2m4n6p": "2026-11-23T10:00:00Z", "volume-agv6w2qcg7": "2026-11-23T12:00:00Z"}

func (p *pods) provider(change func(*billing.Options)) billing.Provider {
	p.t.Helper()
	opts := billing.Options{
		URL:       "https://runpod.test",
		Instance:  "7h9k2m4n6p",
		Getenv:    getenv(map[string]string{"RUNPOD_API_KEY": runpodTestKey}),
		Anchors:   runpodAnchors,
		Transport: direct{p},
	}
	if change != nil {
		change(&opts)
	}
	provider, err := billing.New("runpod", opts)
	if err != nil {
		p.t.Fatal(err)
	}
	return provider
}

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

// Every reply that is not a good bill is a failure of its class, and no number.
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
			if strings.Contains(err.Error()+f.Hint(), runpodTestKey) {
				t.Errorf("%s: the key is in %q", name, err)
			}
			if (class == billing.HTTP401 || class == billing.HTTP403) && !strings.Contains(f.Hint(), "billing:read under RUNPOD_API_KEY_FILE") {
				t.Errorf("%s: hint %q", name, f.Hint())
			}
		})
	}
	as := func(r recorded) func(*pods) http.HandlerFunc {
		return func(*pods) http.HandlerFunc { return func(w http.ResponseWriter, _ *http.Request) { r.serve(w) } }
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

	// As recorded, and the other codes.
	f("429", podBillPath, replay("err_429"), billing.HTTP429, getPodBill)
	f("empty", podBillPath, replay("pods_billing_empty"), billing.Incomplete, getPodBill)
	f("conflict", podPath, replay("action_conflict"), billing.HTTP4xx, getPod)
	problem := func(code int) func(*pods) http.HandlerFunc {
		return as(recorded{Status: code, Headers: map[string]string{"Content-Type": "application/problem+json"},
			Body: fmt.Appendf(nil, `{"title":"no","status":%d,"detail":"key %s"}`, code, runpodTestKey)})
	}
	f("401", podBillPath, problem(401), billing.HTTP401, getPodBill)
	f("402", podBillPath, problem(402), billing.HTTP4xx, getPodBill)
	f("403", podBillPath, problem(403), billing.HTTP403, getPodBill)
	f("403", netvolBillPath, problem(403), billing.HTTP403, getNetvolBill)
	f("404", podPath, problem(404), billing.HTTP4xx, getPod)
	f("410", podPath, problem(410), billing.HTTP4xx, getPod)
	f("422", podBillPath, problem(422), billing.HTTP4xx, getPodBill)
	f("500", podBillPath, problem(500), billing.HTTP5xx, getPodBill)
	f("problem with 200", podBillPath, problem(200), billing.Malformed, getPodBill)
	f("moved", podPath, as(recorded{Status: 301, Headers: map[string]string{"Location": "https://elsewhere.test/"}}), billing.Redirect, getPod)

	// Another call's reply is not this bill, however much it looks like it.
	f("volume for pod", podBillPath, replay("netvol_billing"), billing.Incomplete, getPodBill)
	f("pod for volume", netvolBillPath, replay("pods_billing_t0"), billing.Incomplete, getNetvolBill)
	f("list for pod", podPath, replay("pods"), billing.Incomplete, getPod)
	f("pod for bill", podBillPath, replay("pod_running"), billing.Incomplete, getPodBill)
	f("balance for bill", podBillPath, replay("graphql_balance"), billing.Incomplete, getPodBill)
	f("errors with 200", podBillPath, replay("graphql_error"), billing.Incomplete, getPodBill)

	// Numbers that are none, in the total and in a record.
	for _, n := range []string{`6.397`, `2.723`} {
		amount := `"totalAmount":` + n
		bill("missing "+n, billing.Incomplete, amount, `"other":1`)
		bill("null "+n, billing.Incomplete, amount, `"totalAmount":null`)
		for _, bad := range []string{`NaN`, `"NaN"`, `"Inf"`, `1e400`, `"1e400"`, `9300000000`, `-0.5`, `"a lot"`, `""`, `"0x10"`,
			`"1/2"`, `"1 2"`, `{"usd":1}`, `[1]`, `true`} {
			bill(bad+" for "+n, billing.Malformed, amount, `"totalAmount":`+bad)
		}
		bill("a cent less than "+n, billing.Malformed, amount, `"totalAmount":`+n[:len(n)-1])
	}
	volume("missing", billing.Incomplete, `"totalAmount":0.0192`, `"other":1`)
	bill("sum out of range", billing.Malformed, `"totalAmount":2.54`, `"totalAmount":9e9`, `"totalAmount":2.723`, `"totalAmount":9e9`, `"totalAmount":6.397`, `"totalAmount":9e9`)
	bill("a millionth and a bit", billing.Malformed, `"totalAmount":6.397`, `"totalAmount":6.397001004`)
	bill("wrong currency", billing.Currency, `"records":`, `"currency":"EUR","records":`)
	bill("wrong currency inside", billing.Currency, `"metadata":{`, `"metadata":{"currency":"EUR",`)

	// Bills of something else, or of a part.
	const ownPod, ownVolume = `"podId":"7h9k2m4n6p"`, `"networkVolumeId":"agv6w2qcg7"`
	bill("another pod", billing.Malformed, ownPod, `"podId":"other"`)
	bill("another pod's record", billing.Malformed, `"gpuAmount":2.51,`+ownPod, `"gpuAmount":2.51,"podId":"other"`)
	bill("a record of nobody", billing.Incomplete, `"gpuAmount":2.51,`+ownPod, `"gpuAmount":2.51`)
	bill("all pods", billing.Incomplete, `"endTime":"2026-11-23T13:00:00Z",`+ownPod+`,"start`, `"endTime":"2026-11-23T13:00:00Z","podId":null,"start`)
	volume("another volume", billing.Malformed, ownVolume, `"networkVolumeId":"other"`)
	bill("one record too few", billing.Incomplete, `"recordCount":3`, `"recordCount":4`)
	bill("no count", billing.Incomplete, `"recordCount":3,`, ``)
	bill("no totals", billing.Incomplete, `"totals":`, `"total":`)
	bill("no metadata", billing.Incomplete, `"metadata":`, `"meta":`)
	bill("no query", billing.Incomplete, `"query":`, `"asked":`)
	bill("no records", billing.Incomplete, `"records":`, `"rows":`)
	bill("null records", billing.Incomplete, `"records":[`, `"records":null,"rows":[`)
	bill("null record", billing.Incomplete, `"records":[`, `"records":[null,`, `"recordCount":3`, `"recordCount":4`)

	// Windows that are not the one asked for.
	bill("by the day", billing.Malformed, `"bucketSize":"hour"`, `"bucketSize":"day"`)
	bill("no bucket", billing.Incomplete, `"bucketSize":"hour",`, ``)
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

	// No JSON, or not all of it.
	bill("truncated", billing.Malformed, `}]}`, ``)
	bill("more after it", billing.Malformed, `}]}`, `}]}{}`)
	f("nothing", podBillPath, as(recorded{Status: 200}), billing.Malformed, getPodBill)
	f("a list", podBillPath, as(recorded{Status: 200, Body: []byte(`[]`)}), billing.Malformed, getPodBill)
	f("null", podBillPath, as(recorded{Status: 200, Body: []byte(`null`)}), billing.Incomplete, getPodBill)
	f("HTML", podBillPath, as(recorded{Status: 200, Headers: map[string]string{"Content-Type": "text/html"}, Text: "<html>"}), billing.Malformed, getPodBill)
	f("HTML that says JSON", podBillPath, as(recorded{Status: 200, Text: "<html>"}), billing.Malformed, getPodBill)
	f("huge", podBillPath, as(recorded{Status: 200, Text: "{" + strings.Repeat(" ", 5<<20) + "}"}), billing.TooLarge, getPodBill)
	f("hang", podBillPath, func(*pods) http.HandlerFunc {
		return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	}, billing.Timeout, getPodBill)
	f("broken off", podBillPath, func(*pods) http.HandlerFunc {
		return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	}, billing.Network, getPodBill)
	f("another clock", podBillPath, func(p *pods) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", p.now().Add(2*time.Minute).UTC().Format(http.TimeFormat))
			p.cases["pods_billing_t0"].serve(w)
		}
	}, billing.ClockSkew, getPodBill)

	// A pod that cannot be read, or whose bill is not in its bill.
	pod("no id", billing.Incomplete, `"id":"7h9k2m4n6p",`, ``)
	pod("another pod", billing.Malformed, `"id":"7h9k2m4n6p"`, `"id":"other"`)
	pod("no status", billing.Incomplete, `"status":"RUNNING",`, ``)
	pod("no birth", billing.Incomplete, `"createdAt":`, `"created":`)
	pod("unreadable birth", billing.Malformed, `"createdAt":"2026-11-23T10:02:11Z"`, `"createdAt":"`+runpodTestKey+`"`)
	f("born in a minute", podPath, func(p *pods) http.HandlerFunc {
		return p.body("pod_running", `"createdAt":"2026-11-23T10:02:11Z"`, `"createdAt":"2026-11-23T12:26:00Z"`)
	}, billing.Incomplete, "")
	pod("no mounts", billing.Incomplete, persistentMount, `"other":{}`)
	pod("null mounts", billing.Incomplete, persistentMount, `"mounts":null`)
	pod("mount without a volume", billing.Incomplete, persistentMount, `"mounts":{"network":[{"path":"/workspace"}]}`)
	pod("volume that is none", billing.Malformed, persistentMount, `"mounts":{"network":[{"volumeId":"../pods"}]}`)
	pod("the key as a volume", billing.Malformed, persistentMount, `"mounts":{"network":[{"volumeId":"`+runpodTestKey+`"}]}`)
	pod("mounts in words", billing.Malformed, persistentMount, `"mounts":"none"`)
	pod("part of a cluster", billing.Incomplete, `"cloud":`, `"cluster":{"id":"c1"},"cloud":`)
	pod("cost in words", billing.Malformed, `"cost":2.69`, `"cost":"on request"`)
	pod("cost below zero", billing.Malformed, `"cost":2.69`, `"cost":-2.69`)
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

// The sample is of the time at which the bill came, not of that at which it was
// asked for: there is no asking for a bill as of a second.
func TestRunpodAt(t *testing.T) {
	f := func(name string, before time.Duration, failures int, want string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			p := newPods(t)
			time.Sleep(before)
			calls := 0
			p.reply[podBillPath] = func(w http.ResponseWriter, _ *http.Request) {
				if calls++; calls <= failures {
					recorded{Status: 429, Headers: map[string]string{"Retry-After": "3"}}.serve(w)
					return
				}
				p.cases["pods_billing_t0"].serve(w)
			}
			provider := p.provider(nil)
			s, err := provider.Sample(t.Context(), p.now())
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := s.At.Format(time.TimeOnly); got != want {
				t.Errorf("%s: At = %s, want %s", name, got, want)
			}
			_, err = provider.Sample(t.Context(), s.At.Add(900*time.Millisecond))
			wantClass(t, err, billing.ClockSkew)
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
	f := func(at, asked string, want billing.Class) {
		t.Helper()
		p := newPods(t)
		now := when(t, at)
		p.now = func() time.Time { return now }
		_, err := p.provider(nil).Sample(t.Context(), now)
		if got := p.calls[1].Query().Get("endTime"); got != asked {
			t.Errorf("at %s: asked up to %s, want %s", at, got, asked)
		}
		if want == "" && err != nil {
			t.Errorf("at %s: %v", at, err)
		} else if want != "" {
			wantClass(t, err, want)
		}
	}
	f("2026-11-23T12:00:01.9Z", "2026-11-23T12:00:01Z", "")
	f("2026-11-23T12:59:59.9Z", "2026-11-23T12:59:59Z", "")
	f("2026-11-23T13:00:00.9Z", "2026-11-23T13:00:00Z", "")
	f("2026-11-23T18:15:00+05:30", "2026-11-23T12:45:00Z", "")
	f("2026-11-23T12:00:00Z", "2026-11-23T12:00:00Z", billing.Malformed)
	f("2026-11-23T13:00:01Z", "2026-11-23T13:00:01Z", billing.Malformed)
}

func TestRunpodBoundary(t *testing.T) {
	p := newPods(t)
	now := when(t, "2026-11-23T14:25:00Z")
	p.now = func() time.Time { return now }
	b, ok := p.provider(nil).(billing.Boundary)
	if !ok {
		t.Fatal("runpod can be asked for the past")
	}
	one := when(t, "2026-11-23T14:00:00+01:00")
	s, err := b.SampleAt(t.Context(), one, now)
	if err != nil {
		t.Fatal(err)
	}
	l := s.Lines[0]
	if !s.At.Equal(one) || s.At.Location() != time.UTC || *l.Bill != 6_397_000_000 || l.Rate != nil || l.Status != "" || l.Running {
		t.Errorf("sample = %+v", s)
	}
	f := func(at string, want billing.Class) {
		t.Helper()
		_, err := b.SampleAt(t.Context(), when(t, at), now)
		wantClass(t, err, want)
	}
	f("2026-11-23T13:00:01Z", billing.Incomplete) // there is no such bucket
	f("2026-11-23T13:30:00Z", billing.Incomplete) // a midnight in Kolkata
	f("2026-11-23T15:00:00Z", billing.Internal)   // to come
	f("2026-11-23T10:00:00Z", billing.Incomplete) // before its birth
	f("2026-11-23T12:00:00Z", billing.Malformed)  // the recording is of another window
}

func TestRunpodAnchor(t *testing.T) {
	f := func(name, born, now string, stored billing.Anchors, want string) {
		t.Helper()
		p := newPods(t)
		at := when(t, now)
		p.now = func() time.Time { return at }
		p.reply[podPath] = p.body("pod_running", "2026-11-23T10:02:11Z", born, persistentMount, networkMount)
		asked := map[string]string{}
		ask := func(w http.ResponseWriter, r *http.Request) {
			id := r.FormValue("podId") + r.FormValue("networkVolumeId")
			asked[id] = r.FormValue("startTime")
			owner := "podId"
			if r.URL.Path == netvolBillPath {
				owner = "networkVolumeId"
			}
			start, err := time.Parse(time.RFC3339, r.FormValue("startTime"))
			if err != nil {
				t.Error(err)
			}
			recorded{Status: 200, Body: fmt.Appendf(nil, `{"records":[{"startTime":%[1]q,"endTime":%[2]q,%[3]q:%[4]q,"totalAmount":1}],
				"metadata":{"query":{"startTime":%[1]q,"endTime":%[5]q,"bucketSize":"hour",%[3]q:%[4]q},"recordCount":1,"totals":{"totalAmount":1}}}`,
				r.FormValue("startTime"), start.Add(time.Hour).Format(time.RFC3339), owner, id, at.Add(time.Hour-1).Truncate(time.Hour).UTC().Format(time.RFC3339))}.serve(w)
		}
		p.reply[podBillPath], p.reply[netvolBillPath] = ask, ask
		provider := p.provider(func(o *billing.Options) { o.Anchors = stored })
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
	f("stored", "2026-03-22T10:58:31Z", "2026-11-23T12:00:00Z", fixedAnchor(when(t, "2026-06-01T00:00:00Z")), "anchor:2026-06-01T00:00:00Z anchor:2026-06-01T00:00:00Z")

	bad := func(anchor string, want billing.Class) {
		t.Helper()
		p := newPods(t)
		provider := p.provider(func(o *billing.Options) { o.Anchors = anchored{"pod-7h9k2m4n6p": anchor} })
		_, err := provider.Sample(t.Context(), p.now())
		wantClass(t, err, want)
	}
	bad("2026-11-23T13:00:00Z", billing.ClockSkew) // to come
	bad("2026-11-23T10:30:00Z", billing.Internal)  // would be snapped down
}

func TestRunpodSetup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(runpodTestKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(name, instance string, env map[string]string, want, hint string) {
		t.Helper()
		p := newPods(t)
		_, err := billing.New("runpod", billing.Options{URL: "https://runpod.test", Instance: instance, Getenv: getenv(env), Transport: direct{p}})
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return
		}
		var h interface{ Hint() string }
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, &h) || !strings.Contains(h.Hint(), hint) {
			t.Errorf("%s: %v, want %q and the hint %q", name, err, want, hint)
			return
		}
		if strings.Contains(err.Error()+h.Hint(), runpodTestKey) {
			t.Errorf("%s: the key is in %q", name, err)
		}
	}
	const pod = "7h9k2m4n6p"
	f("by option", pod, map[string]string{"RUNPOD_API_KEY": runpodTestKey}, "", "")
	f("by environment", "", map[string]string{"RUNPOD_API_KEY": runpodTestKey, "RUNPOD_POD_ID": pod}, "", "")
	f("inside a pod the file goes first", "", map[string]string{"RUNPOD_API_KEY": "the-pods-own", "RUNPOD_API_KEY_FILE": path, "RUNPOD_POD_ID": pod}, "", "")
	f("elsewhere two are too many", pod, map[string]string{"RUNPOD_API_KEY": "another-key", "RUNPOD_API_KEY_FILE": path}, "both", "unset")
	f("no key", pod, nil, "RUNPOD_API_KEY is not set", "RUNPOD_API_KEY_FILE")
	f("no pod", "", map[string]string{"RUNPOD_API_KEY": runpodTestKey}, "RUNPOD_POD_ID is not set", "--instance")
	f("a name", "spot h100", map[string]string{"RUNPOD_API_KEY": runpodTestKey}, `instance "spot h100"`, "console")
	f("a path", "../billing", map[string]string{"RUNPOD_API_KEY": runpodTestKey}, `instance "../billing"`, "console")
	f("the key", runpodTestKey, map[string]string{"RUNPOD_API_KEY": runpodTestKey}, "the instance is the API key", "--instance")

	// The file's key is the one that is sent, and the option's pod the one that is asked for.
	p := newPods(t)
	provider := p.provider(func(o *billing.Options) {
		o.Getenv = getenv(map[string]string{"RUNPOD_API_KEY": "the-pods-own", "RUNPOD_API_KEY_FILE": path, "RUNPOD_POD_ID": "other"})
	})
	if _, err := provider.Sample(t.Context(), p.now()); err != nil {
		t.Error(err)
	}
	if got, err := billing.Detect(getenv(map[string]string{"RUNPOD_API_KEY": "the-pods-own"})); got != "runpod" || err != nil {
		t.Errorf("Detect = %q, %v", got, err)
	}
}

// A provider that says the key back, wherever it can, does not get it stored or printed.
func TestRunpodKeyIsKeptNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := newPods(t)
		p.reply[podPath] = p.body("pod_running", `"status":"RUNNING"`, `"status":"`+runpodTestKey+`"`)
		p.reply[podBillPath] = p.body("pods_billing_t0", `"records":`, `"note":"`+runpodTestKey+`","records":`)
		st := &memory{}
		s, err := billing.NewSampler(billing.SamplerConfig{
			Provider: p.provider(nil), Store: st, Now: p.now,
			Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Last(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, r := range []recorded{
			{Status: 401, Body: fmt.Appendf(nil, `{"title":%q,"detail":%q}`, runpodTestKey, runpodTestKey)},
			{Status: 302, Headers: map[string]string{"Location": "https://elsewhere.test/?k=" + runpodTestKey}},
			{Status: 200, Headers: map[string]string{"Content-Type": runpodTestKey}},
			{Status: 200, Body: fmt.Appendf(nil, `{"records":%q}`, runpodTestKey)},
			{Status: 200, Body: fmt.Appendf(nil, `{"records":[{"startTime":%q}]}`, runpodTestKey)},
			{Status: 200, Body: fmt.Appendf(nil, `{"records":[{"totalAmount":%q}]}`, runpodTestKey)},
			{Status: 200, Body: []byte(runpodTestKey)},
		} {
			p.reply[podBillPath] = func(w http.ResponseWriter, _ *http.Request) { r.serve(w) }
			time.Sleep(time.Minute)
			if err := s.Last(t.Context()); err == nil {
				t.Errorf("%+v: a sample", r)
			} else {
				fmt.Fprintln(&log, err)
			}
		}
		if len(st.samples) != 1 || len(st.failures) != 7 {
			t.Fatalf("%d samples and %d failures, want 1 and 7", len(st.samples), len(st.failures))
		}
		raw := string(st.samples[0].Lines[0].Raw)
		if !strings.Contains(raw, "[redacted]") {
			t.Error("the reply that held the key is not marked as changed")
		}
		all := fmt.Sprintf("%+v %+v %s %s", st.samples, st.failures, &log, raw)
		if strings.Contains(all, runpodTestKey) {
			t.Errorf("the key is in what is kept:\n%s", all)
		}
		if strings.Contains(all, "runpod.test") || strings.Contains(all, "podId=") {
			t.Errorf("host or query is in what is kept:\n%s", all)
		}
	})
}

// Of a long window, the newest day is kept with the total; the bill is of all of it.
func TestRunpodRawIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		born := time.Now()
		cloud, p := simulatedPod(t, sim.Config{Volumes: []sim.Volume{}})
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

// Over sockets, as the demo would run it: each bill is one that the simulator gave out.
func TestRunpodOverHTTP(t *testing.T) {
	cloud, err := sim.New(sim.Config{Key: runpodTestKey, VM: sim.VM{Born: time.Now().Add(-90 * time.Minute)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := cloud.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- cloud.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	p, err := billing.New("runpod", billing.Options{URL: strings.TrimSuffix(cloud.URL(), "/v1"),
		Getenv: getenv(map[string]string{"RUNPOD_API_KEY": runpodTestKey, "RUNPOD_POD_ID": "pod701234"})})
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Sample(t.Context(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	given := make(map[string]int64)
	for _, a := range cloud.Answers() {
		given[a.Resource] = a.Nanos
	}
	if len(s.Lines) != 2 || len(given) != 2 || int64(*s.Lines[0].Bill) != given["vm-701234"] || int64(*s.Lines[1].Bill) != given["volume-45678"] || given["vm-701234"] == 0 {
		t.Errorf("lines %+v, given %v", s.Lines, given)
	}
}

func simulatedPod(t *testing.T, cfg sim.Config) (*sim.Sim, billing.Provider) {
	t.Helper()
	cfg.Key = runpodTestKey
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p, err := billing.New("runpod", billing.Options{
		URL: "https://sim.test", Instance: "pod701234", Transport: direct{cloud.Handler()},
		Getenv: getenv(map[string]string{"RUNPOD_API_KEY": runpodTestKey}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return cloud, p
}

// Three hours of everything that can happen to the bill: what the samples say was
// spent is what the simulator's own books say, to the nano-unit, between any two.
func TestRunpodSamplesEqualTheBooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(10*time.Hour + 37*time.Minute + 123*time.Millisecond)
		cloud, p := simulatedPod(t, sim.Config{
			Volumes: []sim.Volume{
				{ID: 45678, Name: "models", SizeGB: 200, RatePerHour: 21_600_000},
				{ID: 45679, Name: "cache", SizeGB: 50, RatePerHour: 3_600, Born: time.Now().AddDate(0, -2, 0)},
			},
		})
		st := &memory{}
		s, err := billing.NewSampler(billing.SamplerConfig{Provider: p, Store: st})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		fault := func(f sim.Fault) {
			t.Helper()
			if err := cloud.SetFault(f); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(17*time.Minute + 400*time.Millisecond)
		fault(sim.Fault{Mode: sim.ServerError, Times: 2})
		time.Sleep(9 * time.Minute)
		cloud.SetStatus("HIBERNATED")
		time.Sleep(21*time.Minute + 7*time.Second)
		cloud.SetStatus("ACTIVE")
		fault(sim.Fault{Mode: sim.Refund, Nanos: 950_000_000}) // more than this hour has cost: the last is restated
		time.Sleep(8 * time.Minute)
		fault(sim.Fault{Mode: sim.Dark})
		time.Sleep(10 * time.Minute)
		froze := time.Now()
		fault(sim.Fault{Mode: sim.Frozen})
		time.Sleep(10 * time.Minute)
		thawed := time.Now()
		fault(sim.Fault{})
		time.Sleep(100 * time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Second)
		if err := s.Last(t.Context()); err != nil {
			t.Fatal(err)
		}

		// The tenth dark minute's poll was let go when the fault changed.
		if n := len(st.failures); n != 9 {
			t.Errorf("%d failed polls, want 9: %+v", n, st.failures)
		}
		shown, fell := 0, false
		for i, b := range st.samples {
			if b.At.After(froze) && !b.At.After(thawed) {
				if prev := st.samples[i-1]; prev.At.After(froze) && spent(t, prev, b) != 0 {
					t.Errorf("the frozen bill moved at %v", b.At)
				}
				shown++
				continue
			}
			fell = fell || i > 0 && spent(t, st.samples[i-1], b) < 0
			for _, a := range st.samples[:i] {
				if a.At.After(froze) && !a.At.After(thawed) {
					continue
				}
				if want := cloud.Books(a.At, b.At); spent(t, a, b) != ledger.Nanos(want.Nanos) {
					t.Fatalf("spent %s between %v and %v, the books say %s", spent(t, a, b), a.At, b.At, want.Spend)
				}
			}
		}
		// One more than the frozen minutes: the tenth dark poll got its bill after.
		if shown != 11 || !fell {
			t.Errorf("%d frozen samples; the bill fell: %v", shown, fell)
		}
		first, last := st.samples[0], st.samples[len(st.samples)-1]
		books := cloud.Books(first.At, last.At)
		if got := spent(t, first, last); got != ledger.Nanos(books.Nanos) || got.String() != books.Spend || books.Refunds != 950_000_000 {
			t.Errorf("spent %s, the books say %s", got, books.Spend)
		}
		t.Logf("%s in %s, %d samples", books.Spend, last.At.Sub(first.At), len(st.samples))
	})
}

// Asked after a night's sleep, the bill as of an hour is what the books say of then.
func TestRunpodBoundaryEqualsTheBooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(22*time.Hour + 13*time.Minute)
		cloud, p := simulatedPod(t, sim.Config{})
		time.Sleep(time.Minute)
		a, err := p.Sample(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Hour)
		midnight := a.At.Truncate(24 * time.Hour).Add(24 * time.Hour)
		b, err := p.(billing.Boundary).SampleAt(t.Context(), midnight, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := spent(t, a, b), cloud.Books(a.At, midnight); got == 0 || got != ledger.Nanos(want.Nanos) {
			t.Errorf("spent %s up to midnight, the books say %s", got, want.Spend)
		}
		c, err := p.Sample(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := spent(t, b, c), cloud.Books(midnight, c.At); got != ledger.Nanos(want.Nanos) {
			t.Errorf("spent %s since midnight, the books say %s", got, want.Spend)
		}
	})
}

// Each way of the simulator to misbehave is a failure of its class, and is over when
// the fault is.
func TestRunpodSimulatedFaults(t *testing.T) {
	f := func(fault sim.Fault, want billing.Class) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			cloud, p := simulatedPod(t, sim.Config{})
			wantFault(t, cloud, p, fault, want)
		})
	}
	f(sim.Fault{Mode: sim.Dark}, billing.Timeout)
	f(sim.Fault{Mode: sim.Slow, Delay: 14 * time.Second}, billing.Timeout)
	f(sim.Fault{Mode: sim.ServerError}, billing.HTTP5xx)
	f(sim.Fault{Mode: sim.TooMany, RetryAfter: 120}, billing.HTTP429)
	f(sim.Fault{Mode: sim.Unauthorized}, billing.HTTP401)
	f(sim.Fault{Mode: sim.HTML}, billing.Malformed)
	f(sim.Fault{Mode: sim.Truncated}, billing.Malformed)
	f(sim.Fault{Mode: sim.Truncated, Only: "volumes"}, billing.Malformed)
	f(sim.Fault{Mode: sim.Cut}, billing.Network)
	f(sim.Fault{Mode: sim.NaN}, billing.Malformed)
	f(sim.Fault{Mode: sim.Empty}, billing.Incomplete)
	f(sim.Fault{Mode: sim.Empty, Only: "volumes"}, billing.Incomplete)
	f(sim.Fault{Mode: sim.StatusFalse}, billing.Malformed)
	f(sim.Fault{Mode: sim.Elsewhere, To: "https://elsewhere.test/"}, billing.Redirect)
	f(sim.Fault{Mode: sim.Huge}, billing.TooLarge)
	f(sim.Fault{Mode: sim.Skew}, billing.ClockSkew)
}

func TestRunpodSimulatedOddities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Second) // on the hour, that hour's bucket is not yet told
		cloud, p := simulatedPod(t, sim.Config{})
		read := func() ledger.Sample {
			t.Helper()
			s, err := p.Sample(t.Context(), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		if s := read(); *s.Lines[0].Bill != 0 { // in the second of its birth
			t.Errorf("bill %s at birth", *s.Lines[0].Bill)
		}
		time.Sleep(time.Minute)
		if s := read(); !s.Lines[0].Running || *s.Lines[0].Rate != 2_520_000_000 || *s.Lines[0].Bill != 42_000_000 || *s.Lines[1].Bill != 360_000 {
			t.Errorf("running: %+v", s.Lines)
		}
		cloud.SetStatus("HIBERNATED")
		time.Sleep(61 * time.Second)
		if s := read(); s.Lines[0].Status != "EXITED" || s.Lines[0].Running || s.Lines[0].Rate != nil || *s.Lines[0].Bill != 42_700_000+180_000 {
			t.Errorf("stopped: %+v, bill %s", s.Lines[0], *s.Lines[0].Bill)
		}
		if err := cloud.SetFault(sim.Fault{Mode: sim.MissingVolume}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if s := read(); len(s.Lines) != 1 {
			t.Error("the missing volume is there")
		}
	})
}

// As often as it says that it can be asked, the API's limit allows.
func TestRunpodRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Second)
		_, p := simulatedPod(t, sim.Config{})
		st := &memory{}
		run(t, billing.SamplerConfig{Provider: p, Store: st, Every: p.MinInterval()}, 5*time.Minute)
		if len(st.failures) != 0 || len(st.samples) < 60 {
			t.Errorf("%d samples, failures %+v", len(st.samples), st.failures)
		}
	})
}
