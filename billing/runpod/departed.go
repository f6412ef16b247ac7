package runpod

import (
	"context"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

// What Runpod tells of a pod or network volume that is no longer there: its records
// stay in the billing listing.

// parseResource tells which resource a line's is.
func parseResource(resource string) (resourceKind, string, bool) {
	for _, kind := range []resourceKind{kindPod, kindVolume} {
		if id, ok := strings.CutPrefix(resource, kind.name+"-"); ok {
			return kind, id, isID(id)
		}
	}
	return resourceKind{}, "", false
}

// lastBill reads the last bill of a resource.
func (r *adapter) lastBill(ctx context.Context, clk provider.Clock, at time.Time) func(string) (api.LastBill, *api.Failure) {
	return func(resource string) (api.LastBill, *api.Failure) {
		kind, id, ok := parseResource(resource)
		anchor, begun := r.anchors.Known(resource)
		if !ok || !begun {
			return api.LastBill{}, api.Fail(api.Internal, "%s is of no series of ours", resource)
		}
		line, f := r.line(ctx, clk, kind, id, time.Time{}, anchor, at)
		if f != nil {
			return api.LastBill{}, f
		}
		read := r.podExists
		if kind.kind == ledger.Volume {
			read = r.volumeExists
		}
		exists, f := read(ctx, clk, id)
		return api.LastBill{Line: line, Exists: exists}, f
	}
}

// unlisted tells that the account's pods are listed, and this one is not among them.
func (r *adapter) unlisted(ctx context.Context, clk provider.Clock) bool {
	body, f := r.api.Get(ctx, clk, "GET /v2/pods", "v2/pods", nil)
	if f != nil {
		return false
	}
	var reply struct {
		Pods *[]struct {
			ID *string `json:"id"`
		} `json:"pods"`
	}
	if api.Decode(body, &reply) != nil || reply.Pods == nil {
		return false
	}
	for _, p := range *reply.Pods {
		if p.ID == nil || *p.ID == r.pod {
			return false
		}
	}
	return true
}

func (r *adapter) podExists(ctx context.Context, clk provider.Clock, id string) (bool, *api.Failure) {
	const call = "GET /v2/pods/{id}"
	body, f := r.api.Get(ctx, clk, call, "v2/pods/"+id, nil)
	if f.NotFound() {
		return false, nil
	}
	if f != nil {
		return false, f
	}
	var reply struct {
		Status *string `json:"status"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return false, f.At(call)
	}
	if reply.Status == nil {
		return false, api.Fail(api.Incomplete, "reply has no status").At(call)
	}
	return !strings.EqualFold(*reply.Status, "TERMINATED"), nil
}

func (r *adapter) volumeExists(ctx context.Context, clk provider.Clock, id string) (bool, *api.Failure) {
	const call = "GET /v2/network-volumes"
	body, f := r.api.Get(ctx, clk, call, "v2/network-volumes", nil)
	if f != nil {
		return false, f
	}
	var reply struct {
		Volumes *[]struct {
			ID *string `json:"id"`
		} `json:"networkVolumes"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return false, f.At(call)
	}
	if reply.Volumes == nil {
		return false, api.Fail(api.Incomplete, "reply has no networkVolumes").At(call)
	}
	for _, v := range *reply.Volumes {
		if v.ID != nil && *v.ID == id {
			return true, nil
		}
	}
	return false, nil
}
