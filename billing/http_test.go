package billing_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/ledger"
)

// sockets opens the adapter on a real server, through the client of its own.
func sockets(t *testing.T, url string) billing.Provider {
	t.Helper()
	p, err := billing.New("hyperstack", billing.Options{
		URL: url, Instance: "701234", Getenv: getenv(map[string]string{"HYPERSTACK_API_KEY": testKey}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
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

func TestRedirectDoesNotTakeTheKeyAlong(t *testing.T) {
	var reached atomic.Int64
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		t.Errorf("the redirect was followed, with %q", r.Header)
	}))
	defer target.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		srv := httptest.NewServer(http.RedirectHandler(target.URL, code))
		_, err := sockets(t, srv.URL).Sample(t.Context(), time.Now())
		wantClass(t, err, billing.Redirect)
		srv.Close()
	}
	if reached.Load() != 0 {
		t.Error("the target was reached")
	}
}

func TestTLSIsVerified(t *testing.T) {
	var reached atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	defer srv.Close()
	_, err := sockets(t, srv.URL).Sample(t.Context(), time.Now())
	wantClass(t, err, billing.TLS)
	if reached.Load() != 0 {
		t.Error("a server with an unknown certificate got the request")
	}
}

func TestBodyIsBounded(t *testing.T) {
	var written atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		block := bytes.Repeat([]byte(" "), 1<<20)
		for range 256 {
			n, err := w.Write(block)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	}))
	_, err := sockets(t, srv.URL).Sample(t.Context(), time.Now())
	wantClass(t, err, billing.TooLarge)
	srv.Close() // waits for the handler
	if n := written.Load(); n > 64<<20 {
		t.Errorf("%d bytes were taken", n)
	}
}

func TestConnectionThatBreaks(t *testing.T) {
	t.Parallel() // it waits between tries
	var tries atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tries.Add(1)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, `{"instance":{`)
		panic(http.ErrAbortHandler)
	}))
	defer srv.Close()
	_, err := sockets(t, srv.URL).Sample(t.Context(), time.Now())
	wantClass(t, err, billing.Network)
	if tries.Load() != 3 {
		t.Errorf("%d tries, want 3", tries.Load())
	}
}

func TestConnectionRefused(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, err = sockets(t, "http://"+addr+"/v1").Sample(t.Context(), time.Now())
	wantClass(t, err, billing.Network)
}

// A provider that says the key back, wherever it can, does not get it stored or
// printed.
func TestKeyIsKeptNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := newCloud(t)
		c.reply[vmPath] = c.body("instance", `"status":"ACTIVE"`, `"status":"`+testKey+`"`)
		c.reply[vmBillPath] = c.body("vm_billing_t0", `spot-h100-a`, testKey)
		st := &memory{}
		s, err := billing.NewSampler(billing.SamplerConfig{
			Provider: c.provider(nil), Store: st, Now: c.now,
			Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Last(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, r := range []recorded{
			{Status: 401, Body: fmt.Appendf(nil, `{"error_reason":%q,"message":%q}`, testKey, testKey)},
			{Status: 302, Headers: map[string]string{"Location": "https://elsewhere.test/?k=" + testKey}},
			{Status: 302, Headers: map[string]string{"Location": "::" + testKey}},
			{Status: 200, Headers: map[string]string{"Content-Type": testKey}},
			{Status: 200, Body: fmt.Appendf(nil, `{"billing_history_vm_details":%q}`, testKey)},
			{Status: 200, Body: []byte(testKey)},
			{Status: 200, Body: fmt.Appendf(nil, `{"billing_history_vm_details":{"org_id":1,"billing_history":[{"metrics":{"incurred_bill":%q}}]}}`, testKey)},
			{Status: 200, Headers: map[string]string{"Date": testKey}, Body: []byte("{}")},
			{Status: 429, Headers: map[string]string{"Retry-After": testKey}},
		} {
			c.reply[vmBillPath] = func(w http.ResponseWriter, _ *http.Request) { r.serve(w) }
			time.Sleep(time.Minute)
			if err := s.Last(t.Context()); err == nil {
				t.Errorf("%+v: a sample", r)
			} else {
				fmt.Fprintln(&log, err)
			}
		}
		if len(st.samples) != 1 || len(st.failures) != 9 {
			t.Fatalf("%d samples and %d failures, want 1 and 9", len(st.samples), len(st.failures))
		}
		all := fmt.Sprintf("%+v %+v %s", st.samples, st.failures, &log)
		for _, l := range st.samples[0].Lines {
			all += string(l.Raw)
			if l.Kind == ledger.Instance && !strings.Contains(string(l.Raw), "[redacted]") {
				t.Error("the reply that held the key is not marked as changed")
			}
		}
		if strings.Contains(all, testKey) || strings.Contains(all, "hs-test-0f3b2a1c") {
			t.Errorf("the key is in what is kept:\n%s", all)
		}
		if strings.Contains(all, "cloud.test") || strings.Contains(all, "start_date") {
			t.Errorf("host or query is in what is kept:\n%s", all)
		}
	})
}
