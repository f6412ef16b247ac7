package billing

import (
	"context"
	"strings"
	"time"

	"spotinference/internal/provider"
	"spotinference/ledger"
)

// What Runpod tells of a pod or network volume that is no longer there: its records
// stay in the billing listing.

// runpodOf tells which resource a line's is.
func runpodOf(resource string) (runpodKind, string, bool) {
	for _, kind := range []runpodKind{runpodPodBill, runpodVolumeBill} {
		if id, ok := strings.CutPrefix(resource, kind.name+"-"); ok {
			return kind, id, runpodID(id)
		}
	}
	return runpodKind{}, "", false
}

// last reads the last bill of a resource.
func (r *runpod) last(ctx context.Context, clk provider.Clock, at time.Time) func(string) (LastBill, *Failure) {
	return func(resource string) (LastBill, *Failure) {
		kind, id, ok := runpodOf(resource)
		anchor, begun := r.anchors.Known(resource)
		if !ok || !begun {
			return LastBill{}, Fail(Internal, "%s is of no series of ours", resource)
		}
		line, f := r.line(ctx, clk, kind, id, time.Time{}, anchor, at)
		if f != nil {
			return LastBill{}, f
		}
		lives := r.podLives
		if kind.kind == ledger.Volume {
			lives = r.volumeLives
		}
		still, f := lives(ctx, clk, id)
		return LastBill{Line: line, Exists: still}, f
	}
}

// unlisted tells that the account's pods are listed, and this one is not among them.
func (r *runpod) unlisted(ctx context.Context, clk provider.Clock) bool {
	body, f := r.api.Get(ctx, clk, "GET /v2/pods", "v2/pods", nil)
	if f != nil {
		return false
	}
	var reply struct {
		Pods *[]struct {
			ID *string `json:"id"`
		} `json:"pods"`
	}
	if Decode(body, &reply) != nil || reply.Pods == nil {
		return false
	}
	for _, p := range *reply.Pods {
		if p.ID == nil || *p.ID == r.pod {
			return false
		}
	}
	return true
}

func (r *runpod) podLives(ctx context.Context, clk provider.Clock, id string) (bool, *Failure) {
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
	if f := Decode(body, &reply); f != nil {
		return false, f.At(call)
	}
	if reply.Status == nil {
		return false, Fail(Incomplete, "reply has no status").At(call)
	}
	return !strings.EqualFold(*reply.Status, "TERMINATED"), nil
}

func (r *runpod) volumeLives(ctx context.Context, clk provider.Clock, id string) (bool, *Failure) {
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
	if f := Decode(body, &reply); f != nil {
		return false, f.At(call)
	}
	if reply.Volumes == nil {
		return false, Fail(Incomplete, "reply has no networkVolumes").At(call)
	}
	for _, v := range *reply.Volumes {
		if v.ID != nil && *v.ID == id {
			return true, nil
		}
	}
	return false, nil
}
