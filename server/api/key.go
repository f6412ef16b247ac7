package api

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/ledger"
	"spotinference/server/refusal"
)

// key is one API key and what is left of its limits.
type key struct {
	ledger.Key
	limits *limits // nil for a key without any; kept when the key changes
}

// keyring knows the digests of the keys, never a key. Each look reads one snapshot.
type keyring struct {
	// main is the key that serve was started with: it may do everything.
	main *key

	quotaStatus int // Config.QuotaStatus

	changing sync.Mutex // one change at a time
	snapshot atomic.Pointer[keys]

	spent atomic.Pointer[KeySpend]
}

// keys are found by the first half of their digest. The whole digest is compared in
// constant time.
type keys map[[sha256.Size / 2]byte]*key

func prefix(digest *[sha256.Size]byte) [sha256.Size / 2]byte {
	return [sha256.Size / 2]byte(digest[:])
}

// newKeyring makes a ring of the key that serve was started with, and those of the
// ledger.
func newKeyring(cfg Config) *keyring {
	r := &keyring{quotaStatus: cfg.QuotaStatus}
	if cfg.Key != "" {
		r.main = &key{Key: ledger.Key{Digest: sha256.Sum256([]byte(cfg.Key))}}
	}
	all, now := keys{}, cfg.Now()
	for _, k := range cfg.Keys {
		// What was used before the start is not known: a restart must give nobody more.
		all[prefix(&k.Digest)] = &key{Key: k, limits: newLimits(k, now, drained)}
	}
	r.snapshot.Store(&all)
	return r
}

// put adds a key that is new, or replaces one that has changed.
func (r *keyring) put(k ledger.Key, now time.Time) {
	r.changing.Lock()
	defer r.changing.Unlock()
	old := *r.snapshot.Load()
	all := maps.Clone(old)
	fresh := &key{Key: k}
	if was := old[prefix(&k.Digest)]; was != nil {
		fresh.limits = was.limits
	} else {
		fresh.limits = newLimits(k, now, full)
	}
	all[prefix(&k.Digest)] = fresh
	r.snapshot.Store(&all)
}

// required reports whether a request needs a key. From the first key on it does, also
// after that key was revoked: a revocation must let nobody in.
func (r *keyring) required() bool { return r.main != nil || len(*r.snapshot.Load()) > 0 }

// find returns the key of a request, nil where none is required, or why the request is
// refused. OpenAI's clients send a key as a bearer token, Anthropic's as x-api-key.
func (r *keyring) find(h *fasthttp.RequestHeader, now time.Time) (*key, *refusal.Refusal) {
	if !r.required() {
		return nil, nil
	}
	given := h.Peek("X-Api-Key")
	if auth := h.Peek(fasthttp.HeaderAuthorization); len(auth) > 7 && bytes.EqualFold(auth[:7], []byte("Bearer ")) {
		given = auth[7:]
	}
	digest := sha256.Sum256(given)
	if r.main != nil && subtle.ConstantTimeCompare(digest[:], r.main.Digest[:]) == 1 {
		return r.main, nil
	}
	k := r.lookUp(&digest)
	switch {
	case k == nil:
		return nil, refusal.New(refusal.InvalidKey)
	case !k.Revoked.IsZero():
		return nil, refusal.New(refusal.RevokedKey)
	case k.Expired(now):
		return nil, refusal.New(refusal.ExpiredKey)
	}
	return k, nil
}

func (r *keyring) lookUp(digest *[sha256.Size]byte) *key {
	k := (*r.snapshot.Load())[prefix(digest)]
	if k == nil || subtle.ConstantTimeCompare(digest[:], k.Digest[:]) != 1 {
		return nil
	}
	return k
}

// recheck says why a key that was let in may not go on, nil where it may: much may have
// happened while its request waited.
func (r *keyring) recheck(k *key, now time.Time) *refusal.Refusal {
	if k == nil || k == r.main {
		return nil
	}
	switch k = r.lookUp(&k.Digest); {
	case k == nil, !k.Revoked.IsZero():
		return refusal.New(refusal.RevokedKey)
	case k.Expired(now):
		return refusal.New(refusal.ExpiredKey)
	}
	return r.budget(k, now)
}

// admitHead says why a key that is found may not send a body: it could not have the request
// served. What it may have is taken from it later, when the body is there.
func (r *keyring) admitHead(k *key, now time.Time) *refusal.Refusal {
	if k == nil {
		return nil
	}
	if refused := r.budget(k, now); refused != nil {
		return refused
	}
	return k.limits.hasRequest(now)
}

// mayUse says why a key may not have a model.
func (k *key) mayUse(model string) *refusal.Refusal {
	if k == nil || k.Models == nil {
		return nil
	}
	if model == "" {
		return refusal.New(refusal.ModelRequired)
	}
	if !k.lists(model) {
		return refusal.ModelNotFound(model)
	}
	return nil
}

func (k *key) lists(model string) bool { return slices.Contains(k.Models, model) }

// id is the key's name in the ledger's rows, "" for none and for the main key.
func (k *key) id() string {
	if k == nil {
		return ""
	}
	return k.ID
}

// keySlot is where a request keeps its key while it is handled.
const keySlot = "key"

// keyOf is the key that a request has, nil where none is required.
func keyOf(ctx *fasthttp.RequestCtx) *key {
	k, _ := ctx.UserValue(keySlot).(*key)
	return k
}

// PutKey adds a key that was written to the ledger, or replaces one that has changed
// there, from now on.
func (s *Server) PutKey(k ledger.Key) { s.keys.put(k, s.cfg.Now()) }
