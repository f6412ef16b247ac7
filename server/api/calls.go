package api

import (
	"sync"
	"time"

	"spotinference/ledger"
	"spotinference/server/refusal"
)

// calls are the requests that run now.
type calls struct {
	mu    sync.Mutex
	all   map[*call]struct{} // guarded by mu
	begun int64              // how many there ever were; guarded by mu
}

func newCalls() *calls { return &calls{all: map[*call]struct{}{}} }

func (cs *calls) add(c *call) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.all[c] = struct{}{}
	cs.begun++
}

// remove forgets a call, after its row was written: until then a crash must
// find it among the open requests.
func (cs *calls) remove(c *call) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.all, c)
}

func (cs *calls) len() int {
	_, running := cs.count()
	return running
}

// count is how many calls there ever were, and how many run.
func (cs *calls) count() (begun int64, running int) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.begun, len(cs.all)
}

// list is a snapshot, so that nothing slow happens under mu.
func (cs *calls) list() []*call {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	out := make([]*call, 0, len(cs.all))
	for c := range cs.all {
		out = append(out, c)
	}
	return out
}

// inEngine are the calls that the engine has admitted.
func (cs *calls) inEngine() []*call {
	var in []*call
	for _, c := range cs.list() {
		if c.inEngine() {
			in = append(in, c)
		}
	}
	return in
}

// cut ends all calls.
func (cs *calls) cut(cause *refusal.Refusal) {
	for _, c := range cs.list() {
		c.cut(cause)
	}
}

// cutWaiting ends the calls that wait for the engine.
func (cs *calls) cutWaiting(cause *refusal.Refusal) {
	for _, c := range cs.list() {
		if c.at() == callWaiting {
			c.cut(cause)
		}
	}
}

// cutInEngine ends the calls that the engine works on, and returns how many were not
// ending anyway.
func (cs *calls) cutInEngine(cause *refusal.Refusal) (n int) {
	for _, c := range cs.inEngine() {
		if c.cutCause() == nil {
			c.cut(cause)
			n++
		}
	}
	return n
}

// resetTime is how long a client's system may take to say that nobody reads there any more,
// to be seen by the same look.
const resetTime = 20 * time.Millisecond

// cutDisconnected ends the calls whose client has disconnected. fasthttp does not see it: a
// write fails some events later, and there is none while the engine is silent.
func (cs *calls) cutDisconnected() {
	asked := false
	for _, c := range cs.list() {
		asked = c.cutDisconnected(time.Now()) || asked
	}
	if !asked {
		return
	}
	time.Sleep(resetTime)
	for _, c := range cs.list() {
		c.cutDisconnected(time.Now())
	}
}

// cutDisconnected ends the call if its client has left, and reports whether that is to be
// seen soon.
func (c *call) cutDisconnected(now time.Time) (asked bool) {
	switch p := c.disconnect.look(c.client); {
	case p == left, p == halfClosed && !c.isHTTP11: // there is nothing that an older client lets pass
		c.cut(refusal.New(refusal.ClientClosed))
	case p == halfClosed:
		return c.askClient(now)
	}
	return false
}

// open is what a crash would lose now.
func (cs *calls) open() []ledger.OpenRequest {
	var out []ledger.OpenRequest
	for _, c := range cs.inEngine() {
		if c.counted() {
			out = append(out, c.openRequest())
		}
	}
	return out
}
