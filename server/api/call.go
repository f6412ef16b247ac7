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

// call is one request to the engine on its way. The goroutine of its connection owns
// it; other goroutines read what is atomic or guarded by mu, and cut the call.
type call struct {
	id      string
	route   *Route
	ask     meter.Ask
	key     *key     // nil where none was asked for
	client  net.Conn // to see whether the client is still connected
	started time.Time

	model      atomic.Pointer[string]
	prompt     atomic.Int64
	cached     atomic.Int64
	completion atomic.Int64

	progress   atomic.Int64 // see Meter.Progress
	delivering atomic.Bool  // what the engine sent goes to the client: the engine is not waited for
	stall      stall
	disconnect disconnectWatcher // owned by watchClients
	asking     asking
	isHTTP11   bool // the client's request is

	mu       sync.Mutex // guards what follows
	phase    phase
	stopWait func()           // in phase callWaiting: ends the wait
	up       *engineConn      // closed when the call is cut; nil before and after the exchange
	cause    *refusal.Refusal // why it was cut; nil while it was not
}

// phase is where a call is. A cut is no phase: it makes the call end from where it is.
type phase uint8

const (
	// callArrived: the request was read. Exits: callWaiting, callAdmitted, callEnded.
	callArrived phase = iota

	// callWaiting: the engine has not admitted it yet. Exits: callAdmitted, callArrived.
	callWaiting

	// callAdmitted: the engine may work on it. Exits: callRecording, callEnded.
	callAdmitted

	// callRecording: its row is being written. Exits: callEnded.
	callRecording

	// callEnded: it has left the engine, and has its row where it needs one.
	callEnded
)

// counted reports whether the call makes tokens and gets a row. Others are cut like it.
func (c *call) counted() bool { return c.route.action == actionGenerate }

// streams reports whether the client gets its answer as a stream.
func (c *call) streams() bool { return c.ask.Stream && !c.ask.Assembled() }

// keepsAwake reports whether the engine is in use by the call.
func (c *call) keepsAwake() bool { return c.route.action != actionList }

func (c *call) at() phase {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase
}

// inEngine reports whether the engine has admitted the call, and it has not ended.
func (c *call) inEngine() bool { p := c.at(); return p == callAdmitted || p == callRecording }

// isRecorded reports whether its row was written, or could not be.
func (c *call) isRecorded() bool { return c.at() >= callRecording }

// wait enters phase callWaiting: stop ends the wait where the call is cut. It is false where
// the call was cut already.
func (c *call) wait(stop func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return false
	}
	c.phase, c.stopWait = callWaiting, stop
	return true
}

// giveUp leaves phase callWaiting without having been admitted.
func (c *call) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phase, c.stopWait = callArrived, nil
}

// admit enters phase callAdmitted. What came before started cost the engine nothing.
func (c *call) admit(started time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phase, c.stopWait, c.started = callAdmitted, nil, started
}

// beginRecord enters phase callRecording.
func (c *call) beginRecord() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phase = callRecording
}

// end enters phase callEnded, and reports whether the call was in the engine until now.
func (c *call) end() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.phase
	c.phase = callEnded
	return was == callAdmitted || was == callRecording
}

// attach gives the call its connection to the engine, to be closed by cut. It
// is false when the call was cut already.
func (c *call) attach(up *engineConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = up
	return c.cause == nil
}

// detach takes the connection away again, so that it may be used for another
// call; nil when the call was cut and the connection is closed.
func (c *call) detach() *engineConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	up := c.up
	c.up = nil
	if c.cause != nil {
		return nil
	}
	return up
}

// cut makes the call end: the engine sees its client leave, and the goroutine that
// reads from the engine, or writes to a client that does not read, wakes with
// an error.
func (c *call) cut(cause *refusal.Refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return
	}
	c.cause = cause
	if c.phase == callWaiting {
		c.stopWait()
	}
	if c.up != nil {
		c.up.Close()
	}
	_ = c.client.SetWriteDeadline(time.Now().Add(cutGrace / 2))
}

// cutCause returns what the call was cut for, nil where it was not.
func (c *call) cutCause() *refusal.Refusal {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// publish says what was counted so far.
func (c *call) publish(u ledger.Usage, model string) {
	if model != "" && c.model.Load() == nil {
		named := model // the parameter itself would go to the heap at every call
		c.model.Store(&named)
	}
	c.prompt.Store(u.PromptTokens)
	c.cached.Store(u.CachedTokens)
	c.completion.Store(u.CompletionTokens)
}

// openRequest is what a crash would lose of the call.
func (c *call) openRequest() ledger.OpenRequest {
	o := ledger.OpenRequest{
		ID: c.id, Endpoint: c.route.Endpoint(), Model: c.ask.Model, Key: c.key.id(), Stream: c.ask.Stream, Started: c.started,
		Usage: ledger.Usage{PromptTokens: c.prompt.Load(), CachedTokens: c.cached.Load(), CompletionTokens: c.completion.Load()},
	}
	if m := c.model.Load(); m != nil {
		o.Model = *m
	}
	return o
}
