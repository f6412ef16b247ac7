package server

import (
	"fmt"
	"io"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"spotinference/ledger"
	"spotinference/server/engine"
)

// Metrics are what GET /metrics tells. One set a process: main makes it and
// gives it to whoever counts.
type Metrics struct {
	set          *metrics.Set
	panics       *metrics.Counter
	ledgerErrors *metrics.Counter
	drifts       *metrics.Counter
}

// An answer takes from milliseconds to many minutes, its first token from
// milliseconds to a queue's length.
var buckets = metrics.ExponentialBuckets(0.005, 2, 18) // up to 11 minutes

// NewMetrics makes the set. newest tells when the bill was seen last, false
// where it was not.
func NewMetrics(newest func() (time.Time, bool)) *Metrics {
	set := metrics.NewSet()
	metrics.ExposeMetadata(true) // the library's own switch: # TYPE lines
	m := &Metrics{
		set:          set,
		panics:       set.NewCounter("spotinference_panics_total"),
		ledgerErrors: set.NewCounter("spotinference_ledger_errors_total"),
		drifts:       set.NewCounter("spotinference_meter_drifts_total"),
	}
	for _, kind := range []string{"prompt", "cached", "completion"} {
		m.tokens(kind, 0) // there from the start, so that the first increase is seen
	}
	set.NewGauge("spotinference_sample_timestamp_seconds", func() float64 {
		at, ok := newest()
		if !ok {
			return 0
		}
		return float64(at.UnixMilli()) / 1000
	})
	return m
}

// watch adds what the server knows at the time it is asked.
func (m *Metrics) watch(s *Server) {
	m.set.NewGauge("spotinference_requests_running", func() float64 { return float64(s.calls.len()) })
	m.set.NewGauge("spotinference_gate_open", func() float64 { return asFloat(s.cfg.Gate.Allow() == nil) })
	m.set.NewGauge("spotinference_engine_restarts", func() float64 { return float64(s.cfg.Engine.Status().Restarts) })
	for _, state := range []engine.State{engine.Stopped, engine.Starting, engine.Ready, engine.Crashed} {
		m.set.NewGauge(fmt.Sprintf("spotinference_engine_state{state=%q}", state), func() float64 {
			return asFloat(s.cfg.Engine.Status().State == state)
		})
	}
}

func asFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// finished counts a request whose row is on disk, so that these counters never
// run ahead of the ledger.
func (m *Metrics) finished(r ledger.Request) {
	m.set.GetOrCreateCounter(fmt.Sprintf("spotinference_requests_total{endpoint=%q,status=%q}", r.Endpoint, r.Status)).Inc()
	m.tokens("prompt", r.Usage.PromptTokens)
	m.tokens("cached", r.Usage.CachedTokens)
	m.tokens("completion", r.Usage.CompletionTokens)
	m.set.GetOrCreatePrometheusHistogramExt(fmt.Sprintf("spotinference_request_duration_seconds{endpoint=%q}", r.Endpoint), buckets).
		Update(r.Finished.Sub(r.Started).Seconds())
	if !r.First.IsZero() {
		m.set.GetOrCreatePrometheusHistogramExt(fmt.Sprintf("spotinference_ttft_seconds{endpoint=%q}", r.Endpoint), buckets).
			Update(r.First.Sub(r.Started).Seconds())
	}
}

func (m *Metrics) tokens(kind string, n int64) {
	m.set.GetOrCreateCounter("spotinference_" + kind + "_tokens_total").AddInt64(n)
}

// refused counts an answer of ours that never reached the engine.
func (m *Metrics) refused(e *apiError) {
	m.set.GetOrCreateCounter(fmt.Sprintf("spotinference_refusals_total{code=%q,status=\"%d\"}", e.code, e.status)).Inc()
}

// SampleFailed counts a dark minute by its class.
func (m *Metrics) SampleFailed(class string) {
	m.set.GetOrCreateCounter(fmt.Sprintf("spotinference_sample_failures_total{class=%q}", class)).Inc()
}

// Add has write called for what else belongs on the page, in the same format.
func (m *Metrics) Add(write func(io.Writer)) {
	m.set.RegisterMetricsWriter(write)
}

// LowBalance says whether the provider's account is low. It is there from the first
// look at the balance on: what is not known has no value.
func (m *Metrics) LowBalance(low bool) {
	m.set.GetOrCreateGauge("spotinference_balance_low", nil).Set(asFloat(low))
	m.set.GetOrCreateCounter("spotinference_residuals_total") // so that the first increase is seen
}

// Residual counts a span in which the account paid for more than is sampled.
func (m *Metrics) Residual() {
	m.set.GetOrCreateCounter("spotinference_residuals_total").Inc()
}

// Write writes the metrics in Prometheus' text format.
func (m *Metrics) Write(w io.Writer) {
	m.set.WritePrometheus(w)
}
