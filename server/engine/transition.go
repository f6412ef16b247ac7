package engine

import (
	"time"

	"spotinference/ledger"
	"spotinference/server/queue"
)

// Transition is one change of state, for the record.
type Transition struct {
	From, To  ledger.EngineState
	At        time.Time
	Cause     string          // see the causes below, or as queue.Status.LastExit
	PID       int             // of the process that the change is about; 0 where there is none
	Phases    []Phase         // what the time since From was spent on, in order
	Method    Method          // how it was or is suspended, where the change is about that
	Waiters   int             // requests that waited for this: admitted where To is Ready, refused where it is Crashed or Stopped
	Abandoned queue.Abandoned // those that gave up before
	Canary    Usage           // what the canary made the engine count
}

// Causes of transitions.
const (
	causeServe      = "serve"         // the first start
	causeRestart    = "restart"       // after a crash
	causeHealthy    = "healthy"       // it answers
	causeShutdown   = "shutdown"      // Run's context ended
	causeGaveUp     = "gave up"       // no use in trying again
	causeIdle       = "idle"          // no request was inside for Config.Idle
	causeAsked      = "asked"         // somebody called Suspend or Wake
	causeGate       = "gate closed"   // somebody called SuspendForGate
	causeRequest    = "request"       // a request waits
	causeDone       = "done"          // the suspension succeeded
	causeEscalate   = "escalated: "   // the suspension failed, as follows; the process is stopped
	causeWakeFailed = "wake failed: " // as follows; the process is started afresh
)

// isWake reports whether a start of that cause is one that a request waits for.
func isWake(startCause string) bool {
	return startCause != causeServe && startCause != causeRestart
}

// Phase is one part of the time that a transition took.
type Phase struct {
	Name string
	Took time.Duration
}

// Usage is what the engine counted for a request of ours.
type Usage struct {
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
}
