package rig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/hint"
)

// HyperstackCloud answers as recorded. Each test says what differs.
type HyperstackCloud struct {
	t      testing.TB
	open   Opener
	Now    func() time.Time
	Cases  map[string]Recorded
	Reply  map[string]http.HandlerFunc // by path, before the recordings
	VM     string                      // recording of the machine's bill
	Volume string                      // recording of the volume's bill
	Calls  []*url.URL
}

// NewHyperstackCloud makes one, to be opened by open.
func NewHyperstackCloud(t testing.TB, open Opener) *HyperstackCloud {
	return &HyperstackCloud{t: t, open: open, Now: November(), Cases: recordings(t, "hyperstack"), Reply: make(map[string]http.HandlerFunc),
		VM: "vm_billing_t0", Volume: "volume_billing_t0"}
}

// The paths that a sample asks for.
const (
	HyperstackVMPath         = "/v1/core/virtual-machines/701234"
	HyperstackVolumePath     = "/v1/core/volumes/45678"
	HyperstackSnapshotsPath  = "/v1/core/snapshots"
	HyperstackVMBillPath     = "/v1/billing/billing/history/virtual-machine/701234"
	HyperstackVolumeBillPath = "/v1/billing/billing/history/volume/45678"
)

func (c *HyperstackCloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.Calls = append(c.Calls, r.URL)
	w.Header().Set("Date", c.Now().UTC().Format(http.TimeFormat))
	if r.Header.Get("api_key") != Key {
		c.Cases["err_401"].Serve(w)
		return
	}
	if h := c.Reply[r.URL.Path]; h != nil {
		h(w, r)
		return
	}
	switch r.URL.Path {
	case HyperstackVMPath:
		c.Cases["instance"].Serve(w)
	case HyperstackVolumePath:
		var list struct{ Volumes []json.RawMessage }
		if err := json.Unmarshal(c.Cases["volumes"].Body, &list); err != nil {
			c.t.Error(err)
		}
		Recorded{Status: 200, Body: fmt.Appendf(nil, `{"status":true,"volume":%s}`, list.Volumes[0])}.Serve(w)
	case HyperstackSnapshotsPath:
		Recorded{Status: 200, Body: []byte(`{"status":true,"page":1,"page_size":100,"count":0,"snapshots":[]}`)}.Serve(w)
	case HyperstackVMBillPath:
		c.Cases[c.VM].Serve(w)
	case HyperstackVolumeBillPath:
		c.Cases[c.Volume].Serve(w)
	default:
		c.t.Errorf("unexpected call of %s", r.URL.Path)
		c.Cases["err_404"].Serve(w)
	}
}

// Body answers 200 with a recording in which old is replaced by new.
func (c *HyperstackCloud) Body(name, old, new string) http.HandlerFunc {
	b := string(c.Cases[name].Body)
	// The file is indented; what it is compared with is not.
	var flat bytes.Buffer
	if err := json.Compact(&flat, []byte(b)); err != nil {
		c.t.Fatal(err)
	}
	if b = flat.String(); !strings.Contains(b, old) {
		c.t.Fatalf("recording %s does not contain %q", name, old)
	}
	b = strings.ReplaceAll(b, old, new)
	return func(w http.ResponseWriter, r *http.Request) { Recorded{Status: 200, Body: []byte(b)}.Serve(w) }
}

// Provider opens the adapter on it.
func (c *HyperstackCloud) Provider(change func(*api.Options)) api.Provider {
	c.t.Helper()
	opts := api.Options{
		URL:       "https://cloud.test/v1",
		Instance:  "701234",
		Getenv:    Env(map[string]string{"HYPERSTACK_API_KEY": Key}),
		Transport: Direct{c},
	}
	if change != nil {
		change(&opts)
	}
	p, err := c.open(opts)
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// HyperstackMachine is one of an account's, as the listing has it.
type HyperstackMachine struct {
	ID       int
	Name, IP string
}

// NewHyperstackMachine is a machine of that id, name and address.
func NewHyperstackMachine(id int, name, ip string) HyperstackMachine {
	return HyperstackMachine{ID: id, Name: name, IP: ip}
}

// Identify looks for this box among vms, which come in pages of size and are said to
// be count. It wants a class of failure, or "ok" for vm-701234.
func (c *HyperstackCloud) Identify(t *testing.T, name string, vms []HyperstackMachine, count, size int, addrs []netip.Addr, host string, want string) {
	t.Helper()
	now := Time(t, "2026-11-23T12:00:00Z")
	c.Now = func() time.Time { return now }
	c.Reply["/v1/core/virtual-machines"] = func(w http.ResponseWriter, r *http.Request) {
		var page int
		fmt.Sscan(r.FormValue("page"), &page)
		from := min((page-1)*size, len(vms))
		list := []map[string]any{}
		for _, v := range vms[from:min(from+size, len(vms))] {
			list = append(list, map[string]any{"id": v.ID, "name": v.Name, "fixed_ip": v.IP})
		}
		b, _ := json.Marshal(map[string]any{"status": true, "page": page, "page_size": size, "count": count, "instances": list})
		Recorded{Status: 200, Body: b}.Serve(w)
	}
	p := c.Provider(func(o *api.Options) {
		o.Instance = ""
		o.Addrs = func() ([]netip.Addr, error) { return addrs, nil }
		o.Hostname = func() (string, error) { return host, nil }
	})
	s, err := p.Sample(t.Context(), now)
	var failure *api.Failure
	switch {
	case want == "ok":
		if err != nil || s.Lines[0].Resource != "vm-701234" {
			t.Errorf("%s: %v, %+v", name, err, s.Lines)
		}
	case !errors.As(err, &failure) || string(failure.Class) != want || failure.Call != "GET /core/virtual-machines":
		t.Errorf("%s: %v, want %s", name, err, want)
	case want == string(api.Unidentified) && hint.Of(failure) == "":
		t.Errorf("%s: no hint", name)
	}
}
