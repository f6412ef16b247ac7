package api

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"time"
)

var idText = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newID returns a request id: "req_", 48 bits of milliseconds, then 72 random
// bits. Ids of one time lie side by side in the ledger's index; nobody can
// guess another's.
func newID(now time.Time) string {
	var b [15]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli())<<16)
	rand.Read(b[6:])
	return string(idText.AppendEncode(append(make([]byte, 0, 28), "req_"...), b[:]))
}
