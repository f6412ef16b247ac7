package billing_test

import (
	"net/netip"
	"testing"
)

func TestHyperstackIdentify(t *testing.T) {
	type vm = machine
	mine := []netip.Addr{netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("10.0.0.113")}
	f := func(name string, vms []vm, count, size int, addrs []netip.Addr, host string, want string) {
		t.Helper()
		newCloud(t).identify(t, name, vms, count, size, addrs, host, want)
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
