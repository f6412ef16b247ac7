//go:build cgo && linux && helper

package main

import (
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"spotinference/gpu"
)

// xidWait is how long one wait for an event may take, in ms.
const xidWait = 1000

// watchXIDs tells the cards' critical errors as they come. It returns where the
// driver has no events, or stops having them: readings go on without.
func (d *driver) watchXIDs(tell func(gpu.XID)) {
	for _, symbols := range [][]string{
		{"nvmlEventSetCreate"},
		{"nvmlDeviceGetSupportedEventTypes"},
		{"nvmlDeviceRegisterEvents"},
		{"nvmlEventSetWait_v2", "nvmlEventSetWait"},
	} {
		if !d.has(symbols...) {
			return
		}
	}
	set, ret := d.lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return
	}
	names := map[nvml.Device]string{} // a lost card cannot be asked
	for _, c := range d.cards {
		const kind = nvml.EventTypeXidCriticalError
		if has, ret := c.dev.GetSupportedEventTypes(); ret != nvml.SUCCESS || has&kind == 0 {
			continue
		}
		if ret := c.dev.RegisterEvents(kind, set); ret == nvml.SUCCESS {
			names[c.dev] = c.uuid
		}
	}
	if len(names) == 0 {
		return
	}
	// The set is never freed: it lives as long as we do.
	for {
		ev, ret := set.Wait(xidWait)
		switch {
		case ret == nvml.ERROR_TIMEOUT:
		case ret != nvml.SUCCESS:
			return
		case ev.EventType&nvml.EventTypeXidCriticalError != 0:
			tell(gpu.XID{UUID: names[ev.Device], Code: ev.EventData})
		}
	}
}
