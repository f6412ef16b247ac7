package hyperstack

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/provider"
)

type machine struct {
	status  string
	created time.Time
	volumes []attachment
}

type attachment struct {
	id       int64
	status   string
	attached time.Time // zero where the reply does not say
}

// machine reads what the box is and which volumes hang on it. The reply may hold
// names, keys and labels of the user's: nothing of it is kept but these fields.
func (h *adapter) machine(ctx context.Context, clk provider.Clock) (machine, *api.Failure) {
	const call = "GET /core/virtual-machines/{id}"
	body, f := h.api.Get(ctx, clk, call, fmt.Sprintf(kindVM.core, h.vm), nil)
	if f != nil {
		f.Absent = f.NotFound() && h.departures.Missed(resourceName(kindVM, h.vm)) && h.unlisted(ctx, clk)
		return machine{}, f
	}
	m, f := decodeMachine(h.vm, body)
	if f != nil {
		return machine{}, f.At(call)
	}
	return m, nil
}

func decodeMachine(id int64, body []byte) (machine, *api.Failure) {
	var reply struct {
		VM *struct {
			ID       *int64          `json:"id"`
			Status   *string         `json:"status"`
			Created  *string         `json:"created_at"`
			Contract json.RawMessage `json:"contract_id"`
			Volumes  *[]struct {
				Status  *string `json:"status"`
				Created *string `json:"created_at"`
				Volume  *struct {
					ID *int64 `json:"id"`
				} `json:"volume"`
			} `json:"volume_attachments"`
		} `json:"instance"`
	}
	none := machine{}
	if f := api.Decode(body, &reply); f != nil {
		return none, f
	}
	vm := reply.VM
	switch {
	case vm == nil:
		return none, api.Fail(api.Incomplete, "reply has no instance")
	case vm.ID == nil || vm.Status == nil || vm.Created == nil || vm.Volumes == nil:
		return none, api.Fail(api.Incomplete, "reply lacks one of id, status, created_at, volume_attachments")
	case *vm.ID != id:
		return none, api.Fail(api.Malformed, "the reply is of virtual machine %d, not of %d", *vm.ID, id)
	case len(vm.Contract) > 0 && string(vm.Contract) != "null":
		f := api.Fail(api.Incomplete, "virtual machine %d is under a contract: its cost is not in its own bill by the minute", id)
		f.WithHint("use a machine that is billed on demand, or --provider none")
		return none, f
	}
	created, f := parseTime(*vm.Created)
	if f != nil {
		return none, f
	}
	m := machine{status: *vm.Status, created: created}
	seen := make(map[int64]bool)
	for _, a := range *vm.Volumes {
		if a.Status == nil || a.Volume == nil || a.Volume.ID == nil {
			return none, api.Fail(api.Incomplete, "reply has a volume attachment without status or volume id")
		}
		v := attachment{id: *a.Volume.ID, status: *a.Status}
		if !isAttached(v.status) || seen[v.id] {
			continue
		}
		if a.Created != nil {
			if v.attached, f = parseTime(*a.Created); f != nil {
				return none, f
			}
		}
		seen[v.id] = true
		m.volumes = append(m.volumes, v)
	}
	return m, nil
}

// isRunning says whether a machine in this state is billed as running. SHUTOFF
// is, at the full price. A word that nobody has seen is taken to be.
func isRunning(status string) bool {
	switch strings.ToUpper(status) {
	case "CREATING", "BUILD", "STARTING", "STOPPING", "REBOOTING", "ERROR",
		"HIBERNATING", "HIBERNATED", "RESTORING", "DELETING", "DELETED":
		return false
	}
	return true
}

// isAttached takes an attachment to count unless its state says otherwise.
func isAttached(status string) bool {
	switch strings.ToUpper(status) {
	case "ATTACHING", "DETACHING", "DETACHED", "CREATING", "AVAILABLE", "DELETING", "DELETED":
		return false
	}
	return true
}

// parseTime reads a date-time, which may come without a zone: then it is UTC.
func parseTime(text string) (time.Time, *api.Failure) {
	for _, layout := range []string{time.RFC3339, timeLayout} { // both take a fraction of a second
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, api.Fail(api.Malformed, "reply has a date that cannot be read")
}

// volumeCreated asks when a volume was created, once in its life.
func (h *adapter) volumeCreated(ctx context.Context, clk provider.Clock, id int64) (time.Time, *api.Failure) {
	const call = "GET /core/volumes/{id}"
	if t, ok := h.created[id]; ok {
		return t, nil
	}
	body, f := h.api.Get(ctx, clk, call, fmt.Sprintf(kindVolume.core, id), nil)
	if f != nil {
		return time.Time{}, f
	}
	t, f := decodeVolume(id, body)
	if f != nil {
		return time.Time{}, f.At(call)
	}
	h.created[id] = t
	return t, nil
}

// decodeVolume reads when a volume was created.
func decodeVolume(id int64, body []byte) (time.Time, *api.Failure) {
	var reply struct {
		Volume *struct {
			ID      *int64  `json:"id"`
			Created *string `json:"created_at"`
		} `json:"volume"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return time.Time{}, f
	}
	v := reply.Volume
	if v == nil || v.ID == nil || v.Created == nil {
		return time.Time{}, api.Fail(api.Incomplete, "reply lacks volume, its id or created_at")
	}
	if *v.ID != id {
		return time.Time{}, api.Fail(api.Malformed, "the reply is of volume %d, not of %d", *v.ID, id)
	}
	return parseTime(*v.Created)
}
