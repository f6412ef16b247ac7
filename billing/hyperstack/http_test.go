package hyperstack_test

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
)

// sockets opens the adapter on a real server, through the client of its own.
func sockets(t *testing.T, url string) api.Provider {
	t.Helper()
	p, err := open(api.Options{
		URL: url, Instance: "701234", Getenv: rig.Env(map[string]string{"HYPERSTACK_API_KEY": rig.Key}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
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
		rig.WantClass(t, err, api.Redirect)
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
	rig.WantClass(t, err, api.TLS)
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
	rig.WantClass(t, err, api.TooLarge)
	srv.Close() // waits for the handler
	if n := written.Load(); n > 64<<20 {
		t.Errorf("%d bytes were taken", n)
	}
}

func TestConnectionThatBreaks(t *testing.T) {
	var tries atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tries.Add(1)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, `{"instance":{`)
		panic(http.ErrAbortHandler)
	}))
	defer srv.Close()
	synctest.Test(t, func(t *testing.T) { // the pauses between tries take no time
		_, err := sockets(t, srv.URL).Sample(t.Context(), time.Now())
		rig.WantClass(t, err, api.Network)
	})
	if tries.Load() != 3 {
		t.Errorf("%d tries, want 3", tries.Load())
	}
}

func TestConnectionRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	synctest.Test(t, func(t *testing.T) {
		_, err := sockets(t, "http://"+addr+"/v1").Sample(t.Context(), time.Now())
		rig.WantClass(t, err, api.Network)
	})
}
