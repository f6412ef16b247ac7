package api

import (
	"fmt"
	"slices"
	"strings"
)

// Metric is what all series of one name on the metrics page have in common.
type Metric struct {
	Name   string
	Type   string // counter, gauge, histogram or summary
	Unit   string // "" for what is only counted
	Help   string
	Labels []string
}

// MetricsTable is the table of all metrics that a gateway's API exports. Others may add
// their own page: see Metrics.Add.
func MetricsTable() []Metric { return slices.Concat(metricsTable[:], runtimeMetrics[:]) }

const (
	counter   = "counter"
	gauge     = "gauge"
	histogram = "histogram"
	summary   = "summary"
)

// metric is a row of the table of our own metrics.
type metric int

const (
	requestsTotal metric = iota
	requestDuration
	ttft
	requestsRunning
	bodyMemoryBytes
	promptTokens
	cachedTokens
	completionTokens
	refusalsTotal
	tlsHandshakeFailures
	gateOpen
	gateClosed
	gateCutAnswers
	onCloseFailed
	onCloseFailures
	engineState
	engineRestarts
	sampleTimestamp
	sampleFailures
	balanceLow
	residualsTotal
	meterDrifts
	ledgerErrors
	panicsTotal

	metricsCount // how many there are
)

var metricsTable = [metricsCount]Metric{
	requestsTotal: {
		Name: "spotinference_requests_total", Type: counter, Labels: []string{"endpoint", "status"},
		Help: "Requests whose row is in the ledger.",
	},
	requestDuration: {
		Name: "spotinference_request_duration_seconds", Type: histogram, Unit: "seconds", Labels: []string{"endpoint"},
		Help: "Time from when the engine admitted a request to the end of its answer.",
	},
	ttft: {
		Name: "spotinference_ttft_seconds", Type: histogram, Unit: "seconds", Labels: []string{"endpoint"},
		Help: "Time from when the engine admitted a request to the first bytes of its answer.",
	},
	requestsRunning: {
		Name: "spotinference_requests_running", Type: gauge,
		Help: "Requests that are being served or wait for the engine.",
	},
	bodyMemoryBytes: {
		Name: "spotinference_body_memory_bytes", Type: gauge, Unit: "bytes",
		Help: "Memory that request bodies take while they are read or wait for the engine: see --max-body-memory.",
	},
	promptTokens: {
		Name: "spotinference_prompt_tokens_total", Type: counter, Unit: "tokens",
		Help: "Tokens of prompts, cached ones among them.",
	},
	cachedTokens: {
		Name: "spotinference_cached_tokens_total", Type: counter, Unit: "tokens",
		Help: "Tokens of prompts that the engine had in its cache.",
	},
	completionTokens: {
		Name: "spotinference_completion_tokens_total", Type: counter, Unit: "tokens",
		Help: "Tokens that the engine generated.",
	},
	refusalsTotal: {
		Name: "spotinference_refusals_total", Type: counter, Labels: []string{"code", "status"},
		Help: "Requests and connections that were refused before they reached the engine.",
	},
	tlsHandshakeFailures: {
		Name: "spotinference_tls_handshake_failures_total", Type: counter,
		Help: "Clients with which no TLS was agreed on.",
	},
	gateOpen: {
		Name: "spotinference_gate_open", Type: gauge,
		Help: "Whether the budget and the bill let new requests start.",
	},
	gateClosed: {
		Name: "spotinference_gate_closed", Type: gauge, Labels: []string{"reason"},
		Help: "Whether the gate is closed for this reason.",
	},
	gateCutAnswers: {
		Name: "spotinference_gate_cut_answers_total", Type: counter,
		Help: "Answers that were cut since the gate had closed and they did not end in time.",
	},
	onCloseFailed: {
		Name: "spotinference_on_close_failed", Type: gauge,
		Help: "Whether the gate is closed and the command of --on-close has failed, so that the machine may still run, and cost.",
	},
	onCloseFailures: {
		Name: "spotinference_on_close_failures_total", Type: counter,
		Help: "Times that the command of --on-close failed.",
	},
	engineState: {
		Name: "spotinference_engine_state", Type: gauge, Labels: []string{"state"},
		Help: "Whether the engine is in this state.",
	},
	engineRestarts: {
		Name: "spotinference_engine_restarts", Type: gauge,
		Help: "How often the engine was started after a crash.",
	},
	sampleTimestamp: {
		Name: "spotinference_sample_timestamp_seconds", Type: gauge, Unit: "seconds",
		Help: "When the bill was last read, as Unix time; 0 before the first time.",
	},
	sampleFailures: {
		Name: "spotinference_sample_failures_total", Type: counter, Labels: []string{"class"},
		Help: "Times that the bill could not be read, by the class of the failure.",
	},
	balanceLow: {
		Name: "spotinference_balance_low", Type: gauge,
		Help: "Whether the provider's account is nearly empty; missing where its balance is not known.",
	},
	residualsTotal: {
		Name: "spotinference_residuals_total", Type: counter,
		Help: "Spans in which the provider's account paid for more than is sampled.",
	},
	meterDrifts: {
		Name: "spotinference_meter_drifts_total", Type: counter,
		Help: "Times that the ledger and the engine's own counters were found to disagree.",
	},
	ledgerErrors: {
		Name: "spotinference_ledger_errors_total", Type: counter,
		Help: "Writes to the ledger that failed, each of which closes the gate.",
	},
	panicsTotal: {
		Name: "spotinference_panics_total", Type: counter,
		Help: "Bugs of the gateway's own that a request met.",
	},
}

// series is the name of one series of m: values are those of its labels, in order.
func (m metric) series(values ...string) string {
	row := &metricsTable[m]
	if len(values) != len(row.Labels) {
		panic(fmt.Sprintf("BUG: %s with %d labels", row.Name, len(values)))
	}
	if len(values) == 0 {
		return row.Name
	}
	pairs := make([]string, len(values))
	for i, v := range values {
		pairs[i] = fmt.Sprintf("%s=%q", row.Labels[i], v)
	}
	return row.Name + "{" + strings.Join(pairs, ",") + "}"
}

// runtimeMetrics are those of Go's runtime, as the metrics library names them: see
// Metrics.AddRuntime.
var runtimeMetrics = [...]Metric{
	{Name: "go_sched_latencies_seconds", Type: histogram, Unit: "seconds", Help: "Time that goroutines were ready to run and did not run."},
	{Name: "go_mutex_wait_seconds_total", Type: counter, Unit: "seconds", Help: "Time that goroutines waited for a mutex."},
	{Name: "go_gc_mark_assist_cpu_seconds_total", Type: counter, Unit: "seconds", Help: "CPU time that goroutines spent to help the garbage collector."},
	{Name: "go_gc_cpu_seconds_total", Type: counter, Unit: "seconds", Help: "CPU time of the garbage collector."},
	{Name: "go_gc_pauses_seconds", Type: histogram, Unit: "seconds", Help: "Pauses of the whole process by the garbage collector."},
	{Name: "go_scavenge_cpu_seconds_total", Type: counter, Unit: "seconds", Help: "CPU time spent to return memory to the system."},
	{Name: "go_memlimit_bytes", Type: gauge, Unit: "bytes", Help: "The limit on Go's memory."},
	{Name: "go_memstats_alloc_bytes", Type: gauge, Unit: "bytes", Help: "Heap memory in use."},
	{Name: "go_memstats_alloc_bytes_total", Type: counter, Unit: "bytes", Help: "Heap memory that was ever allocated."},
	{Name: "go_memstats_buck_hash_sys_bytes", Type: gauge, Unit: "bytes", Help: "Memory of profiling tables."},
	{Name: "go_memstats_frees_total", Type: counter, Help: "Heap objects that were freed."},
	{Name: "go_memstats_gc_cpu_fraction", Type: gauge, Unit: "ratio", Help: "The garbage collector's part of the CPU time since the start."},
	{Name: "go_memstats_gc_sys_bytes", Type: gauge, Unit: "bytes", Help: "Memory of the garbage collector's own."},
	{Name: "go_memstats_heap_alloc_bytes", Type: gauge, Unit: "bytes", Help: "Heap memory in use."},
	{Name: "go_memstats_heap_idle_bytes", Type: gauge, Unit: "bytes", Help: "Heap memory in spans that hold nothing."},
	{Name: "go_memstats_heap_inuse_bytes", Type: gauge, Unit: "bytes", Help: "Heap memory in spans that hold something."},
	{Name: "go_memstats_heap_objects", Type: gauge, Help: "Heap objects."},
	{Name: "go_memstats_heap_released_bytes", Type: gauge, Unit: "bytes", Help: "Heap memory that was returned to the system."},
	{Name: "go_memstats_heap_sys_bytes", Type: gauge, Unit: "bytes", Help: "Heap memory that was taken from the system."},
	{Name: "go_memstats_last_gc_time_seconds", Type: gauge, Unit: "seconds", Help: "When the garbage collector last ended, as Unix time."},
	{Name: "go_memstats_lookups_total", Type: counter, Help: "Pointer lookups of the runtime."},
	{Name: "go_memstats_mallocs_total", Type: counter, Help: "Heap objects that were ever allocated."},
	{Name: "go_memstats_mcache_inuse_bytes", Type: gauge, Unit: "bytes", Help: "Memory of the allocator's caches in use."},
	{Name: "go_memstats_mcache_sys_bytes", Type: gauge, Unit: "bytes", Help: "Memory of the allocator's caches."},
	{Name: "go_memstats_mspan_inuse_bytes", Type: gauge, Unit: "bytes", Help: "Memory of the allocator's spans in use."},
	{Name: "go_memstats_mspan_sys_bytes", Type: gauge, Unit: "bytes", Help: "Memory of the allocator's spans."},
	{Name: "go_memstats_next_gc_bytes", Type: gauge, Unit: "bytes", Help: "The size of the heap at which the garbage collector begins again."},
	{Name: "go_memstats_other_sys_bytes", Type: gauge, Unit: "bytes", Help: "Memory of the runtime's for other things."},
	{Name: "go_memstats_stack_inuse_bytes", Type: gauge, Unit: "bytes", Help: "Stacks in use."},
	{Name: "go_memstats_stack_sys_bytes", Type: gauge, Unit: "bytes", Help: "Memory of stacks."},
	{Name: "go_memstats_sys_bytes", Type: gauge, Unit: "bytes", Help: "Memory that was taken from the system."},
	{Name: "go_cgo_calls_count", Type: counter, Help: "Calls from Go into C."},
	{Name: "go_cpu_count", Type: gauge, Help: "CPUs of the machine."},
	{Name: "go_gc_duration_seconds", Type: summary, Unit: "seconds", Help: "Pauses of the garbage collector.", Labels: []string{"quantile"}},
	{Name: "go_gc_forced_count", Type: counter, Help: "Collections that the program asked for."},
	{Name: "go_gomaxprocs", Type: gauge, Help: "CPUs that may run Go at once."},
	{Name: "go_goroutines", Type: gauge, Help: "Goroutines."},
	{Name: "go_threads", Type: gauge, Help: "Threads."},
	{Name: "go_info", Type: gauge, Help: "The version of Go, as a label.", Labels: []string{"version"}},
	{Name: "go_info_ext", Type: gauge, Help: "What the program was built for, as labels.", Labels: []string{"compiler", "GOARCH", "GOOS", "GOROOT"}},
}
