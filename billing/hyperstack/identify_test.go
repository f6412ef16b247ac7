package hyperstack_test

import (
	"net/netip"
	"testing"

	"spotinference/billing/rig"
)

func TestHyperstackIdentify(t *testing.T) {
	type machines = []rig.HyperstackMachine
	vm := rig.NewHyperstackMachine
	mine := []netip.Addr{netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("10.0.0.113")}
	f := func(name string, vms machines, count, size int, addrs []netip.Addr, host string, want string) {
		t.Helper()
		newCloud(t).Identify(t, name, vms, count, size, addrs, host, want)
	}
	us, other, twin := vm(701234, "spot-h100-a", "10.0.0.113"), vm(5, "b", "10.0.0.5"), vm(6, "c", "10.0.0.113")
	f("by address", machines{other, us}, 2, 100, mine, "whatever", "ok")
	f("by address on the third page", machines{other, vm(7, "", ""), vm(8, "", ""), vm(9, "", ""), us}, 5, 2, mine, "whatever", "ok")
	f("by name", machines{other, us}, 2, 100, nil, "spot-h100-a", "ok")
	f("by name with a domain", machines{other, us}, 2, 100, nil, "Spot-H100-A.internal", "ok")
	f("tie of addresses broken by name", machines{twin, us}, 2, 100, mine, "spot-h100-a", "ok")
	f("name outside the tie", machines{twin, us, vm(8, "d", "10.9.9.9")}, 3, 100, mine, "d", "unidentified")
	f("neither", machines{other, us}, 2, 100, nil, "laptop", "unidentified")
	f("two of the name", machines{us, vm(7, "spot-h100-a", "10.1.1.1")}, 2, 100, nil, "spot-h100-a", "unidentified")
	f("no machines", nil, 0, 100, mine, "spot-h100-a", "unidentified")
	f("machines without a name", machines{vm(7, "", "")}, 1, 100, nil, "", "unidentified")
}
