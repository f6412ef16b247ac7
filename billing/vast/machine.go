package vast

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

const instanceCall = "GET /api/v0/instances/{id}/"

type machine struct {
	status  string
	running bool
	rate    *ledger.Nanos
	created time.Time
	volumes []int64
}

// machine reads what the box is and which volumes hang on it. The reply holds the
// environment, tokens and commands of the user's: nothing of it is kept but these
// fields.
func (v *adapter) machine(ctx context.Context, clk provider.Clock) (machine, *api.Failure) {
	body, f := v.api.Get(ctx, clk, instanceCall, fmt.Sprintf("api/v0/instances/%d/", v.instance), nil)
	if f != nil {
		if f.Class == api.HTTP4xx {
			f.WithHint("check --instance, and whether the instance still exists")
		}
		f.Absent = f.NotFound() && v.departures.Missed(sourceName(ledger.Instance, v.instance)) && v.unlisted(ctx, clk)
		return machine{}, f
	}
	m, f := decodeMachine(v.instance, body)
	if f != nil {
		return machine{}, f.At(instanceCall)
	}
	return m, nil
}

func decodeMachine(id int64, body []byte) (machine, *api.Failure) {
	var reply struct {
		VM *struct { // one, under a plural
			ID       *int64      `json:"id"`
			Actual   *string     `json:"actual_status"` // null while it is being set up
			State    *string     `json:"cur_state"`
			Start    *api.Amount `json:"start_date"` // a Unix time with a fraction
			DPH      *api.Amount `json:"dph_total"`
			Instance *struct {
				Discounted *api.Amount `json:"discountedTotalPerHour"`
			} `json:"instance"`
			Volumes json.RawMessage `json:"volume_info"`
		} `json:"instances"`
	}
	none := machine{}
	if f := decode(body, &reply); f != nil {
		return none, f
	}
	vm := reply.VM
	switch {
	case vm == nil:
		return none, api.Fail(api.Incomplete, "reply has no instances object")
	case vm.ID == nil || vm.Start == nil || vm.Volumes == nil:
		return none, api.Fail(api.Incomplete, "reply lacks one of id, start_date, volume_info")
	case vm.Actual == nil && vm.State == nil:
		return none, api.Fail(api.Incomplete, "reply lacks actual_status and cur_state")
	case *vm.ID != id:
		return none, api.Fail(api.Malformed, "the reply is of instance %d, not of %d", *vm.ID, id)
	case *vm.Start <= 0:
		return none, api.Fail(api.Malformed, "reply has a date that cannot be read")
	}
	m := machine{rate: vm.DPH.Nanos(), created: unixTime(vm.Start), running: isRunning(vm.Actual, vm.State)}
	if vm.Actual != nil {
		m.status = *vm.Actual
	} else {
		m.status = *vm.State
	}
	if vm.Instance != nil && vm.Instance.Discounted != nil {
		m.rate = vm.Instance.Discounted.Nanos()
	}
	if m.rate != nil && *m.rate < 0 {
		return none, api.Fail(api.Malformed, "reply has an amount below zero")
	}
	var volumes []struct {
		ID *int64 `json:"id"`
	}
	if f := api.Decode(vm.Volumes, &volumes); f != nil {
		return none, f
	}
	seen := make(map[int64]bool)
	for _, a := range volumes {
		if a.ID == nil || *a.ID <= 0 {
			return none, api.Fail(api.Incomplete, "reply has a volume without its id")
		}
		if !seen[*a.ID] {
			seen[*a.ID] = true
			m.volumes = append(m.volumes, *a.ID)
		}
	}
	return m, nil
}

// isRunning says whether an instance is billed as running. It is not where it holds
// no GPU: stopped by its owner, outbid or released. What is unknown, or where the
// two words disagree, counts as running.
func isRunning(actual, state *string) bool {
	if state != nil {
		switch strings.ToLower(*state) {
		case "stopped", "unloaded":
		default:
			return true
		}
	}
	if actual != nil {
		switch strings.ToLower(*actual) {
		case "stopped", "exited", "offline", "loading":
		default:
			return true
		}
	}
	return false
}

// unixTime reads a Unix time with a fraction by its digits: an amount holds nine.
func unixTime(a *api.Amount) time.Time { return time.Unix(0, int64(*a)).UTC() }

// volumeCreated asks when a volume was created, once in its life.
func (v *adapter) volumeCreated(ctx context.Context, clk provider.Clock, id int64) (time.Time, *api.Failure) {
	if t, ok := v.created[id]; ok {
		return t, nil
	}
	born, listed, f := v.volume(ctx, clk, id)
	switch {
	case f != nil:
		return time.Time{}, f
	case !listed:
		return time.Time{}, api.Fail(api.Incomplete, "volume %d is attached and not listed", id).At(volumesCall)
	case born.IsZero():
		return time.Time{}, api.Fail(api.Incomplete, "volume %d has no start_date", id).At(volumesCall)
	}
	v.created[id] = born
	return born, nil
}

const volumesCall = "GET /api/v0/volumes"

func (v *adapter) volume(ctx context.Context, clk provider.Clock, id int64) (born time.Time, listed bool, f *api.Failure) {
	body, f := v.api.Get(ctx, clk, volumesCall, "api/v0/volumes", url.Values{"owner": {"me"}, "type": {"all"}})
	if f != nil {
		return born, false, f
	}
	if born, listed, f = decodeVolume(id, body); f != nil {
		return born, false, f.At(volumesCall)
	}
	return born, listed, nil
}

// decodeVolume finds a volume in the listing of all, and when it was created, zero
// where that is not told.
func decodeVolume(id int64, body []byte) (born time.Time, listed bool, f *api.Failure) {
	var reply struct {
		Volumes *[]struct {
			ID    *int64      `json:"id"`
			Start *api.Amount `json:"start_date"`
		} `json:"volumes"`
	}
	if f := decode(body, &reply); f != nil {
		return born, false, f
	}
	if reply.Volumes == nil {
		return born, false, api.Fail(api.Incomplete, "reply has no volumes")
	}
	for _, e := range *reply.Volumes {
		switch {
		case e.ID == nil || *e.ID != id:
		case e.Start == nil:
			return born, true, nil
		case *e.Start <= 0:
			return born, false, api.Fail(api.Malformed, "reply has a date that cannot be read")
		default:
			return unixTime(e.Start), true, nil
		}
	}
	return born, false, nil
}
