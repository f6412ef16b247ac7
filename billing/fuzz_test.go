package billing

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
)

// addCases seeds a fuzzer with the replies of a file of testdata.
func addCases(f *testing.F, file string) {
	f.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		f.Fatal(err)
	}
	var cases struct {
		Cases []struct {
			Body json.RawMessage
			Text string `json:"body_text"`
		}
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		f.Fatal(err)
	}
	if len(cases.Cases) == 0 {
		f.Fatalf("%s has no cases", file)
	}
	for _, c := range cases.Cases {
		f.Add([]byte(c.Body))
		f.Add([]byte(c.Text))
	}
}

// classed wants a failure with a class and a text, and nothing beside it.
func classed(t *testing.T, what string, failure *Failure, empty bool) {
	t.Helper()
	if failure != nil && (failure.Class == "" || failure.Error() == "" || !empty) {
		t.Fatalf("%s: failure %+v beside a value", what, failure)
	}
}

// An amount is exactly what its text says, or nothing.
func FuzzAmount(f *testing.F) {
	for _, s := range []string{`62.541666666666664`, `"62.5"`, `1.4799118041992184e-11`, `NaN`, `1e400`, `null`, `"\u0031"`, `-0`, `"-1"`, `0x1p3`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var a amount
		if json.Unmarshal(b, &a) != nil || string(b) == "null" {
			return
		}
		var text string
		if json.Unmarshal(b, &text) != nil {
			text = string(b)
		}
		want, err := ledger.ParseNanos(text)
		if err != nil || ledger.Nanos(a) != want {
			t.Fatalf("%s read as %s, want %s (%v)", b, ledger.Nanos(a), want, err)
		}
	})
}

// A reply that is taken says the same when its members come in the other order.
func FuzzDecode(f *testing.F) {
	addCases(f, "hyperstack.json")
	for _, s := range []string{`{"a":1,"a":2}`, `{"a":1,"A":2}`, `{"b":[{"c":"x","c":"y"}]}`, `{"x":{"a":1,"a":2}}`, `{"d":{"e":1},"d":{"g":2}}`, `{"ſ":1,"s":2}`, `{"K":1,"k":2}`} {
		f.Add([]byte(s))
	}
	type reply struct {
		A *amount `json:"a"`
		B []struct {
			C *string `json:"c"`
		} `json:"b"`
		D *struct {
			E *int64 `json:"e"`
			G *int64 `json:"g"`
		} `json:"d"`
		S, K  *int64
		Own   json.RawMessage `json:"billing_history_vm_details"`
		Named *string         `json:"message"`
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var one, other reply
		if decode(body, &one) != nil {
			return
		}
		turned := turnRound(json.NewDecoder(bytes.NewReader(body)))
		if failure := decode(turned, &other); failure != nil {
			t.Fatalf("%q is taken, %q is not: %v", body, turned, failure)
		}
		one.Own, other.Own = nil, nil // as it came
		if !reflect.DeepEqual(one, other) {
			t.Fatalf("%q is %+v, %q is %+v", body, one, turned, other)
		}
	})
}

// turnRound writes the next value of dec with the members of its objects in the
// other order.
func turnRound(dec *json.Decoder) []byte {
	dec.UseNumber()
	token, _ := dec.Token()
	var parts [][]byte
	switch token {
	case json.Delim('['):
		for dec.More() {
			parts = append(parts, turnRound(dec))
		}
		dec.Token()
		return slices.Concat([]byte("["), bytes.Join(parts, []byte(",")), []byte("]"))
	case json.Delim('{'):
		for dec.More() {
			key, _ := dec.Token()
			name, _ := json.Marshal(key)
			parts = append(parts, slices.Concat(name, []byte(":"), turnRound(dec)))
		}
		dec.Token()
		slices.Reverse(parts)
		return slices.Concat([]byte("{"), bytes.Join(parts, []byte(",")), []byte("}"))
	default:
		b, _ := json.Marshal(token)
		return b
	}
}

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
		base, err := baseURL("https://cloud.test/v1")
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequest(http.MethodGet, base.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, failure := send(newClient(base, transport).http, req, startClock(now))
		switch {
		case failure == nil && (code != 200 || !bytes.Equal(got, body)):
			t.Fatalf("status %d gave %q", code, got)
		case failure == nil:
			return
		case failure.Class == "" || failure.RetryAfter < 0 || failure.RetryAfter > maxRetryAfter:
			t.Fatalf("failure %+v", failure)
		}
		if word := reason(body); word != "" {
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
	opts := Options{Getenv: func(name string) string {
		if name == "KEY_FILE" {
			return path
		}
		return ""
	}}
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := credential(opts, "KEY", "KEY_FILE")
		if err != nil {
			if key != "" || len(text) > minKey && strings.Contains(err.Error(), string(text)) {
				t.Fatalf("%.80q beside %.200v", key, err)
			}
			return
		}
		if key != strings.TrimSpace(string(text)) || len(key) < minKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("%.80q, %d bytes, read as %.80q, %d bytes", text, len(text), key, len(key))
		}
	})
}
