package api

import (
	"crypto/sha256"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/ledger"
	"spotinference/server/refusal"
)

var t0 = time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)

func keyFor(text string) ledger.Key {
	return ledger.Key{ID: "key_" + text, Name: text, Digest: sha256.Sum256([]byte(text)), Created: t0}
}

// TestRequestsAMinute: a minute's worth at once, then one each sixtieth of it, to the
// nanosecond; what is told of it is so.
func TestRequestsAMinute(t *testing.T) {
	k := keyFor("k")
	k.RPM = 7 // no whole number of nanoseconds each
	l := newLimits(k, t0, full)
	now := t0
	for i := range 7 {
		if e := l.admit(now); e != nil {
			t.Fatalf("request %d: %v", i, e.Message)
		}
	}
	e := l.admit(now)
	if e == nil || e.Status != 429 || e.Code != "rate_limit_exceeded" || e.RetryAfter != 8571428572 {
		t.Fatalf("the eighth: %+v", e)
	}
	var h fasthttp.ResponseHeader
	l.writeHeaders(&h, now)
	if got := headers(&h); got != "limit-requests 7, remaining-requests 0, reset-requests 1m0s" {
		t.Errorf("told %s", got)
	}
	if e := l.admit(now.Add(e.RetryAfter - 1)); e == nil {
		t.Error("let in a nanosecond early")
	}
	if e := l.admit(now.Add(e.RetryAfter)); e != nil {
		t.Errorf("refused when it was to come back: %v", e.RetryAfter)
	}
	// An hour fills it to a minute's worth, and no more.
	now = now.Add(time.Hour)
	for i := range 7 {
		if e := l.admit(now); e != nil {
			t.Errorf("request %d after an hour: %v", i, e.Message)
		}
	}
	if l.admit(now) == nil {
		t.Error("an hour is worth more than a minute")
	}
	// A clock that steps back gives nothing.
	if l.admit(now.Add(-time.Hour)) == nil {
		t.Error("a step back let one in")
	}
}

// TestTokensAMinute: charged at the end, below zero perhaps; a request may begin while
// the bucket holds any.
func TestTokensAMinute(t *testing.T) {
	k := keyFor("k")
	k.TPM = 60
	l := newLimits(k, t0, full)
	take := func(at time.Duration, wait time.Duration) {
		t.Helper()
		e := l.admit(t0.Add(at))
		if e == nil && wait > 0 || e != nil && e.RetryAfter != wait {
			t.Errorf("at %s: %+v, want a wait of %s", at, e, wait)
		}
	}
	take(0, 0)
	take(0, 0) // the first one has not ended
	l.charge(t0, ledger.Usage{PromptTokens: 100, CachedTokens: 90, CompletionTokens: 20})
	take(0, time.Minute+1)
	var h fasthttp.ResponseHeader
	l.writeHeaders(&h, t0)
	if got := headers(&h); got != "limit-tokens 60, remaining-tokens 0, reset-tokens 2m0s" {
		t.Errorf("told %s", got)
	}
	take(time.Minute, 1)
	take(time.Minute+1, 0)
	l.writeHeaders(&h, t0.Add(90*time.Second+time.Nanosecond))
	if got := headers(&h); got != "limit-tokens 60, remaining-tokens 30, reset-tokens 30s" {
		t.Errorf("told %s", got)
	}
	// No count of tokens is too large for it.
	for range 5 {
		l.charge(t0, ledger.Usage{PromptTokens: 1 << 62})
	}
	if e := l.admit(t0.Add(24 * time.Hour)); e == nil || e.RetryAfter <= 0 {
		t.Errorf("after endless tokens: %+v", e)
	}
}

// TestARestartIsNoGift: a key that was there before the start begins with one request,
// and one token, whatever it had left.
func TestARestartIsNoGift(t *testing.T) {
	k := keyFor("k")
	k.RPM, k.TPM = 60, 6000
	ring := newKeyring(Config{Key: "", Keys: []ledger.Key{k}, Now: func() time.Time { return t0 }})
	l := (*ring.snapshot.Load())[prefix(&k.Digest)].limits
	if e := l.admit(t0); e != nil {
		t.Errorf("the first: %v", e.Message)
	}
	if e := l.admit(t0); e == nil || e.Type != "requests" || e.RetryAfter != time.Second {
		t.Errorf("the second: %+v", e)
	}
	// And neither is a change of the key.
	k.Expires = t0.Add(time.Hour)
	ring.put(k, t0)
	if l := (*ring.snapshot.Load())[prefix(&k.Digest)].limits; l.admit(t0) == nil {
		t.Error("a change filled the bucket")
	}
}

// TestNeverMoreThanTheLimit: whatever the pace, in no span are more let in than a full
// bucket and what fills in meanwhile, and the wait that is told is the least that helps.
func TestNeverMoreThanTheLimit(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		k := keyFor("k")
		k.RPM = 1 + rnd.Int64N(1000)
		if seed == 0 {
			k.RPM = ledger.MaxRate
		}
		l := newLimits(k, t0, full)
		now, in := t0, int64(0)
		for range 5000 {
			now = now.Add(time.Duration(rnd.Int64N(int64(2*time.Minute) / k.RPM)))
			if e := l.admit(now); e == nil {
				in++
			} else if before := (&limits{requests: l.requests}); before.admit(now.Add(e.RetryAfter-1)) == nil {
				t.Fatalf("seed %d: a wait of %s was too long", seed, e.RetryAfter)
			}
			if most := k.RPM + k.RPM*int64(now.Sub(t0)/time.Second+1)/60 + 1; in > most {
				t.Fatalf("seed %d: %d let in within %s, limit %d a minute", seed, in, now.Sub(t0), k.RPM)
			}
		}
	}
}

// TestTheWholeDigestCounts: a digest that is found by its first half is compared to its
// last byte.
func TestTheWholeDigestCounts(t *testing.T) {
	k := keyFor("sk-si-right")
	k.Digest[sha256.Size-1] ^= 1
	ring := newKeyring(Config{Key: "", Keys: []ledger.Key{k}, Now: func() time.Time { return t0 }})
	var h fasthttp.RequestHeader
	h.Set("Authorization", "Bearer sk-si-right")
	if _, e := ring.find(&h, t0); e == nil || e.Kind != refusal.InvalidKey {
		t.Errorf("half a digest let it in: %v", e)
	}
}

// TestFindingAKeyLeavesNoGarbage: one hash and one look into a map.
func TestFindingAKeyLeavesNoGarbage(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	k := keyFor("sk-si-right")
	k.RPM, k.TPM = ledger.MaxRate, ledger.MaxRate
	ring := newKeyring(Config{Key: "sk-own", Keys: []ledger.Key{k, keyFor("another")}, Now: func() time.Time { return t0 }})
	for _, name := range []string{"Authorization", "X-Api-Key"} {
		var h fasthttp.RequestHeader
		h.Set(name, map[string]string{"Authorization": "Bearer sk-si-right", "X-Api-Key": "sk-si-right"}[name])
		if n := testing.AllocsPerRun(1000, func() {
			k, e := ring.find(&h, t0)
			if e != nil || ring.budget(k, t0) != nil || k.limits.admit(t0.Add(time.Hour)) != nil {
				t.Fatal("refused")
			}
			k.limits.charge(t0, ledger.Usage{CompletionTokens: 1})
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// headers are the x-ratelimit ones of h, in order.
func headers(h *fasthttp.ResponseHeader) string {
	var out []string
	for _, name := range []string{"limit-requests", "remaining-requests", "reset-requests", "limit-tokens", "remaining-tokens", "reset-tokens"} {
		if v := h.Peek("X-Ratelimit-" + name); len(v) > 0 {
			out = append(out, name+" "+string(v))
		}
	}
	return strings.Join(out, ", ")
}
