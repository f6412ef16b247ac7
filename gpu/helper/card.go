//go:build cgo && linux && helper

package main

import (
	"fmt"
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"spotinference/gpu"
)

// card is one card and the calls that its driver has.
type card struct {
	driver *driver
	dev    nvml.Device
	index  int
	uuid   string
	name   string
	calls  []call // those of calls() whose symbols are there
}

// call reads one figure into a reading.
type call struct {
	symbols []string // any of them
	read    func(nvml.Device, *gpu.Reading) nvml.Return
}

func (d *driver) newCard(index int, dev nvml.Device) (*card, error) {
	c := &card{driver: d, dev: dev, index: index}
	var ret nvml.Return
	if c.uuid, ret = dev.GetUUID(); ret != nvml.SUCCESS {
		return nil, d.failed(fmt.Sprintf("read the UUID of card %d", index), ret)
	}
	if d.has("nvmlDeviceGetName") {
		if c.name, ret = dev.GetName(); ret != nvml.SUCCESS {
			c.name = ""
		}
	}
	all := append(figures(), memory(d), eventReasons(d))
	for _, call := range all {
		if d.has(call.symbols...) {
			c.calls = append(c.calls, call)
		}
	}
	return c, nil
}

// read makes a reading. A figure that the card does not have stays unknown; an
// error is one of the whole driver, after which every call would fail.
func (c *card) read() (gpu.Reading, error) {
	r := gpu.Reading{Index: c.index, UUID: c.uuid, Name: c.name}
	for _, call := range c.calls {
		switch ret := call.read(c.dev, &r); ret {
		case nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH:
			return r, c.driver.failed(fmt.Sprintf("read card %d", c.index), ret)
		}
	}
	return r, nil
}

// known keeps a figure that was read.
func known[N uint32 | uint64](at **int64, n N, ret nvml.Return) nvml.Return {
	// All ones is NVML's "not available".
	if ret == nvml.SUCCESS && uint64(n) <= math.MaxInt64 {
		v := int64(n)
		*at = &v
	}
	return ret
}

func figures() []call {
	return []call{
		{[]string{"nvmlDeviceGetUtilizationRates"}, func(d nvml.Device, r *gpu.Reading) nvml.Return {
			u, ret := d.GetUtilizationRates()
			return known(&r.Utilisation, u.Gpu, ret)
		}},
		{[]string{"nvmlDeviceGetPowerUsage"}, func(d nvml.Device, r *gpu.Reading) nvml.Return {
			n, ret := d.GetPowerUsage()
			return known(&r.Power, n, ret)
		}},
		{[]string{"nvmlDeviceGetEnforcedPowerLimit"}, func(d nvml.Device, r *gpu.Reading) nvml.Return {
			n, ret := d.GetEnforcedPowerLimit()
			return known(&r.PowerLimit, n, ret)
		}},
		{[]string{"nvmlDeviceGetTotalEnergyConsumption"}, func(d nvml.Device, r *gpu.Reading) nvml.Return {
			n, ret := d.GetTotalEnergyConsumption()
			return known(&r.Energy, n, ret)
		}},
		{[]string{"nvmlDeviceGetTemperature"}, func(d nvml.Device, r *gpu.Reading) nvml.Return {
			n, ret := d.GetTemperature(nvml.TEMPERATURE_GPU)
			return known(&r.Temperature, n, ret)
		}},
		{[]string{"nvmlDeviceGetClockInfo"}, func(d nvml.Device, r *gpu.Reading) nvml.Return {
			n, ret := d.GetClockInfo(nvml.CLOCK_SM)
			return known(&r.SMClock, n, ret)
		}},
		{[]string{"nvmlDeviceGetClockInfo"}, func(d nvml.Device, r *gpu.Reading) nvml.Return {
			n, ret := d.GetClockInfo(nvml.CLOCK_MEM)
			return known(&r.MemoryClock, n, ret)
		}},
		{[]string{"nvmlDeviceGetTotalEccErrors"}, func(d nvml.Device, r *gpu.Reading) nvml.Return {
			n, ret := d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC)
			return known(&r.ECCCorrected, n, ret)
		}},
		{[]string{"nvmlDeviceGetTotalEccErrors"}, func(d nvml.Device, r *gpu.Reading) nvml.Return {
			n, ret := d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
			return known(&r.ECCUncorrected, n, ret)
		}},
		{[]string{"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2", "nvmlDeviceGetComputeRunningProcesses"}, processes},
	}
}

func processes(d nvml.Device, r *gpu.Reading) nvml.Return {
	all, ret := d.GetComputeRunningProcesses()
	if ret != nvml.SUCCESS {
		return ret
	}
	r.Processes = []gpu.Process{}
	for _, p := range all {
		q := gpu.Process{PID: int(p.Pid)}
		known(&q.Memory, p.UsedGpuMemory, ret)
		r.Processes = append(r.Processes, q)
	}
	return ret
}

// memory takes the newer call where there is one: it leaves out what the driver
// reserves, as nvidia-smi does.
func memory(d *driver) call {
	const newer = "nvmlDeviceGetMemoryInfo_v2"
	if d.has(newer) {
		return call{[]string{newer}, func(d nvml.Device, r *gpu.Reading) nvml.Return {
			m, ret := d.GetMemoryInfo_v2()
			known(&r.MemoryTotal, m.Total, ret)
			return known(&r.MemoryUsed, m.Used, ret)
		}}
	}
	return call{[]string{"nvmlDeviceGetMemoryInfo"}, func(d nvml.Device, r *gpu.Reading) nvml.Return {
		m, ret := d.GetMemoryInfo()
		known(&r.MemoryTotal, m.Total, ret)
		return known(&r.MemoryUsed, m.Used, ret)
	}}
}

// eventReasons had another name before driver 535.
func eventReasons(d *driver) call {
	keep := func(r *gpu.Reading, bits uint64, ret nvml.Return) nvml.Return {
		if ret == nvml.SUCCESS {
			r.EventReasons = &bits
		}
		return ret
	}
	const newer = "nvmlDeviceGetCurrentClocksEventReasons"
	if d.has(newer) {
		return call{[]string{newer}, func(d nvml.Device, r *gpu.Reading) nvml.Return {
			bits, ret := d.GetCurrentClocksEventReasons()
			return keep(r, bits, ret)
		}}
	}
	return call{[]string{"nvmlDeviceGetCurrentClocksThrottleReasons"}, func(d nvml.Device, r *gpu.Reading) nvml.Return {
		bits, ret := d.GetCurrentClocksThrottleReasons()
		return keep(r, bits, ret)
	}}
}
