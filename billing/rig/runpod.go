package rig

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"spotinference/billing/api"
	"spotinference/ledger"
)

// RunpodKey has the form of an id: the key could be mistaken for one.
const RunpodKey = "rpa_TEST0F3B2A1C9D8E7F6A5B4C3D2E1F"

// The paths that a sample asks for, what those calls are called, and two mounts.
const (
	RunpodPodPath        = "/v2/pods/7h9k2m4n6p"
	RunpodPodBillPath    = "/v2/billing/pods"
	RunpodVolumeBillPath = "/v2/billing/network-volumes"
	RunpodPodCall        = "GET /v2/pods/{id}"
	RunpodPodBillCall    = "GET /v2/billing/pods"
	RunpodVolumeBillCall = "GET /v2/billing/network-volumes"

	RunpodPersistentMount = `"mounts":{"persistent":{"path":"/workspace","size":200}}`
	RunpodNetworkMount    = `"mounts":{"network":[{"path":"/workspace","volumeId":"agv6w2qcg7"}]}`
)

// RunpodCloud answers as testdata/runpod.json has it, for windows that end at 13:00. Each
// test says what differs.
type RunpodCloud struct {
	t     testing.TB
	open  Opener
	Now   func() time.Time
	Cases map[string]Recorded
	Reply map[string]http.HandlerFunc // by path, before the recordings
	Bill  string                      // recording of the pod's bill
	Calls []*url.URL
}

// NewRunpodCloud makes one, to be opened by open.
func NewRunpodCloud(t testing.TB, open Opener) *RunpodCloud {
	t.Helper()
	return &RunpodCloud{t: t, open: open, Now: lunch(), Cases: recordings(t, "runpod"), Reply: make(map[string]http.HandlerFunc), Bill: "pods_billing_t0"}
}

// lunch carries the time of the recordings on by the (often faked) clock.
func lunch() func() time.Time {
	start := time.Now()
	return func() time.Time {
		return time.Date(2026, 11, 23, 12, 25, 0, 0, time.UTC).Add(time.Since(start))
	}
}

func (p *RunpodCloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.Calls = append(p.Calls, r.URL)
	w.Header().Set("Date", p.Now().UTC().Format(http.TimeFormat))
	if r.Header.Get("Authorization") != "Bearer "+RunpodKey {
		p.t.Errorf("%s: without the key", r.URL.Path)
	}
	if h := p.Reply[r.URL.Path]; h != nil {
		h(w, r)
		return
	}
	switch r.URL.Path {
	case RunpodPodPath:
		p.Cases["pod_running"].Serve(w)
	case RunpodPodBillPath:
		p.Cases[p.Bill].Serve(w)
	case RunpodVolumeBillPath:
		p.Cases["netvol_billing"].Serve(w)
	default:
		p.t.Errorf("unexpected call of %s", r.URL.Path)
	}
}

// Body answers 200 with a recording in which each old is replaced by the new after it.
func (p *RunpodCloud) Body(name string, oldNew ...string) http.HandlerFunc {
	p.t.Helper()
	var v any
	d := json.NewDecoder(bytes.NewReader(p.Cases[name].Body))
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
	return func(w http.ResponseWriter, _ *http.Request) { Recorded{Status: 200, Body: []byte(s)}.Serve(w) }
}

// AnchoredAt gives each resource the start that its recording has.
type AnchoredAt map[string]string

func (a AnchoredAt) Newest(resource string) (string, *ledger.Nanos, bool) {
	at, ok := a[resource]
	return "anchor:" + at, nil, ok
}

func (a AnchoredAt) Open(string) ([]string, error) { return nil, nil }

var runpodAnchors = AnchoredAt{"pod-7h9k2m4n6p": "2026-11-23T10:00:00Z", "volume-agv6w2qcg7": "2026-11-23T12:00:00Z"}

// Provider opens the adapter on it.
func (p *RunpodCloud) Provider(change func(*api.Options)) api.Provider {
	p.t.Helper()
	opts := api.Options{
		URL:       "https://runpod.test",
		Instance:  "7h9k2m4n6p",
		Getenv:    Env(map[string]string{"RUNPOD_API_KEY": RunpodKey}),
		History:   runpodAnchors,
		Transport: Direct{p},
	}
	if change != nil {
		change(&opts)
	}
	provider, err := p.open(opts)
	if err != nil {
		p.t.Fatal(err)
	}
	return provider
}
