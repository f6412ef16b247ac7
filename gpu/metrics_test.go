package gpu_test

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/gpu"
)

// everything is a snapshot of all that a GPU may tell.
func everything() gpu.Snapshot {
	n := func(n int64) *int64 { return &n }
	reasons := uint64(4)
	return gpu.Snapshot{
		State: gpu.State{Source: gpu.Helper}, At: time.UnixMilli(1_700_000_000_250),
		Cards: []gpu.Reading{
			{Index: 0, UUID: "GPU-a", Utilisation: n(7), MemoryUsed: n(1 << 30), MemoryTotal: n(2 << 30), Power: n(70250), PowerLimit: n(350000), Energy: n(12345678),
				Temperature: n(40), SMClock: n(1410), MemoryClock: n(1593), ECCCorrected: n(3), ECCUncorrected: n(1), EventReasons: &reasons},
			{Index: 1, UUID: "GPU-b", Power: n(-1)},
		},
		XIDs: map[gpu.XID]int64{{UUID: "GPU-b", Code: 79}: 1, {UUID: "GPU-a", Code: 13}: 2},
	}
}

func TestMetricsPage(t *testing.T) {
	var b strings.Builder
	s := everything()
	gpu.WriteMetrics(&b, s, s.At)
	page := regexp.MustCompile(`(?m)^spotinference_gpu_clocks_event\{.* 0\n`).ReplaceAllString(b.String(), "") // a dozen reasons that are none
	if want := strings.TrimPrefix(metricsPage, "\n"); page != want {
		t.Errorf("%s\nwant\n%s", page, want)
	}
}

const metricsPage = `
# TYPE spotinference_gpu_source gauge
spotinference_gpu_source{source="helper"} 1
spotinference_gpu_source{source="nvidia-smi"} 0
spotinference_gpu_source{source="none"} 0
# TYPE spotinference_gpu_reading_timestamp_seconds gauge
spotinference_gpu_reading_timestamp_seconds 1700000000.250
# TYPE spotinference_gpu_utilisation_ratio gauge
spotinference_gpu_utilisation_ratio{gpu="0",uuid="GPU-a"} 0.07
# TYPE spotinference_gpu_memory_used_bytes gauge
spotinference_gpu_memory_used_bytes{gpu="0",uuid="GPU-a"} 1073741824
# TYPE spotinference_gpu_memory_total_bytes gauge
spotinference_gpu_memory_total_bytes{gpu="0",uuid="GPU-a"} 2147483648
# TYPE spotinference_gpu_power_watts gauge
spotinference_gpu_power_watts{gpu="0",uuid="GPU-a"} 70.250
spotinference_gpu_power_watts{gpu="1",uuid="GPU-b"} -0.001
# TYPE spotinference_gpu_power_limit_watts gauge
spotinference_gpu_power_limit_watts{gpu="0",uuid="GPU-a"} 350.000
# TYPE spotinference_gpu_energy_joules_total counter
spotinference_gpu_energy_joules_total{gpu="0",uuid="GPU-a"} 12345.678
# TYPE spotinference_gpu_temperature_celsius gauge
spotinference_gpu_temperature_celsius{gpu="0",uuid="GPU-a"} 40
# TYPE spotinference_gpu_sm_clock_hertz gauge
spotinference_gpu_sm_clock_hertz{gpu="0",uuid="GPU-a"} 1410000000
# TYPE spotinference_gpu_memory_clock_hertz gauge
spotinference_gpu_memory_clock_hertz{gpu="0",uuid="GPU-a"} 1593000000
# TYPE spotinference_gpu_ecc_corrected_errors_total counter
spotinference_gpu_ecc_corrected_errors_total{gpu="0",uuid="GPU-a"} 3
# TYPE spotinference_gpu_ecc_uncorrected_errors_total counter
spotinference_gpu_ecc_uncorrected_errors_total{gpu="0",uuid="GPU-a"} 1
# TYPE spotinference_gpu_clocks_event gauge
spotinference_gpu_clocks_event{gpu="0",uuid="GPU-a",reason="sw_power_cap"} 1
# TYPE spotinference_gpu_xid_errors_total counter
spotinference_gpu_xid_errors_total{uuid="GPU-a",xid="13"} 2
spotinference_gpu_xid_errors_total{uuid="GPU-b",xid="79"} 1
`

// TestMetricsTable: the page shows what the table says, and no more.
func TestMetricsTable(t *testing.T) {
	var b strings.Builder
	s := everything()
	gpu.WriteMetrics(&b, s, s.At)
	label := regexp.MustCompile(`[{,](\w+)="`)
	kinds, labels := map[string]string{}, map[string][]string{}
	for line := range strings.Lines(b.String()) {
		if family, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(strings.TrimSpace(family), " ")
			kinds[name] = kind
			continue
		}
		name := line[:strings.IndexAny(line, "{ ")]
		labels[name] = nil
		for _, m := range label.FindAllStringSubmatch(line, -1) {
			labels[name] = append(labels[name], m[1])
		}
	}
	for _, row := range gpu.MetricsTable() {
		if kinds[row.Name] != row.Type || !slices.Equal(labels[row.Name], row.Labels) || row.Help == "" {
			t.Errorf("%s: a %q with labels %q, the table says %+v", row.Name, kinds[row.Name], labels[row.Name], row)
		}
		delete(kinds, row.Name)
	}
	for name := range maps.Keys(kinds) {
		t.Errorf("%s: not in the table", name)
	}
}
