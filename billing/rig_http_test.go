package billing_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"spotinference/billing"
	"spotinference/ledger"
)

const testKey = "hs-test-0f3b2a1c/secret+key=="

// recorded is one case of testdata/hyperstack.json.
type recorded struct {
	Name    string
	Request struct {
		Path  string
		Query map[string]string
	}
	Status  int
	Headers map[string]string
	Body    json.RawMessage
	Text    string `json:"body_text"`
}

func (r recorded) serve(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	for k, v := range r.Headers {
		w.Header().Set(k, v)
	}
	w.WriteHeader(r.Status)
	w.Write(r.Body)
	io.WriteString(w, r.Text)
}

// direct is the network between the client and a handler: none. Time in it can be
// faked, and a hanging handler hangs.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	done := make(chan struct{})
	broken := false
	go func() {
		defer close(done)
		defer func() { broken = recover() != nil }() // as net/http does with ErrAbortHandler
		d.ServeHTTP(rec, r)
	}()
	select {
	case <-r.Context().Done():
		<-done // every handler here looks at the context
		return nil, r.Context().Err()
	case <-done:
	}
	if broken {
		return nil, io.ErrUnexpectedEOF
	}
	return rec.Result(), nil
}

func getenv(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

type fixedAnchor time.Time

func (f fixedAnchor) Newest(string) (string, *ledger.Nanos, bool) {
	return billing.Epoch(time.Time(f)), nil, true
}

func (f fixedAnchor) Open(string) ([]string, error) { return nil, nil }

func when(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// november carries the time of the recordings on by the (often faked) clock.
func november() func() time.Time {
	start := time.Now()
	return func() time.Time {
		return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).Add(time.Since(start))
	}
}

func answer(r recorded) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { r.serve(w) }
}

func wantClass(t *testing.T, err error, class billing.Class) {
	t.Helper()
	var f *billing.Failure
	if !errors.As(err, &f) || f.Class != class {
		t.Errorf("err = %v, want class %q", err, class)
	}
	if err != nil && strings.Contains(err.Error(), testKey) {
		t.Errorf("the key is in %q", err)
	}
}

// memory is a ledger's place in these tests.
type memory struct {
	mu       sync.Mutex
	samples  []ledger.Sample
	failures []ledger.SampleFailure
	err      error // of every write
	refuse   error // of samples
}

func (m *memory) AddSample(ctx context.Context, s ledger.Sample) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(ctx.Err(), m.err, m.refuse); err != nil {
		return 0, err
	}
	m.samples = append(m.samples, s)
	return int64(len(m.samples)), nil
}

func (m *memory) AddSampleFailure(ctx context.Context, f ledger.SampleFailure) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(ctx.Err(), m.err); err != nil {
		return err
	}
	m.failures = append(m.failures, f)
	return nil
}
