package api

import (
	"context"
	"math/bits"
	"runtime/debug"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"spotinference/server/refusal"
)

// All request bodies share one bound on memory: those that are being read, those that wait
// for the engine, and those that are being sent to it. A body takes its part when its head
// is there, before anything of it is read, and gives it back when the engine has it.

const (
	// defaultBodyMemory is Config.BodyMemory by default.
	defaultBodyMemory = 1 << 30

	// MinBodyMemory is the least that Config.BodyMemory may be.
	MinBodyMemory = 16 << 20

	// largeBody is what a body takes that leaves room for others: a part of the memory is
	// kept for smaller ones, so that slow uploads do not keep chats out.
	largeBody = 1 << 20

	// staleAfter is when a body that was to be read cannot be read any more: fasthttp
	// returns without a word from a connection that was closed under it.
	staleAfter = bodyTimeout + time.Minute

	// What was given back is garbage until it is collected. It goes back to the system
	// once there is so much of it, or none has been added for so long.
	muchGarbage  = 64 << 20
	quietGarbage = 2 * time.Second
)

// bodyMemory is what all request bodies may take. A body is known by its request's header,
// which stays where it is from checkRequest to the end of the handler.
type bodyMemory struct {
	limit int64
	now   func() time.Time

	collecting sync.Mutex // one collection at a time; taken before mu

	mu      sync.Mutex
	used    int64                                // guarded by mu
	garbage int64                                // given back, and perhaps not collected; guarded by mu
	added   time.Time                            // when garbage was added last; guarded by mu
	bodies  map[*fasthttp.RequestHeader]*oneBody // guarded by mu
}

// oneBody is one body's part of the memory, or why it is not read.
type oneBody struct {
	takes   int64
	most    int              // the most bytes that it may have
	refused *refusal.Refusal // nil where it is read
	since   time.Time        // when its head was there; zero once it is whole
}

func newBodyMemory(limit int64) *bodyMemory {
	return &bodyMemory{limit: limit, now: time.Now, bodies: map[*fasthttp.RequestHeader]*oneBody{}}
}

// memoryOf is what a body of n bytes takes at most: fasthttp reads it into a buffer whose
// size is a power of two, and a stream's is written anew for the engine.
func memoryOf(n int) int64 {
	if n <= 0 {
		return 0
	}
	return int64(1)<<bits.Len64(uint64(n-1)) + int64(n)
}

// forLarge is how much large bodies may take of the whole.
func (m *bodyMemory) forLarge() int64 { return m.limit - m.limit/8 }

// mostFor is the largest body, of most bytes at most, that the memory holds by itself.
func (m *bodyMemory) mostFor(most int) int {
	if memoryOf(most) <= m.forLarge() {
		return most
	}
	return int(m.forLarge() / 3) // which takes three times as much at most
}

// reserve takes the memory of a body of n bytes, -1 for one that comes in chunks, and of
// most bytes at most. It returns how many bytes of it may be read, or why none is.
func (m *bodyMemory) reserve(h *fasthttp.RequestHeader, n, most int) (int, *refusal.Refusal) {
	most = m.mostFor(most)
	if n > most {
		return 0, refusal.BodyTooLarge(most)
	}
	if m.garbageMatters(n, most) {
		m.collect()
	}
	b := &oneBody{most: most, takes: memoryOf(n), since: m.now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n < 0 {
		b.most = m.shareLocked(most, m.garbage)
		b.takes = memoryOf(b.most + len("\r\n"))
	}
	if b.takes > m.roomLocked(b.takes, m.garbage) {
		return 0, refusal.New(refusal.BodyMemoryFull)
	}
	m.dropLocked(h) // of a request that ended without a word
	m.used += b.takes
	m.bodies[h] = b
	return b.most, nil
}

// garbageMatters reports whether garbage keeps a body from being read, or from being larger.
func (m *bodyMemory) garbageMatters(n, most int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.garbage == 0 {
		return false
	}
	if n < 0 {
		return m.shareLocked(most, m.garbage) < m.shareLocked(most, 0)
	}
	takes := memoryOf(n)
	return takes > m.roomLocked(takes, m.garbage) && takes <= m.roomLocked(takes, 0)
}

// roomLocked is what is free for a body that takes so much, beside so much garbage.
func (m *bodyMemory) roomLocked(takes, garbage int64) int64 {
	whole := m.limit
	if takes > largeBody {
		whole = m.forLarge()
	}
	return whole - m.used - garbage
}

// shareLocked is how large a body may be whose length is not known: it may not take more
// than half of what is free, unless it is alone, so that others can be read beside it.
func (m *bodyMemory) shareLocked(most int, garbage int64) int {
	free := m.forLarge() - m.used - garbage
	if m.used > 0 {
		free /= 2
	}
	const least = largeBody / 4
	for share := most; share > least; share /= 2 {
		if memoryOf(share+len("\r\n")) <= free {
			return share
		}
	}
	return min(least, most)
}

// refuse notes why a body is not read.
func (m *bodyMemory) refuse(h *fasthttp.RequestHeader, r *refusal.Refusal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dropLocked(h)
	m.bodies[h] = &oneBody{refused: r, since: m.now()}
}

// whole notes that a body was read, and what it takes now.
func (m *bodyMemory) whole(h *fasthttp.RequestHeader, takes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := m.bodies[h]; b != nil {
		m.giveBackLocked(b.takes - takes)
		b.takes, b.since = takes, time.Time{}
	}
}

// take takes a body out of the memory's care: release must follow. It is nil where the
// request has none, which release accepts.
func (m *bodyMemory) take(h *fasthttp.RequestHeader) *oneBody {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.bodies[h]
	delete(m.bodies, h)
	return b
}

// release gives back what a body takes, when nothing refers to it any more. Safe twice.
func (m *bodyMemory) release(b *oneBody) {
	if b == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.giveBackLocked(b.takes)
	b.takes = 0
}

func (m *bodyMemory) dropLocked(h *fasthttp.RequestHeader) {
	if b := m.bodies[h]; b != nil {
		m.giveBackLocked(b.takes)
		delete(m.bodies, h)
	}
}

// giveBackLocked gives n bytes back. Small buffers are used again and leave no garbage.
func (m *bodyMemory) giveBackLocked(n int64) {
	m.used -= n
	if n > 2*keptBody {
		m.garbage += n
		m.added = m.now()
	}
}

// inUse is how much all bodies take now.
func (m *bodyMemory) inUse() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// watch gives memory back to the system when bodies have left it, until ctx ends.
func (m *bodyMemory) watch(ctx context.Context) {
	every(ctx, time.Second, func() {
		m.mu.Lock()
		now := m.now()
		for h, b := range m.bodies {
			if !b.since.IsZero() && now.Sub(b.since) > staleAfter {
				m.dropLocked(h)
			}
		}
		due := m.garbage >= muchGarbage || m.garbage > 0 && now.Sub(m.added) >= quietGarbage
		m.mu.Unlock()
		if due {
			m.collect()
		}
	})
}

// collect returns what is garbage now to the system.
func (m *bodyMemory) collect() {
	m.collecting.Lock()
	defer m.collecting.Unlock()
	m.mu.Lock()
	garbage := m.garbage
	m.mu.Unlock()
	if garbage == 0 {
		return // who had the lock before has collected it
	}
	debug.FreeOSMemory()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.garbage -= garbage
}
