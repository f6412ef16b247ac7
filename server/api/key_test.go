package api_test

import (
	"crypto/sha256"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/queue"
)

// stopped is a clock that goes on when it is told to.
type stopped struct {
	start time.Time
	ahead atomic.Int64
}

func newStopped() *stopped                  { return &stopped{start: time.Now()} }
func (c *stopped) Now() time.Time           { return c.start.Add(time.Duration(c.ahead.Load())) }
func (c *stopped) advance(by time.Duration) { c.ahead.Add(int64(by)) }

// keyOf is a key of the ledger, by its text.
func keyOf(text string, at time.Time, change func(*ledger.Key)) ledger.Key {
	k := ledger.Key{ID: "key_" + text, Name: text, Digest: sha256.Sum256([]byte(text)), Created: at}
	if change != nil {
		change(&k)
	}
	return k
}

// keyed is a world over a real ledger that has keys.
func keyed(t *testing.T, h http.HandlerFunc, own string, clock *stopped, keys ...ledger.Key) (*world, *ledger.Ledger) {
	t.Helper()
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { led.Close() })
	for _, k := range keys {
		if err := led.AddKey(k); err != nil {
			t.Fatal(err)
		}
	}
	all, err := led.Keys()
	if err != nil {
		t.Fatal(err)
	}
	return newWorld(t, queue.Llama, h, func(c *api.Config) {
		c.Key, c.Keys, c.Ledger, c.Now = own, all, led, clock.Now
	}), led
}

// chat asks with a key.
func (w *world) chat(key string) (*http.Response, string) {
	w.t.Helper()
	return w.do("POST", "/v1/chat/completions", chatBody, "Authorization", "Bearer "+key)
}

// TestKeysComeIn: what a key opens, from the instant that it is there to its end.
func TestKeysComeIn(t *testing.T) {
	t.Parallel()
	clock := newStopped()
	w, led := keyed(t, jsonAnswer(200, chatAnswer), "", clock)
	f := func(want int, word string, headers ...string) {
		t.Helper()
		for _, path := range []string{"/v1/chat/completions", "/v1/messages"} {
			resp, body := w.do("POST", path, chatBody, headers...)
			if resp.StatusCode != want || !strings.Contains(body, word) || want == 401 && resp.Header.Get("X-Should-Retry") != "false" {
				t.Errorf("%s with %q: %d %s, want %d with %q", path, headers, resp.StatusCode, body, want, word)
			}
		}
	}
	f(200, "") // no key was ever made: none is asked for
	put := func(text string, change func(*ledger.Key)) ledger.Key {
		t.Helper()
		k := keyOf(text, clock.Now().UTC().Truncate(time.Microsecond), change)
		if err := led.AddKey(k); err != nil {
			t.Fatal(err)
		}
		w.server.PutKey(k)
		return k
	}
	ann := put("ann", nil)
	f(401, "Incorrect API key")
	f(401, "Incorrect API key", "Authorization", "Bearer bob")
	f(401, "Incorrect API key", "Authorization", "Basic ann")
	f(200, "", "Authorization", "Bearer ann")
	f(200, "", "authorization", "bearer ann")
	f(200, "", "X-Api-Key", "ann")
	put("short", func(k *ledger.Key) { k.Expires = k.Created.Add(time.Minute) })
	f(200, "", "X-Api-Key", "short")
	clock.advance(time.Minute)
	f(401, "has expired", "X-Api-Key", "short")
	ann, err := led.RevokeKey(ann.Name, clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.server.PutKey(ann)
	f(401, "has been revoked", "Authorization", "Bearer ann")
	f(401, "Incorrect API key") // and nobody without

	// The other paths, and the body that is not read without a key.
	if resp, _ := w.do("GET", "/v1/models", "", "X-Api-Key", "ann"); resp.StatusCode != 401 {
		t.Errorf("models with a revoked key: %d", resp.StatusCode)
	}
	if resp, _ := w.do("GET", "/readyz", ""); resp.StatusCode != 200 {
		t.Errorf("readyz needs no key: %d", resp.StatusCode)
	}
}

// TestTheOwnKeyStays: the key that serve was started with may do everything beside those
// of the ledger, and its rows have no name.
func TestTheOwnKeyStays(t *testing.T) {
	t.Parallel()
	clock := newStopped()
	w, led := keyed(t, jsonAnswer(200, chatAnswer), "sk-own", clock, keyOf("ann", clock.Now(), nil))
	for key, want := range map[string]int{"sk-own": 200, "ann": 200, "sk-own2": 401, "": 401} {
		if resp, body := w.chat(key); resp.StatusCode != want {
			t.Errorf("%q: %d %s", key, resp.StatusCode, body)
		}
	}
	sums, err := led.TotalsBy(clock.Now().Add(-time.Hour), clock.Now().Add(time.Hour), "key")
	if err != nil || len(sums) != 2 || sums[""].OK != 1 || sums["key_ann"].OK != 1 || sums["key_ann"].Usage.CompletionTokens != 3 {
		t.Errorf("rows by key: %+v, %v", sums, err)
	}
}

// TestLimitsAreTold: on every answer to a key that has them, as OpenAI's API does, and
// only there; past them 429 in the dialect, with the time until it helps.
func TestLimitsAreTold(t *testing.T) {
	t.Parallel()
	clock := newStopped()
	key := keyOf("ann", clock.Now(), nil)
	w, _ := keyed(t, jsonAnswer(200, chatAnswer), "sk-own", clock, key)
	told := func(resp *http.Response) string {
		var out []string
		for _, name := range []string{"Limit-Requests", "Remaining-Requests", "Reset-Requests", "Limit-Tokens", "Remaining-Tokens", "Reset-Tokens"} {
			if v := resp.Header.Get("X-Ratelimit-" + name); v != "" {
				out = append(out, v)
			}
		}
		return strings.Join(out, " ")
	}
	f := func(who string, path, body string, status int, want, word string) *http.Response {
		t.Helper()
		resp, answer := w.do("POST", path, body, "Authorization", "Bearer "+who)
		if resp.StatusCode != status || told(resp) != want || !strings.Contains(answer, word) {
			t.Errorf("%s: %d, told %q, %s; want %d, %q, %s", path, resp.StatusCode, told(resp), answer, status, want, word)
		}
		return resp
	}
	const chat = "/v1/chat/completions"
	f("ann", chat, chatBody, 200, "", "")
	f("sk-own", chat, chatBody, 200, "", "")
	f("nobody", chat, chatBody, 401, "", "")
	limited := keyOf("limited", clock.Now(), func(k *ledger.Key) { k.RPM, k.TPM = 4, 120 })
	w.server.PutKey(limited)

	// 59 prompt and 3 output tokens each, charged before the end of the answer leaves.
	f("limited", chat, chatBody, 200, "4 3 15s 120 58 31s", "Yes.")
	f("limited", chat, "{", 400, "4 3 15s 120 58 31s", "not valid JSON") // costs nothing
	f("limited", chat, chatBody, 200, "4 2 30s 120 0 1m2s", "Yes.")
	resp := f("limited", chat, chatBody, 429, "4 2 30s 120 0 1m2s", `"type":"tokens"`)
	if got := resp.Header.Get("Retry-After"); got != "3" || resp.Header.Get("X-Should-Retry") != "" {
		t.Errorf("Retry-After %q (%v), want 3: two tokens too many, and one to begin with, at two a second", got, resp.Header)
	}
	f("limited", "/v1/messages", chatBody, 429, "4 2 30s 120 0 1m2s", `"type":"rate_limit_error"`)
	clock.advance(3 * time.Second)
	f("limited", chat, chatBody, 200, "4 1 42s 120 0 1m30s", "Yes.")
	if resp, _ := w.do("GET", "/v1/models", "", "Authorization", "Bearer limited"); told(resp) != "4 1 42s 120 0 1m30s" {
		t.Errorf("the list of models costs nothing: %q", told(resp))
	}
	clock.advance(5 * time.Minute)
	for range 4 {
		w.do("POST", "/v1/messages/count_tokens", chatBody, "Authorization", "Bearer limited")
	}
	resp = f("limited", chat, chatBody, 429, "4 0 1m0s 120 120 0s", `"code":"rate_limit_exceeded"`)
	if got := resp.Header.Get("Retry-After"); got != "15" {
		t.Errorf("Retry-After %q, want 15", got)
	}
	w.gate.set(errDisk)
	clock.advance(15 * time.Second)
	f("limited", chat, chatBody, 503, "4 1 45s 120 120 0s", "billing_unobservable") // costs nothing
}

// TestModelsOfAKey: to a key, the models that it may not use are not there.
func TestModelsOfAKey(t *testing.T) {
	t.Parallel()
	clock := newStopped()
	list := `{"object":"list","data":[{"id":"a","x":1},{"id":"b"}],"models":[{"name":"a","model":"a"},{"name":"b"}],"more":"b"}`
	w, _ := keyed(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/models" {
			io.WriteString(w, list)
			return
		}
		jsonAnswer(200, chatAnswer)(w, r)
	}, "", clock, keyOf("all", clock.Now(), nil), keyOf("a-only", clock.Now(), func(k *ledger.Key) { k.Models = []string{"a"} }))
	f := func(key, path, body string, status int, word string) {
		t.Helper()
		resp, answer := w.do("POST", path, body, "X-Api-Key", key)
		if resp.StatusCode != status || !strings.Contains(answer, word) {
			t.Errorf("%s as %s: %d %s, want %d with %s", body, key, resp.StatusCode, answer, status, word)
		}
	}
	const chat = "/v1/chat/completions"
	f("all", chat, `{"model":"b","messages":[]}`, 200, "")
	f("all", chat, `{"messages":[]}`, 200, "")
	f("a-only", chat, `{"model":"a","messages":[]}`, 200, "")
	f("a-only", chat, `{"model":"b","messages":[]}`, 404, `"code":"model_not_found"`)
	f("a-only", "/v1/messages", `{"model":"b","messages":[]}`, 404, `"type":"not_found_error"`)
	f("a-only", chat, `{"model":"a","mod\u0065l":"b","messages":[]}`, 404, "model_not_found") // the last counts, as it does to the engine
	f("a-only", chat, `{"messages":[]}`, 400, "name one of them")
	f("a-only", "/v1/messages/count_tokens", `{"model":"b","messages":[]}`, 404, "not_found_error")
	f("a-only", "/v1/messages/count_tokens", `{"model":"a","messages":[]}`, 200, "")

	see := func(key, want string) {
		t.Helper()
		resp, got := w.do("GET", "/v1/models", "", "X-Api-Key", key)
		if resp.StatusCode != 200 || got != want {
			t.Errorf("models of %s: %d %s, want %s", key, resp.StatusCode, got, want)
		}
	}
	const only = `{"data":[{"id":"a","x":1}],"models":[{"name":"a","model":"a"}],"object":"list"}`
	see("all", list)
	see("a-only", only)
	w.engine.set(ledger.Suspended) // from memory
	see("a-only", only)
	see("all", list)
	w.engine.set(ledger.Ready)
	list = `what is this`
	see("a-only", `{"data":[],"object":"list"}`)
}

// TestKeyBudget: a key is refused when it has used up its budget, and when nobody can
// tell what it has used; others are not.
func TestKeyBudget(t *testing.T) {
	t.Parallel()
	clock := newStopped()
	five := ledger.Nanos(5_000_000_000)
	w, _ := keyed(t, jsonAnswer(200, chatAnswer), "", clock, keyOf("free", clock.Now(), nil),
		keyOf("ann", clock.Now(), func(k *ledger.Key) { k.PerDay = &five }))
	f := func(key string, status int, retry, word string) {
		t.Helper()
		resp, body := w.chat(key)
		if resp.StatusCode != status || resp.Header.Get("Retry-After") != retry || !strings.Contains(body, word) {
			t.Errorf("%s: %d, retry after %q, %s; want %d, %q, %s", key, resp.StatusCode, resp.Header.Get("Retry-After"), body, status, retry, word)
		}
	}
	spent := func(s api.KeySpend) { s.Until = clock.Now().Add(15 * time.Second); w.server.SetKeySpend(s) }
	f("ann", 503, "1", "being computed") // nobody has told yet
	f("free", 200, "", "")
	spent(api.KeySpend{Known: true})
	f("ann", 200, "", "")
	spent(api.KeySpend{Known: true, By: map[string]ledger.Nanos{"key_ann": five - 1, "key_free": five}})
	f("ann", 200, "", "")
	f("free", 200, "", "")
	spent(api.KeySpend{Known: true, By: map[string]ledger.Nanos{"key_ann": five}})
	f("ann", 402, "", `"code":"insufficient_quota"`)
	f("free", 200, "", "")
	resp, body := w.do("POST", "/v1/messages", chatBody, "X-Api-Key", "ann")
	if resp.StatusCode != 402 || !strings.Contains(body, "billing_error") || resp.Header.Get("X-Should-Retry") != "false" {
		t.Errorf("messages: %d %s %v", resp.StatusCode, body, resp.Header)
	}
	spent(api.KeySpend{})
	f("ann", 503, "60", "cannot be told")
	spent(api.KeySpend{Known: true})
	clock.advance(15 * time.Second)
	f("ann", 503, "1", "being computed") // who tells has died
}

// TestAKeyThatEndsWhileItsRequestWaits: it is asked for again when the engine is awake.
func TestAKeyThatEndsWhileItsRequestWaits(t *testing.T) {
	t.Parallel()
	clock := newStopped()
	w, led := keyed(t, jsonAnswer(200, chatAnswer), "", clock, keyOf("ann", clock.Now(), nil))
	w.engine.set(ledger.Suspended)
	answered := make(chan string)
	go func() {
		_, body := w.chat("ann")
		answered <- body
	}()
	eventually(t, "a waiter", func() bool { _, n := w.engine.load(); return n == 1 })
	k, err := led.RevokeKey("ann", clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.server.PutKey(k)
	w.wake(nil)
	body := <-answered
	var v struct{ Error struct{ Message string } }
	if json.Unmarshal([]byte(body), &v) != nil || !strings.Contains(v.Error.Message, "revoked") {
		t.Errorf("answer %s", body)
	}
}
