package api

import (
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server/refusal"
)

// Metrics are what GET /metrics shows: see MetricsTable. There is one set a process.
type Metrics struct {
	set          *metrics.Set
	panics       *metrics.Counter
	ledgerErrors *metrics.Counter
	drifts       *metrics.Counter
	gateCuts     *metrics.Counter

	onCloseFailed   *metrics.Gauge
	onCloseFailures *metrics.Counter

	prompt, cached, completion *metrics.Counter // tokens

	mu        sync.Mutex
	endpoints map[string]*series // by Route.Endpoint; guarded by mu
}

// An answer takes from milliseconds to many minutes, its first token from
// milliseconds to a queue's length.
var buckets = metrics.ExponentialBuckets(0.005, 2, 18) // up to 11 minutes

// NewMetrics makes the set. newest returns when the bill was last read, false where it
// never was.
func NewMetrics(newest func() (time.Time, bool)) *Metrics {
	set := metrics.NewSet()
	metrics.ExposeMetadata(true) // the library's own switch: # TYPE lines
	m := &Metrics{
		set:          set,
		panics:       set.NewCounter(panicsTotal.series()),
		ledgerErrors: set.NewCounter(ledgerErrors.series()),
		drifts:       set.NewCounter(meterDrifts.series()),
		gateCuts:     set.NewCounter(gateCutAnswers.series()),

		onCloseFailed:   set.NewGauge(onCloseFailed.series(), nil),
		onCloseFailures: set.NewCounter(onCloseFailures.series()),
		// There from the start, so that the first increase is seen.
		prompt:     set.NewCounter(promptTokens.series()),
		cached:     set.NewCounter(cachedTokens.series()),
		completion: set.NewCounter(completionTokens.series()),
		endpoints:  map[string]*series{},
	}
	set.NewGauge(sampleTimestamp.series(), func() float64 {
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
	m.set.NewGauge(requestsRunning.series(), func() float64 { return float64(s.calls.len()) })
	m.set.NewGauge(bodyMemoryBytes.series(), func() float64 { return float64(s.bodies.inUse()) })
	m.set.NewGauge(gateOpen.series(), func() float64 { return asFloat(s.cfg.Gate.Allow() == nil) })
	for _, reason := range budget.Reasons() {
		m.set.NewGauge(gateClosed.series(reason), func() float64 {
			return asFloat(gateWord(s.cfg.Gate.Allow()) == reason)
		})
	}
	m.set.NewGauge(engineRestarts.series(), func() float64 { return float64(s.cfg.Engine.Status().Restarts) })
	for _, state := range ledger.EngineStates() {
		m.set.NewGauge(engineState.series(string(state.Name)), func() float64 {
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
	requests, duration, first := m.series(r)
	requests.Inc()
	m.prompt.AddInt64(r.Usage.PromptTokens)
	m.cached.AddInt64(r.Usage.CachedTokens)
	m.completion.AddInt64(r.Usage.CompletionTokens)
	duration.Update(r.Finished.Sub(r.Started).Seconds())
	if !r.First.IsZero() {
		first.Update(r.First.Sub(r.Started).Seconds())
	}
}

// series returns what counts r, the first time making it.
func (m *Metrics) series(r ledger.Request) (requests *metrics.Counter, duration, first *metrics.PrometheusHistogram) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.endpoints[r.Endpoint]
	if s == nil {
		s = &series{requests: map[ledger.Status]*metrics.Counter{}, duration: m.histogram(requestDuration, r.Endpoint)}
		m.endpoints[r.Endpoint] = s
	}
	if s.ttft == nil && !r.First.IsZero() {
		s.ttft = m.histogram(ttft, r.Endpoint)
	}
	if s.requests[r.Status] == nil {
		s.requests[r.Status] = m.set.NewCounter(requestsTotal.series(r.Endpoint, string(r.Status)))
	}
	return s.requests[r.Status], s.duration, s.ttft
}

func (m *Metrics) histogram(of metric, endpoint string) *metrics.PrometheusHistogram {
	return m.set.NewPrometheusHistogramExt(of.series(endpoint), buckets)
}

// Refused counts a refusal of what never reached the engine.
func (m *Metrics) Refused(r *refusal.Refusal) {
	m.set.GetOrCreateCounter(refusalsTotal.series(r.Code, strconv.Itoa(r.Status))).Inc()
}

// HandshakeFailed counts a client with which no TLS was agreed on.
func (m *Metrics) HandshakeFailed() {
	m.set.GetOrCreateCounter(tlsHandshakeFailures.series()).Inc()
}

// SampleFailed counts a dark minute by its class.
func (m *Metrics) SampleFailed(class string) {
	m.set.GetOrCreateCounter(sampleFailures.series(class)).Inc()
}

// OnCloseFailed sets whether the command that follows a closed gate has failed, and
// counts that it did.
func (m *Metrics) OnCloseFailed(failed bool) {
	m.onCloseFailed.Set(asFloat(failed))
	if failed {
		m.onCloseFailures.Inc()
	}
}

// Add has write called for what else belongs on the page, in the same format.
func (m *Metrics) Add(write func(io.Writer)) {
	m.set.RegisterMetricsWriter(write)
}

// AddRuntime adds what Go's runtime knows of our own process, by the names that every Go
// program has it under: goroutines, memory, collections.
func (m *Metrics) AddRuntime() { m.Add(metrics.WriteGoMetrics) }

// LowBalance sets whether the provider's account is low. The metric is there from the
// first reading of the balance on: what is not known has no value.
func (m *Metrics) LowBalance(low bool) {
	m.set.GetOrCreateGauge(balanceLow.series(), nil).Set(asFloat(low))
	m.set.GetOrCreateCounter(residualsTotal.series()) // so that the first increase is seen
}

// Residual counts a span in which the account paid for more than is sampled.
func (m *Metrics) Residual() {
	m.set.GetOrCreateCounter(residualsTotal.series()).Inc()
}

// Write writes the metrics in Prometheus' text format.
func (m *Metrics) Write(w io.Writer) {
	m.set.WritePrometheus(w)
}
