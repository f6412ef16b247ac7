package api

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"spotinference/ledger"
	"spotinference/server/meter"
	"spotinference/server/refusal"
)

// call is one inference request on its way. The goroutine of its connection
// owns it; the atomics are what others may look at, and cut.
type call struct {
	id      string
	dialect meter.Dialect
	ask     meter.Ask
	started time.Time
	key     *key     // nil where none was asked for
	client  net.Conn // to see whether the client is still there
	// uncounted calls make no tokens: they are cut like others and have no row.
	uncounted bool
	glance    bool // nor do they keep the engine awake
	recorded  bool // its row was written, or could not be

	model      atomic.Pointer[string]
	prompt     atomic.Int64
	cached     atomic.Int64
	completion atomic.Int64

	progress atomic.Int64 // see Meter.Progress
	handing  atomic.Bool  // what the engine said goes to the client: it is not waited for
	stall    stall
	lookout  lookout // owned by the goroutine that looks for clients that left

	inside atomic.Bool // it has entered the engine, and not left

	mu    sync.Mutex       // guards what follows
	up    *conn            // what to close when the call is cut; nil before and after
	wait  func()           // ends its wait for the engine when the call is cut; nil before and after
	cause *refusal.Refusal // why it was cut; nil while it was not
}

// attach gives the call its connection to the engine, to be closed by cut. It
// is false when the call was cut already.
func (c *call) attach(up *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = up
	return c.cause == nil
}

// detach takes the connection away again, so that it may be used for another
// call; nil when the call was cut and the connection is closed.
func (c *call) detach() *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	up := c.up
	c.up = nil
	if c.cause != nil {
		return nil
	}
	return up
}

// cut ends the call: the engine sees its client leave, and the goroutine that
// reads from the engine, or writes to a client that does not read, wakes with
// an error.
func (c *call) cut(cause *refusal.Refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return
	}
	c.cause = cause
	if c.wait != nil {
		c.wait()
	}
	if c.up != nil {
		c.up.Close()
	}
	_ = c.client.SetWriteDeadline(time.Now().Add(cutGrace / 2))
}

// why returns what the call was cut for, nil where it was not.
func (c *call) why() *refusal.Refusal {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// saw publishes the count so far.
func (c *call) saw(u ledger.Usage, model string) {
	if model != "" && c.model.Load() == nil {
		named := model // the parameter itself would go to the heap at every call
		c.model.Store(&named)
	}
	c.prompt.Store(u.PromptTokens)
	c.cached.Store(u.CachedTokens)
	c.completion.Store(u.CompletionTokens)
}

// calls are the inference requests that run now.
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

// cut ends all calls.
func (cs *calls) cut(cause *refusal.Refusal) {
	for _, c := range cs.list() {
		c.cut(cause)
	}
}

// dropGone cuts the calls whose client has left. fasthttp does not tell: a
// failing write would, some events late, and never while the engine is silent.
func (cs *calls) dropGone() {
	for _, c := range cs.list() {
		if c.lookout.gone(c.client) {
			c.cut(refusal.New(refusal.ClientClosed))
		}
	}
}

// open is what a crash would lose now.
func (cs *calls) open() []ledger.OpenRequest {
	var out []ledger.OpenRequest
	for _, c := range cs.list() {
		if c.uncounted || !c.inside.Load() {
			continue
		}
		o := ledger.OpenRequest{
			ID: c.id, Endpoint: c.dialect.String(), Model: c.ask.Model, Key: c.key.id(), Stream: c.ask.Stream, Started: c.started,
			Usage: ledger.Usage{PromptTokens: c.prompt.Load(), CachedTokens: c.cached.Load(), CompletionTokens: c.completion.Load()},
		}
		if m := c.model.Load(); m != nil {
			o.Model = *m
		}
		out = append(out, o)
	}
	return out
}
