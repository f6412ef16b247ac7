package gpu

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"
)

// WriteMetrics writes a snapshot in Prometheus' text format. Cards whose readings
// are stale have no gauges: a dead figure looks like a quiet card.
func WriteMetrics(w io.Writer, s Snapshot, now time.Time) {
	e := exposition{w: w}
	e.family("spotinference_gpu_source", "gauge")
	for _, name := range []Source{Helper, SMI, None} {
		on := "0"
		if s.Source == name {
			on = "1"
		}
		e.sample(fmt.Sprintf("source=%q", name), on)
	}
	e.family("spotinference_gpu_reading_timestamp_seconds", "gauge")
	stamp := "0"
	if !s.At.IsZero() {
		stamp = decimal(s.At.UnixMilli(), 1000)
	}
	e.sample("", stamp)
	if s.Fresh(now) {
		e.cards(s.Cards)
	}
	xids := slices.SortedFunc(maps.Keys(s.XIDs), func(a, b XID) int {
		return cmp.Or(cmp.Compare(a.UUID, b.UUID), cmp.Compare(a.Code, b.Code))
	})
	if len(xids) > 0 {
		e.family("spotinference_gpu_xid_errors_total", "counter")
	}
	for _, x := range xids {
		e.sample(fmt.Sprintf("uuid=%q,xid=\"%d\"", x.UUID, x.Code), strconv.FormatInt(s.XIDs[x], 10))
	}
}

// exposition writes families of samples.
type exposition struct {
	w    io.Writer
	name string
}

func (e *exposition) family(name, kind string) {
	e.name = name
	fmt.Fprintf(e.w, "# TYPE %s %s\n", name, kind)
}

func (e *exposition) sample(labels, value string) {
	if labels != "" {
		labels = "{" + labels + "}"
	}
	fmt.Fprintf(e.w, "%s%s %s\n", e.name, labels, value)
}

// cards writes a family for each figure that a card tells.
func (e *exposition) cards(cards []Reading) {
	for _, f := range []struct {
		name, kind string
		value      func(Reading) *int64
		times, per int64 // from the reading's unit into the metric's
	}{
		{"utilisation_ratio", "gauge", func(r Reading) *int64 { return r.Utilisation }, 1, 100},
		{"memory_used_bytes", "gauge", func(r Reading) *int64 { return r.MemoryUsed }, 1, 1},
		{"memory_total_bytes", "gauge", func(r Reading) *int64 { return r.MemoryTotal }, 1, 1},
		{"power_watts", "gauge", func(r Reading) *int64 { return r.Power }, 1, 1000},
		{"power_limit_watts", "gauge", func(r Reading) *int64 { return r.PowerLimit }, 1, 1000},
		{"energy_joules_total", "counter", func(r Reading) *int64 { return r.Energy }, 1, 1000},
		{"temperature_celsius", "gauge", func(r Reading) *int64 { return r.Temperature }, 1, 1},
		{"sm_clock_hertz", "gauge", func(r Reading) *int64 { return r.SMClock }, 1_000_000, 1},
		{"memory_clock_hertz", "gauge", func(r Reading) *int64 { return r.MemoryClock }, 1_000_000, 1},
		{"ecc_corrected_errors_total", "counter", func(r Reading) *int64 { return r.ECCCorrected }, 1, 1},
		{"ecc_uncorrected_errors_total", "counter", func(r Reading) *int64 { return r.ECCUncorrected }, 1, 1},
	} {
		first := true
		for _, r := range cards {
			v := f.value(r)
			if v == nil {
				continue
			}
			if first {
				e.family("spotinference_gpu_"+f.name, f.kind)
				first = false
			}
			e.sample(label(r), decimal(*v*f.times, f.per))
		}
	}
	first := true
	for _, r := range cards {
		if r.EventReasons == nil {
			continue
		}
		if first {
			e.family("spotinference_gpu_clocks_event", "gauge")
			first = false
		}
		for _, reason := range reasonNames {
			on := "0"
			if *r.EventReasons&reason.bit != 0 {
				on = "1"
			}
			e.sample(fmt.Sprintf("%s,reason=%q", label(r), reason.name), on)
		}
	}
}

func label(r Reading) string { return fmt.Sprintf("gpu=\"%d\",uuid=%q", r.Index, r.UUID) }

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
