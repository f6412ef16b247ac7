package provider

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whatever answers, there is a body of JSON's kind or a failure with a class; peace
// is kept for an hour at most; and nothing of the body is in the failure but a word.
func FuzzReply(f *testing.F) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	date := now.Format(http.TimeFormat)
	f.Add(200, "application/json", "", date, []byte(`{}`))
	f.Add(200, "application/json; charset=utf-8", "soon", "yesterday", []byte(`{}`))
	f.Add(429, "text/plain", "120", date, []byte(`{"error":"too_fast"}`))
	f.Add(503, "text/html", date, "", []byte(`<html>`))
	f.Add(401, "application/json", "-1", date, []byte(`{"error_reason":"unauthorized"}`))
	f.Add(403, "application/json", "99999999999999999999", date, []byte(`{"code":"forbidden_action","message":"no"}`))
	f.Add(302, ";", "Mon, 23 Nov 2026 12:00:09 GMT", date, []byte(nil))
	f.Fuzz(func(t *testing.T, code int, kind, retry, date string, body []byte) {
		transport := roundTrip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: code, Request: r, Body: io.NopCloser(bytes.NewReader(body)),
				Header: http.Header{"Content-Type": {kind}, "Retry-After": {retry}, "Date": {date}}}, nil
		})
		base, err := BaseURL("https://cloud.test/v1")
		if err != nil {
			t.Fatal(err)
		}
		got, failure := NewClient(base, transport).Send(t.Context(), StartClock(now), Request{})
		switch {
		case failure == nil && (code != 200 || !bytes.Equal(got, body)):
			t.Fatalf("status %d gave %q", code, got)
		case failure == nil:
			return
		case failure.Class == "" || failure.RetryAfter < 0 || failure.RetryAfter > MaxRetryAfter:
			t.Fatalf("failure %+v", failure)
		}
		if word := Reason(body); word != "" {
			if strings.Trim(word, "abcdefghijklmnopqrstuvwxyz_") != "" || len(word) > 32 {
				t.Fatalf("reason %q", word)
			}
			return
		}
		if text := failure.Error(); len(text) > 200 || len(body) > 40 && strings.Contains(text, string(body)) {
			t.Fatalf("the failure says %q", text)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A file holds a key that can be sent in a header, less the blanks around it, or it
// is refused without a word of what it holds.
func FuzzCredentialFile(f *testing.F) {
	f.Add([]byte("hs-test-0f3b2a1c/secret+key==\n"))
	f.Add([]byte("\ufeffhs-test-0f3b2a1c\r\n"))
	f.Add([]byte("two words of a key"))
	f.Add([]byte("key\r\nX-Other: header"))
	f.Add(bytes.Repeat([]byte("k"), 5000))
	f.Add([]byte(nil))
	path := filepath.Join(f.TempDir(), "key")
	getenv := func(name string) string {
		if name == "KEY_FILE" {
			return path
		}
		return ""
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := Credential(getenv, "KEY", "KEY_FILE")
		if err != nil {
			if key != "" || len(text) > minSecret && strings.Contains(err.Error(), string(text)) {
				t.Fatalf("%.80q beside %.200v", key, err)
			}
			return
		}
		if key != strings.TrimSpace(string(text)) || len(key) < minSecret || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("%.80q, %d bytes, read as %.80q, %d bytes", text, len(text), key, len(key))
		}
	})
}
