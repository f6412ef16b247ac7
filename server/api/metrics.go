package api

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server/refusal"
)

// Metrics are what GET /metrics tells. One set a process: main makes it and
// gives it to whoever counts.
type Metrics struct {
	set          *metrics.Set
	panics       *metrics.Counter
	ledgerErrors *metrics.Counter
	drifts       *metrics.Counter
	gateCuts     *metrics.Counter

	prompt, cached, completion *metrics.Counter // tokens

	mu        sync.Mutex
	endpoints map[string]*series // by the ledger's word; guarded by mu
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
		gateCuts:     set.NewCounter("spotinference_gate_cut_answers_total"),
		// There from the start, so that the first increase is seen.
		prompt:     set.NewCounter("spotinference_prompt_tokens_total"),
		cached:     set.NewCounter("spotinference_cached_tokens_total"),
		completion: set.NewCounter("spotinference_completion_tokens_total"),
		endpoints:  map[string]*series{},
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

// addServer adds what the server knows at the time it is asked.
func (m *Metrics) addServer(s *Server) {
	m.set.NewGauge("spotinference_requests_running", func() float64 { return float64(s.calls.len()) })
	m.set.NewGauge("spotinference_gate_open", func() float64 { return asFloat(s.cfg.Gate.Allow() == nil) })
	for _, reason := range budget.Reasons() {
		m.set.NewGauge(fmt.Sprintf("spotinference_gate_closed{reason=%q}", reason), func() float64 {
			return asFloat(gateWord(s.cfg.Gate.Allow()) == reason)
		})
	}
	m.set.NewGauge("spotinference_engine_restarts", func() float64 { return float64(s.cfg.Engine.Status().Restarts) })
	for _, state := range ledger.EngineStates() {
		m.set.NewGauge(fmt.Sprintf("spotinference_engine_state{state=%q}", state.Name), func() float64 {
			return asFloat(s.cfg.Engine.Status().State == state.Name)
		})
	}
}

func asFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// series are the metrics of one endpoint. The library finds a metric by its
// text; that would be made anew for every request.
type series struct {
	requests map[ledger.Status]*metrics.Counter
	duration *metrics.PrometheusHistogram
	ttft     *metrics.PrometheusHistogram // nil until an answer began
}

// finished counts a request whose row is on disk, so that these counters never
// run ahead of the ledger.
func (m *Metrics) finished(r ledger.Request) {
	requests, duration, ttft := m.series(r)
	requests.Inc()
	m.prompt.AddInt64(r.Usage.PromptTokens)
	m.cached.AddInt64(r.Usage.CachedTokens)
	m.completion.AddInt64(r.Usage.CompletionTokens)
	duration.Update(r.Finished.Sub(r.Started).Seconds())
	if !r.First.IsZero() {
		ttft.Update(r.First.Sub(r.Started).Seconds())
	}
}

// series returns what counts r, the first time making it.
func (m *Metrics) series(r ledger.Request) (requests *metrics.Counter, duration, ttft *metrics.PrometheusHistogram) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.endpoints[r.Endpoint]
	if s == nil {
		s = &series{requests: map[ledger.Status]*metrics.Counter{}, duration: m.histogram("request_duration", r.Endpoint)}
		m.endpoints[r.Endpoint] = s
	}
	if s.ttft == nil && !r.First.IsZero() {
		s.ttft = m.histogram("ttft", r.Endpoint)
	}
	if s.requests[r.Status] == nil {
		s.requests[r.Status] = m.set.NewCounter(fmt.Sprintf("spotinference_requests_total{endpoint=%q,status=%q}", r.Endpoint, r.Status))
	}
	return s.requests[r.Status], s.duration, s.ttft
}

func (m *Metrics) histogram(name, endpoint string) *metrics.PrometheusHistogram {
	return m.set.NewPrometheusHistogramExt(fmt.Sprintf("spotinference_%s_seconds{endpoint=%q}", name, endpoint), buckets)
}

// Refused counts a refusal of what never reached the engine.
func (m *Metrics) Refused(e *refusal.Refusal) {
	m.set.GetOrCreateCounter(fmt.Sprintf("spotinference_refusals_total{code=%q,status=\"%d\"}", e.Code, e.Status)).Inc()
}

// HandshakeFailed counts a client with which no TLS was agreed on.
func (m *Metrics) HandshakeFailed() {
	m.set.GetOrCreateCounter("spotinference_tls_handshake_failures_total").Inc()
}

// SampleFailed counts a dark minute by its class.
func (m *Metrics) SampleFailed(class string) {
	m.set.GetOrCreateCounter(fmt.Sprintf("spotinference_sample_failures_total{class=%q}", class)).Inc()
}

// Add has write called for what else belongs on the page, in the same format.
func (m *Metrics) Add(write func(io.Writer)) {
	m.set.RegisterMetricsWriter(write)
}

// AddRuntime adds what Go's runtime knows of our own process, by the names that every Go
// program has it under: goroutines, memory, collections.
func (m *Metrics) AddRuntime() { m.Add(metrics.WriteGoMetrics) }

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
