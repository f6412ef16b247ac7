// Package rig drives the tests of every adapter: clouds that answer as recorded or as
// simulated, one table of the adapters and their calls, and ways to spoil a reply. It is
// for tests only, and knows no adapter but by its name and its calls: each test opens
// its own.
//
//	c := rig.NewHyperstackCloud(t, hyperstack.Adapter().Open)
//	c.Reply[rig.HyperstackVMPath] = c.Body("instance", `"status":"ACTIVE"`, `"status":"SHUTOFF"`)
//	s, err := c.Provider(nil).Sample(t.Context(), c.Now())
package rig

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"spotinference/billing/api"
	"spotinference/ledger"
)

// Key is the credential in these tests.
const Key = "hs-test-0f3b2a1c/secret+key=="

// Direct is the network between the client and a handler: none. Time in it can be
// faked, and a hanging handler hangs.
type Direct struct{ http.Handler }

// RoundTrip implements http.RoundTripper.
func (d Direct) RoundTrip(r *http.Request) (*http.Response, error) {
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

// Env looks up vars, as os.Getenv would.
func Env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// FixedAnchor is a history in which every series starts at one instant.
type FixedAnchor time.Time

// Newest implements api.History.
func (f FixedAnchor) Newest(string) (string, *ledger.Nanos, bool) {
	return api.Epoch(time.Time(f)), nil, true
}

// Open implements api.History.
func (f FixedAnchor) Open(string) ([]string, error) { return nil, nil }

// Time reads an instant in RFC 3339.
func Time(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// November carries the time of the recordings on by the (often faked) clock.
func November() func() time.Time {
	start := time.Now()
	return func() time.Time {
		return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).Add(time.Since(start))
	}
}

// WantClass wants err to be a failure of this class, without the key in it.
func WantClass(t *testing.T, err error, class api.Class) {
	t.Helper()
	var f *api.Failure
	if !errors.As(err, &f) || f.Class != class {
		t.Errorf("err = %v, want class %q", err, class)
	}
	if err != nil && strings.Contains(err.Error(), Key) {
		t.Errorf("the key is in %q", err)
	}
}

// Memory is a sampler's store.
type Memory struct {
	mu       sync.Mutex
	Samples  []ledger.Sample
	Failures []ledger.SampleFailure
	Err      error // of every write
	Refuse   error // of samples
}

// AddSample implements billing.Store.
func (m *Memory) AddSample(ctx context.Context, s ledger.Sample) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(ctx.Err(), m.Err, m.Refuse); err != nil {
		return 0, err
	}
	m.Samples = append(m.Samples, s)
	return int64(len(m.Samples)), nil
}

// AddSampleFailure implements billing.Store.
func (m *Memory) AddSampleFailure(ctx context.Context, f ledger.SampleFailure) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(ctx.Err(), m.Err); err != nil {
		return err
	}
	m.Failures = append(m.Failures, f)
	return nil
}
