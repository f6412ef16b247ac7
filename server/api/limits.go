package api

import (
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/ledger"
	"spotinference/server/refusal"
)

// What a key may have in a minute is a token bucket: it holds a minute's worth and fills
// evenly. Each request takes one from the bucket of requests. What a request takes from
// the bucket of tokens is known at its end: it may begin while the bucket holds any, and
// its end may leave a debt there, which is paid off first.

// bucket is one of them. Guarded by the mu of its limits.
type bucket struct {
	limit int64 // a minute; 0: there is no limit
	level int64 // in shares: a unit is perUnit of them, so that a nanosecond fills in limit
	at    time.Time
}

// perUnit makes the filling exact: limit units a minute are limit shares a nanosecond.
const perUnit = int64(time.Minute)

// maxDebt bounds a debt, so that with the largest bucket one more fits 64 bits.
const maxDebt = 4_000_000_000 * 1_000_000_000

// maxCharge is what one answer is charged at most, in units.
const maxCharge = maxDebt / perUnit

func (b *bucket) capacity() int64 { return b.limit * perUnit }

// fill brings the bucket to now. A clock that stepped back adds nothing.
func (b *bucket) fill(now time.Time) {
	elapsed := now.Sub(b.at)
	if elapsed <= 0 {
		return
	}
	b.at = now
	if missing := b.capacity() - b.level; int64(elapsed) > missing/b.limit {
		b.level = b.capacity()
	} else {
		b.level += int64(elapsed) * b.limit
	}
}

// wait is how long the bucket fills until it holds level.
func (b *bucket) wait(level int64) time.Duration {
	return time.Duration(max(0, (level-b.level+b.limit-1)/b.limit))
}

// left is how many whole units it holds.
func (b *bucket) left() int64 { return max(0, b.level/perUnit) }

// limits are the buckets of one key.
type limits struct {
	mu               sync.Mutex
	requests, tokens bucket // guarded by mu
}

// How full a bucket begins.
const (
	full    = true  // a new key
	drained = false // a key of an earlier start: it may have been used up a moment ago
)

func newLimits(k ledger.Key, now time.Time, isFull bool) *limits {
	if k.RPM == 0 && k.TPM == 0 {
		return nil
	}
	l := &limits{requests: bucket{limit: k.RPM, at: now}, tokens: bucket{limit: k.TPM, at: now}}
	for _, b := range []*bucket{&l.requests, &l.tokens} {
		b.level = min(perUnit, b.capacity())
		if isFull {
			b.level = b.capacity()
		}
	}
	return l
}

// admit lets a request begin, or says why it may not, and when it may.
func (l *limits) admit(now time.Time) *refusal.Refusal {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var token time.Duration
	request := l.requestWaitLocked(now)
	if l.tokens.limit > 0 {
		l.tokens.fill(now)
		token = l.tokens.wait(1)
	}
	switch {
	case request > 0 || token > 0:
		if token > request {
			return refusal.TokenRate(l.tokens.limit, token)
		}
		return refusal.RequestRate(l.requests.limit, request)
	case l.requests.limit > 0:
		l.requests.level -= perUnit
	}
	return nil
}

// hasRequest says why no request may begin, and when one may. It takes nothing.
func (l *limits) hasRequest(now time.Time) *refusal.Refusal {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if wait := l.requestWaitLocked(now); wait > 0 {
		return refusal.RequestRate(l.requests.limit, wait)
	}
	return nil
}

// requestWaitLocked is how long it is until a request may begin.
func (l *limits) requestWaitLocked(now time.Time) time.Duration {
	if l.requests.limit == 0 {
		return 0
	}
	l.requests.fill(now)
	return l.requests.wait(perUnit)
}

// charge takes the tokens of an answer that has ended.
func (l *limits) charge(now time.Time, u ledger.Usage) {
	if l == nil || l.tokens.limit == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tokens.fill(now)
	l.tokens.level = max(l.tokens.level-min(u.PromptTokens+u.CompletionTokens, maxCharge)*perUnit, -maxDebt)
}

// writeHeaders writes what is left into an answer's head, as OpenAI's API does: reset is
// how long until the whole limit is there again.
func (l *limits) writeHeaders(h *fasthttp.ResponseHeader, now time.Time) {
	if l == nil {
		return
	}
	l.mu.Lock()
	requests, tokens := l.requests, l.tokens
	l.mu.Unlock()
	for _, b := range []struct {
		bucket
		limit, remaining, reset string
	}{
		{requests, "X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests"},
		{tokens, "X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens"},
	} {
		if b.bucket.limit == 0 {
			continue
		}
		b.fill(now)
		h.Set(b.limit, strconv.FormatInt(b.bucket.limit, 10))
		h.Set(b.remaining, strconv.FormatInt(b.left(), 10))
		h.Set(b.reset, resetText(b.wait(b.capacity())))
	}
}

// resetText is a duration as OpenAI writes one: 8.64s, 6m0s, 120ms. It is rounded up, so
// that it is never too early.
func resetText(d time.Duration) string {
	return ((d + time.Millisecond - 1) / time.Millisecond * time.Millisecond).String()
}
