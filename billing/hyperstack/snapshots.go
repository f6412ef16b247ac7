package hyperstack

import (
	"context"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
)

// A snapshot keeps a machine's disk, and costs while it exists. It is no part of the
// machine, which does not tell its snapshots: they are listed for the whole account,
// each with the machine that it was made of.

type listedSnapshot struct {
	id, vm  int64
	status  string
	created time.Time
}

// snapshots lists those of this box.
func (h *adapter) snapshots(ctx context.Context, clk provider.Clock) ([]listedSnapshot, *api.Failure) {
	const call = "GET /core/snapshots"
	var ours []listedSnapshot
	seen := make(map[int64]bool)
	f := pages(func(page int) (int, int, int, *api.Failure) {
		body, f := h.api.Get(ctx, clk, call, "core/snapshots", pageQuery(page, pageSize))
		if f != nil {
			return 0, 0, 0, f
		}
		all, size, count, f := decodeSnapshots(body)
		if f != nil {
			return 0, 0, 0, f
		}
		for _, e := range all {
			if seen[e.id] {
				return 0, 0, 0, api.Fail(api.Incomplete, "listing names a snapshot twice")
			}
			seen[e.id] = true
			if e.vm == h.vm {
				ours = append(ours, e)
			}
		}
		return len(all), size, count, nil
	})
	if f != nil {
		return nil, f.At(call)
	}
	return ours, nil
}

// decodeSnapshots reads a page of the listing, the size of a full one and how
// many there are in all.
func decodeSnapshots(body []byte) (all []listedSnapshot, size, count int, f *api.Failure) {
	var reply struct {
		Count     *int `json:"count"`
		Size      *int `json:"page_size"`
		Snapshots *[]struct {
			ID      *int64  `json:"id"`
			VM      *int64  `json:"vm_id"`
			Status  *string `json:"status"`
			Created *string `json:"created_at"`
		} `json:"snapshots"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return nil, 0, 0, f
	}
	if reply.Count == nil || reply.Snapshots == nil {
		return nil, 0, 0, api.Fail(api.Incomplete, "reply lacks count or snapshots")
	}
	for _, e := range *reply.Snapshots {
		if e.ID == nil || *e.ID <= 0 || e.VM == nil || e.Status == nil || e.Created == nil {
			return nil, 0, 0, api.Fail(api.Incomplete, "listing has a snapshot that lacks one of id, vm_id, status, created_at")
		}
		created, f := parseTime(*e.Created)
		if f != nil {
			return nil, 0, 0, f
		}
		all = append(all, listedSnapshot{*e.ID, *e.VM, *e.Status, created})
	}
	size = pageSize
	if reply.Size != nil && *reply.Size > 0 {
		size = *reply.Size
	}
	return all, size, *reply.Count, nil
}
