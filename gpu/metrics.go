package gpu

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Metric is what all series of one name on the metrics page have in common.
type Metric struct {
	Name   string
	Type   string // counter or gauge
	Unit   string // "" for what is only counted
	Help   string
	Labels []string
}

// MetricsTable is the table of all metrics that WriteMetrics writes.
func MetricsTable() []Metric {
	table := []Metric{sourceMetric, readAtMetric}
	for _, m := range readingMetrics {
		table = append(table, m.Metric)
	}
	return append(table, eventMetric, xidMetric)
}

const (
	counter = "counter"
	gauge   = "gauge"
)

var (
	sourceMetric = Metric{Name: "spotinference_gpu_source", Type: gauge, Labels: []string{"source"},
		Help: "Whether the GPUs are read by this source."}
	readAtMetric = Metric{Name: "spotinference_gpu_reading_timestamp_seconds", Type: gauge, Unit: "seconds",
		Help: "When the GPUs were last read, as Unix time; 0 before the first time."}
	eventMetric = Metric{Name: "spotinference_gpu_clocks_event", Type: gauge, Labels: []string{"gpu", "uuid", "reason"},
		Help: "Whether the GPU's clocks are what they are for this reason."}
	xidMetric = Metric{Name: "spotinference_gpu_xid_errors_total", Type: counter, Labels: []string{"uuid", "xid"},
		Help: "Errors of the GPU that the driver reported, by their XID."}
)

var perGPU = []string{"gpu", "uuid"}

// readingMetrics are the figures of a reading.
var readingMetrics = []struct {
	Metric
	value      func(Reading) *int64
	times, per int64 // from the reading's unit into the metric's
}{
	{Metric{"spotinference_gpu_utilisation_ratio", gauge, "ratio", "Part of the time in which the GPU ran anything.", perGPU},
		func(r Reading) *int64 { return r.Utilisation }, 1, 100},
	{Metric{"spotinference_gpu_memory_used_bytes", gauge, "bytes", "Memory of the GPU in use.", perGPU},
		func(r Reading) *int64 { return r.MemoryUsed }, 1, 1},
	{Metric{"spotinference_gpu_memory_total_bytes", gauge, "bytes", "Memory that the GPU has.", perGPU},
		func(r Reading) *int64 { return r.MemoryTotal }, 1, 1},
	{Metric{"spotinference_gpu_power_watts", gauge, "watts", "Power that the GPU draws.", perGPU},
		func(r Reading) *int64 { return r.Power }, 1, 1000},
	{Metric{"spotinference_gpu_power_limit_watts", gauge, "watts", "Power that the GPU may draw.", perGPU},
		func(r Reading) *int64 { return r.PowerLimit }, 1, 1000},
	{Metric{"spotinference_gpu_energy_joules_total", counter, "joules", "Energy that the GPU has used since its driver was loaded.", perGPU},
		func(r Reading) *int64 { return r.Energy }, 1, 1000},
	{Metric{"spotinference_gpu_temperature_celsius", gauge, "celsius", "Temperature of the GPU.", perGPU},
		func(r Reading) *int64 { return r.Temperature }, 1, 1},
	{Metric{"spotinference_gpu_sm_clock_hertz", gauge, "hertz", "Clock of the GPU's multiprocessors.", perGPU},
		func(r Reading) *int64 { return r.SMClock }, 1_000_000, 1},
	{Metric{"spotinference_gpu_memory_clock_hertz", gauge, "hertz", "Clock of the GPU's memory.", perGPU},
		func(r Reading) *int64 { return r.MemoryClock }, 1_000_000, 1},
	{Metric{"spotinference_gpu_ecc_corrected_errors_total", counter, "", "Memory errors that the GPU corrected since its driver was loaded.", perGPU},
		func(r Reading) *int64 { return r.ECCCorrected }, 1, 1},
	{Metric{"spotinference_gpu_ecc_uncorrected_errors_total", counter, "", "Memory errors that the GPU could not correct since its driver was loaded.", perGPU},
		func(r Reading) *int64 { return r.ECCUncorrected }, 1, 1},
}

// WriteMetrics writes a snapshot in Prometheus' text format. GPUs whose readings
// are stale have no gauges: a dead figure looks like a quiet GPU.
func WriteMetrics(w io.Writer, s Snapshot, now time.Time) {
	e := exposition{w: w}
	e.family(sourceMetric)
	for _, name := range []Source{Helper, SMI, None} {
		on := "0"
		if s.Source == name {
			on = "1"
		}
		e.sample(on, string(name))
	}
	e.family(readAtMetric)
	stamp := "0"
	if !s.At.IsZero() {
		stamp = decimal(s.At.UnixMilli(), 1000)
	}
	e.sample(stamp)
	if s.Fresh(now) {
		e.readings(s.Cards)
	}
	xids := slices.SortedFunc(maps.Keys(s.XIDs), func(a, b XID) int {
		return cmp.Or(cmp.Compare(a.UUID, b.UUID), cmp.Compare(a.Code, b.Code))
	})
	if len(xids) > 0 {
		e.family(xidMetric)
	}
	for _, x := range xids {
		e.sample(strconv.FormatInt(s.XIDs[x], 10), x.UUID, strconv.FormatUint(x.Code, 10))
	}
}

// exposition writes families of samples.
type exposition struct {
	w io.Writer
	m Metric // whose samples are written
}

func (e *exposition) family(m Metric) {
	e.m = m
	fmt.Fprintf(e.w, "# TYPE %s %s\n", m.Name, m.Type)
}

// sample writes one: labels are the values of the metric's labels, in order.
func (e *exposition) sample(value string, labels ...string) {
	if len(labels) != len(e.m.Labels) {
		panic(fmt.Sprintf("BUG: %s with %d labels", e.m.Name, len(labels)))
	}
	var pairs []string
	for i, v := range labels {
		pairs = append(pairs, fmt.Sprintf("%s=%q", e.m.Labels[i], v))
	}
	set := ""
	if len(pairs) > 0 {
		set = "{" + strings.Join(pairs, ",") + "}"
	}
	fmt.Fprintf(e.w, "%s%s %s\n", e.m.Name, set, value)
}

// readings writes a family for each figure that a GPU tells.
func (e *exposition) readings(cards []Reading) {
	for _, m := range readingMetrics {
		first := true
		for _, r := range cards {
			v := m.value(r)
			if v == nil {
				continue
			}
			if first {
				e.family(m.Metric)
				first = false
			}
			e.sample(decimal(*v*m.times, m.per), strconv.Itoa(r.Index), r.UUID)
		}
	}
	first := true
	for _, r := range cards {
		if r.EventReasons == nil {
			continue
		}
		if first {
			e.family(eventMetric)
			first = false
		}
		for _, reason := range reasonNames {
			on := "0"
			if *r.EventReasons&reason.bit != 0 {
				on = "1"
			}
			e.sample(on, strconv.Itoa(r.Index), r.UUID, reason.name)
		}
	}
}

// decimal writes n ÷ per, per being a power of ten.
func decimal(n, per int64) string {
	if per == 1 {
		return strconv.FormatInt(n, 10)
	}
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	digits := len(strconv.FormatInt(per, 10)) - 1
	return fmt.Sprintf("%s%d.%0*d", sign, n/per, digits, n%per)
}
