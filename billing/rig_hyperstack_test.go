package billing_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"spotinference/billing"
	"spotinference/internal/hint"
)

func recordings(t testing.TB) map[string]recorded {
	t.Helper()
	b, err := os.ReadFile("testdata/hyperstack.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []recorded }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	cases := make(map[string]recorded)
	for _, c := range file.Cases {
		cases[c.Name] = c
	}
	return cases
}

// cloud answers as recorded. Each test says what differs.
type cloud struct {
	t     testing.TB
	open  opener
	now   func() time.Time
	cases map[string]recorded
	reply map[string]http.HandlerFunc // by path, before the recordings
	vm    string                      // recording of the machine's bill
	vol   string                      // recording of the volume's bill
	calls []*url.URL
}

func newHyperstackCloud(t testing.TB, open opener) *cloud {
	return &cloud{t: t, open: open, now: november(), cases: recordings(t), reply: make(map[string]http.HandlerFunc),
		vm: "vm_billing_t0", vol: "volume_billing_t0"}
}

const (
	vmPath        = "/v1/core/virtual-machines/701234"
	volumePath    = "/v1/core/volumes/45678"
	snapshotsPath = "/v1/core/snapshots"
	vmBillPath    = "/v1/billing/billing/history/virtual-machine/701234"
	volBillPath   = "/v1/billing/billing/history/volume/45678"
)

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.calls = append(c.calls, r.URL)
	w.Header().Set("Date", c.now().UTC().Format(http.TimeFormat))
	if r.Header.Get("api_key") != testKey {
		c.cases["err_401"].serve(w)
		return
	}
	if h := c.reply[r.URL.Path]; h != nil {
		h(w, r)
		return
	}
	switch r.URL.Path {
	case vmPath:
		c.cases["instance"].serve(w)
	case volumePath:
		var list struct{ Volumes []json.RawMessage }
		if err := json.Unmarshal(c.cases["volumes"].Body, &list); err != nil {
			c.t.Error(err)
		}
		recorded{Status: 200, Body: fmt.Appendf(nil, `{"status":true,"volume":%s}`, list.Volumes[0])}.serve(w)
	case snapshotsPath:
		recorded{Status: 200, Body: []byte(`{"status":true,"page":1,"page_size":100,"count":0,"snapshots":[]}`)}.serve(w)
	case vmBillPath:
		c.cases[c.vm].serve(w)
	case volBillPath:
		c.cases[c.vol].serve(w)
	default:
		c.t.Errorf("unexpected call of %s", r.URL.Path)
		c.cases["err_404"].serve(w)
	}
}

// body answers 200 with a recording in which old is replaced by new.
func (c *cloud) body(name, old, new string) http.HandlerFunc {
	b := string(c.cases[name].Body)
	// The file is indented; what it is compared with is not.
	var flat bytes.Buffer
	if err := json.Compact(&flat, []byte(b)); err != nil {
		c.t.Fatal(err)
	}
	if b = flat.String(); !strings.Contains(b, old) {
		c.t.Fatalf("recording %s does not contain %q", name, old)
	}
	b = strings.ReplaceAll(b, old, new)
	return func(w http.ResponseWriter, r *http.Request) { recorded{Status: 200, Body: []byte(b)}.serve(w) }
}

func (c *cloud) provider(change func(*billing.Options)) billing.Provider {
	c.t.Helper()
	opts := billing.Options{
		URL:       "https://cloud.test/v1",
		Instance:  "701234",
		Getenv:    getenv(map[string]string{"HYPERSTACK_API_KEY": testKey}),
		Transport: direct{c},
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

// machine is one of an account's, as the listing has it.
type machine struct {
	id       int
	name, ip string
}

// identify looks for this box among vms, which come in pages of size and are said to
// be count. It wants a class of failure, or "ok" for vm-701234.
func (c *cloud) identify(t *testing.T, name string, vms []machine, count, size int, addrs []netip.Addr, host string, want string) {
	t.Helper()
	now := when(t, "2026-11-23T12:00:00Z")
	c.now = func() time.Time { return now }
	c.reply["/v1/core/virtual-machines"] = func(w http.ResponseWriter, r *http.Request) {
		var page int
		fmt.Sscan(r.FormValue("page"), &page)
		from := min((page-1)*size, len(vms))
		list := []map[string]any{}
		for _, v := range vms[from:min(from+size, len(vms))] {
			list = append(list, map[string]any{"id": v.id, "name": v.name, "fixed_ip": v.ip})
		}
		b, _ := json.Marshal(map[string]any{"status": true, "page": page, "page_size": size, "count": count, "instances": list})
		recorded{Status: 200, Body: b}.serve(w)
	}
	p := c.provider(func(o *billing.Options) {
		o.Instance = ""
		o.Addrs = func() ([]netip.Addr, error) { return addrs, nil }
		o.Hostname = func() (string, error) { return host, nil }
	})
	s, err := p.Sample(t.Context(), now)
	var failure *billing.Failure
	switch {
	case want == "ok":
		if err != nil || s.Lines[0].Resource != "vm-701234" {
			t.Errorf("%s: %v, %+v", name, err, s.Lines)
		}
	case !errors.As(err, &failure) || string(failure.Class) != want || failure.Call != "GET /core/virtual-machines":
		t.Errorf("%s: %v, want %s", name, err, want)
	case want == string(billing.Unidentified) && hint.Of(failure) == "":
		t.Errorf("%s: no hint", name)
	}
}
