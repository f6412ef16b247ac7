package billing_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"spotinference/billing"
	"spotinference/internal/hint"
)

// machine is one of an account's, as the listing has it.
type machine struct {
	id       int
	name, ip string
}

// identify looks for this box among vms, which come in pages of size and are said to
// be count. It wants a class of failure, or "ok" for vm-701234.
func identify(t *testing.T, name string, vms []machine, count, size int, addrs []netip.Addr, host string, want string) {
	t.Helper()
	c := newCloud(t)
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

func TestHyperstackIdentify(t *testing.T) {
	type vm = machine
	mine := []netip.Addr{netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("10.0.0.113")}
	f := func(name string, vms []vm, count, size int, addrs []netip.Addr, host string, want string) {
		t.Helper()
		identify(t, name, vms, count, size, addrs, host, want)
	}
	us, other, twin := vm{701234, "spot-h100-a", "10.0.0.113"}, vm{5, "b", "10.0.0.5"}, vm{6, "c", "10.0.0.113"}
	f("by address", []vm{other, us}, 2, 100, mine, "whatever", "ok")
	f("by address on the third page", []vm{other, {7, "", ""}, {8, "", ""}, {9, "", ""}, us}, 5, 2, mine, "whatever", "ok")
	f("by name", []vm{other, us}, 2, 100, nil, "spot-h100-a", "ok")
	f("by name with a domain", []vm{other, us}, 2, 100, nil, "Spot-H100-A.internal", "ok")
	f("tie of addresses broken by name", []vm{twin, us}, 2, 100, mine, "spot-h100-a", "ok")
	f("name outside the tie", []vm{twin, us, {8, "d", "10.9.9.9"}}, 3, 100, mine, "d", "unidentified")
	f("neither", []vm{other, us}, 2, 100, nil, "laptop", "unidentified")
	f("two of the name", []vm{us, {7, "spot-h100-a", "10.1.1.1"}}, 2, 100, nil, "spot-h100-a", "unidentified")
	f("no machines", nil, 0, 100, mine, "spot-h100-a", "unidentified")
	f("machines without a name", []vm{{7, "", ""}}, 1, 100, nil, "", "unidentified")
}
