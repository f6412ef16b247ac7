package hyperstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"

	"spotinference/billing/api"
	"spotinference/internal/provider"
)

// listedMachine is a machine as the listing has it.
type listedMachine struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
	IP   string `json:"fixed_ip"`
}

// machineListing is a page of the listing of machines.
type machineListing struct {
	machines    []listedMachine
	size, count int // of a full page, and of all pages
}

func decodeMachines(body []byte) (machineListing, *api.Failure) {
	var reply struct {
		Count *int             `json:"count"`
		Size  *int             `json:"page_size"`
		VMs   *[]listedMachine `json:"instances"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return machineListing{}, f
	}
	if reply.Count == nil || reply.VMs == nil {
		return machineListing{}, api.Fail(api.Incomplete, "reply lacks count or instances")
	}
	page := machineListing{machines: *reply.VMs, size: pageSize, count: *reply.Count}
	if reply.Size != nil && *reply.Size > 0 {
		page.size = *reply.Size
	}
	return page, nil
}

const machinesCall = "GET /core/virtual-machines"

// machines lists those of the account.
func (h *adapter) machines(ctx context.Context, clk provider.Clock) (all []listedMachine, f *api.Failure) {
	seen := make(map[int64]bool)
	f = pages(func(page int) (int, int, int, *api.Failure) {
		body, f := h.api.Get(ctx, clk, machinesCall, "core/virtual-machines", pageQuery(page, pageSize))
		if f != nil {
			return 0, 0, 0, f
		}
		listing, f := decodeMachines(body)
		if f != nil {
			return 0, 0, 0, f
		}
		for _, m := range listing.machines {
			if m.ID <= 0 || seen[m.ID] {
				return 0, 0, 0, api.Fail(api.Incomplete, "listing names a machine twice or without an id")
			}
			seen[m.ID] = true
			all = append(all, m)
		}
		return len(listing.machines), listing.size, listing.count, nil
	})
	if f != nil {
		return nil, f.At(machinesCall)
	}
	return all, nil
}

// identify finds this box among the account's machines: by an address of ours that
// is one's fixed_ip, else by our name. Fixed addresses are unique within one
// environment only, so a tie is broken by name, and what is still tied is refused.
func (h *adapter) identify(ctx context.Context, clk provider.Clock) (int64, *api.Failure) {
	all, f := h.machines(ctx, clk)
	if f != nil {
		return 0, f
	}
	addrs, aerr := h.addrs()
	name, nerr := h.hostname()
	if aerr != nil && nerr != nil {
		return 0, api.Fail(api.Internal, "read this machine's addresses and name: %w", errors.Join(aerr, nerr))
	}
	mine := make(map[netip.Addr]bool)
	for _, a := range addrs {
		mine[a.Unmap()] = true
	}
	var found []listedMachine
	for _, m := range all {
		if a, err := netip.ParseAddr(m.IP); err == nil && mine[a.Unmap()] {
			found = append(found, m)
		}
	}
	if len(found) != 1 {
		among := all
		if len(found) > 1 {
			among = found
		}
		found = nil
		short, _, _ := strings.Cut(name, ".")
		for _, m := range among {
			if m.Name != "" && (strings.EqualFold(m.Name, name) || strings.EqualFold(m.Name, short)) {
				found = append(found, m)
			}
		}
	}
	if len(found) != 1 {
		f := api.Fail(api.Unidentified, "%d of the account's %d machines have this machine's address or name", len(found), len(all))
		f.WithHint("name this machine's id with --instance")
		return 0, f.At(machinesCall)
	}
	return found[0].ID, nil
}

// localAddrs lists the addresses of this machine that another can know.
func localAddrs() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs, nil
}
