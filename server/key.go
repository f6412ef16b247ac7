package server

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"

	"github.com/valyala/fasthttp"
)

// keyCheck knows the digest of the one key, never the key.
type keyCheck struct {
	asked  bool
	digest [sha256.Size]byte
}

func newKeyCheck(key string) keyCheck {
	return keyCheck{asked: key != "", digest: sha256.Sum256([]byte(key))}
}

// ok reports whether a request may come in: OpenAI clients send the key as a
// bearer token, Anthropic's as x-api-key. The comparison takes the same time
// whatever the guess.
func (k keyCheck) ok(h *fasthttp.RequestHeader) bool {
	if !k.asked {
		return true
	}
	given := h.Peek("X-Api-Key")
	if auth := h.Peek(fasthttp.HeaderAuthorization); len(auth) > 7 && bytes.EqualFold(auth[:7], []byte("Bearer ")) {
		given = auth[7:]
	}
	digest := sha256.Sum256(given)
	return subtle.ConstantTimeCompare(digest[:], k.digest[:]) == 1
}
