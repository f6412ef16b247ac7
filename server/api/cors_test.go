package api_test

import (
	"net/http"
	"strings"
	"testing"

	"spotinference/server/api"
	"spotinference/server/queue"
)

func TestCheckOrigin(t *testing.T) {
	t.Parallel()
	for _, o := range []string{"*", "https://app.example", "http://localhost:3000", "http://[::1]:5173", "http://127.0.0.1:1", "chrome-extension://abcdefgh"} {
		if err := api.CheckOrigin(o); err != nil {
			t.Errorf("%q: %v", o, err)
		}
	}
	for _, o := range []string{"", "null", "app.example", "https://", "https://app.example/", "https://app.example/x", "https://app.example?x", "https://App.example",
		"HTTPS://app.example", "https://app.example:443", "http://app.example:80", "https://u@app.example", "https://*.example", "https://a b", "https://a,https://b"} {
		if err := api.CheckOrigin(o); err == nil {
			t.Errorf("%q: accepted", o)
		}
	}
}

// TestPages: what a browser is told, and what reaches the engine.
func TestPages(t *testing.T) {
	t.Parallel()
	const good, bad = "https://app.example", "https://evil.example"
	engineSaw := &arrivals{}
	worldOf := func(key string, origins ...string) *world {
		return newWorld(t, queue.Llama, engineSaw.ServeHTTP, func(c *api.Config) { c.Key, c.Origins = key, origins })
	}
	f := func(name string, w *world, method, origin string, status, reached int, allowed string, headers ...string) http.Header {
		t.Helper()
		sent := chatBody
		if method == "OPTIONS" {
			sent = ""
		}
		resp, body := w.do(method, "/v1/chat/completions", sent, append([]string{"Origin", origin}, headers...)...)
		if resp.StatusCode != status || resp.Header.Get("Access-Control-Allow-Origin") != allowed {
			t.Errorf("%s: %d %v %s, want %d and %q", name, resp.StatusCode, resp.Header, body, status, allowed)
		}
		if resp.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: credentials", name)
		}
		if got := engineSaw.take(); len(got) != reached {
			t.Errorf("%s: the engine saw %q", name, got)
		}
		return resp.Header
	}
	preflight := []string{"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type,x-stainless-lang"}
	auth := []string{"Authorization", "Bearer sk-right"}

	listed := worldOf("sk-right", good, "http://localhost:3000")
	h := f("preflight", listed, "OPTIONS", good, 204, 0, good, preflight...)
	for name, want := range map[string]string{"Access-Control-Allow-Methods": "POST", "Access-Control-Allow-Headers": "authorization,content-type,x-stainless-lang", "Access-Control-Max-Age": "7200", "Vary": "Origin"} {
		if h.Get(name) != want {
			t.Errorf("preflight: %s = %q, want %q", name, h.Get(name), want)
		}
	}
	f("preflight of another", listed, "OPTIONS", bad, 403, 0, "", preflight...)
	f("preflight of none", listed, "OPTIONS", "null", 403, 0, "", preflight...)
	h = f("a page", listed, "POST", good, 200, 1, good, auth...)
	if !strings.Contains(h.Get("Access-Control-Expose-Headers"), "X-Request-Id") || h.Get("Vary") != "Origin" {
		t.Errorf("a page: %v", h)
	}
	f("a page without the key can read why", listed, "POST", good, 401, 0, good)
	h = f("another page has the key, and may not read", listed, "POST", bad, 200, 1, "", auth...)
	if h.Get("Vary") != "Origin" {
		t.Errorf("a cache would mix up pages: %v", h)
	}
	f("OPTIONS that is no preflight", listed, "OPTIONS", good, 405, 0, good, auth...)

	any := worldOf("sk-right", api.AnyOrigin)
	f("any: preflight", any, "OPTIONS", bad, 204, 0, "*", preflight...)
	f("any: a page", any, "POST", bad, 200, 1, "*", auth...)

	off := worldOf("sk-right")
	f("off: preflight", off, "OPTIONS", good, 405, 0, "", preflight...)
	f("off: a page with the key cannot read", off, "POST", good, 200, 1, "", auth...)

	// Without a key, a page that is not listed could spend by sending alone.
	open := worldOf("")
	f("no key: a page", open, "POST", good, 403, 0, "")
	f("no key: a page of none", open, "POST", "null", 403, 0, "")
	f("no key: preflight", open, "OPTIONS", good, 403, 0, "", preflight...)
	if resp, _ := open.do("POST", "/v1/chat/completions", chatBody); resp.StatusCode != 200 {
		t.Errorf("no key, no page: %d", resp.StatusCode)
	}
	engineSaw.take()
	f("no key: a listed page", worldOf("", good), "POST", good, 200, 1, good)

	// What cannot be read as HTTP is told to a page as well.
	got := rawAnswer(t, listed.addr, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nOrigin: "+good+"\r\nContent-Length: 5\r\n\r\n{\"a\":")
	if !strings.HasPrefix(got, "HTTP/1.1 401 ") || !strings.Contains(got, "\r\nAccess-Control-Allow-Origin: "+good+"\r\n") {
		t.Errorf("refused unread: %q", got)
	}
	if _, err := api.New(api.Config{Engine: open.engine, Ledger: open.ledger, Gate: open.gate, Metrics: api.NewMetrics(nil), Origins: []string{"x"}}); err == nil {
		t.Error("an origin that is none was accepted")
	}
}
