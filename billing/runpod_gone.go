package billing

import (
	"context"
	"strings"
	"time"

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
func (r *runpod) last(ctx context.Context, clk clock, at time.Time) func(string) (ending, *Failure) {
	return func(resource string) (ending, *Failure) {
		kind, id, ok := runpodOf(resource)
		anchor, begun := r.anchors.begun(resource)
		if !ok || !begun {
			return ending{}, fail(Internal, "%s is of no series of ours", resource)
		}
		line, f := r.line(ctx, clk, kind, id, time.Time{}, anchor, at)
		if f != nil {
			return ending{}, f
		}
		lives := r.podLives
		if kind.kind == ledger.Volume {
			lives = r.volumeLives
		}
		still, f := lives(ctx, clk, id)
		return ending{line: line, lives: still}, f
	}
}

// unlisted tells that the account's pods are listed, and this one is not among them.
func (r *runpod) unlisted(ctx context.Context, clk clock) bool {
	body, f := r.api.get(ctx, clk, "GET /v2/pods", "v2/pods", nil)
	if f != nil {
		return false
	}
	var reply struct {
		Pods *[]struct {
			ID *string `json:"id"`
		} `json:"pods"`
	}
	if decode(body, &reply) != nil || reply.Pods == nil {
		return false
	}
	for _, p := range *reply.Pods {
		if p.ID == nil || *p.ID == r.pod {
			return false
		}
	}
	return true
}

func (r *runpod) podLives(ctx context.Context, clk clock, id string) (bool, *Failure) {
	const call = "GET /v2/pods/{id}"
	body, f := r.api.get(ctx, clk, call, "v2/pods/"+id, nil)
	if f.notFound() {
		return false, nil
	}
	if f != nil {
		return false, f
	}
	var reply struct {
		Status *string `json:"status"`
	}
	if f := decode(body, &reply); f != nil {
		return false, f.at(call)
	}
	if reply.Status == nil {
		return false, fail(Incomplete, "reply has no status").at(call)
	}
	return !strings.EqualFold(*reply.Status, "TERMINATED"), nil
}

func (r *runpod) volumeLives(ctx context.Context, clk clock, id string) (bool, *Failure) {
	const call = "GET /v2/network-volumes"
	body, f := r.api.get(ctx, clk, call, "v2/network-volumes", nil)
	if f != nil {
		return false, f
	}
	var reply struct {
		Volumes *[]struct {
			ID *string `json:"id"`
		} `json:"networkVolumes"`
	}
	if f := decode(body, &reply); f != nil {
		return false, f.at(call)
	}
	if reply.Volumes == nil {
		return false, fail(Incomplete, "reply has no networkVolumes").at(call)
	}
	for _, v := range *reply.Volumes {
		if v.ID != nil && *v.ID == id {
			return true, nil
		}
	}
	return false, nil
}
