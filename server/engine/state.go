package engine

import "time"

// State is where the engine is in its life.
type State string

const (
	Stopped    State = "stopped"    // not started yet, or for good
	Starting   State = "starting"   // its process runs or is about to; it does not answer yet
	Ready      State = "ready"      // it answered its health check, and after a wake its canary
	Suspending State = "suspending" // it is letting the GPU go
	Suspended  State = "suspended"  // it holds no GPU memory to speak of; a request wakes it
	Waking     State = "waking"     // its process lives and takes the GPU again; a stopped one is Starting
	Crashed    State = "crashed"    // it ended by itself and will be started again
)

// Status is a snapshot of the engine. Each is a value of its own, never changed
// after it was published.
type Status struct {
	State     State
	Since     time.Time // when State was entered
	Admits    bool      // a request that comes now is let in, or held until it can be: ready, suspended, or on the way between
	PID       int       // of the engine's leader; 0 where there is none
	StartedAt time.Time // of that process; zero where there is none
	Restarts  int       // how often it was started after a crash
	LastExit  string    // how its last process ended: "exit status 1", "signal killed", "start timeout: ...", "guard lost"; "" if none did
	NextStart time.Time // when a crashed engine is started again; zero where that is not known
	Suspended Method    // how it was suspended; "" where it is not
}

// Transition is one change of state, for the record.
type Transition struct {
	From, To State
	At       time.Time
	Cause    string  // see the causes below, or as Status.LastExit
	PID      int     // of the process that the change is about; 0 where there is none
	Phases   []Phase // what the time since From was spent on, in order
	Method   Method  // how it was or is suspended, where the change is about that
	Waiters  int     // requests that waited for this: let in where To is Ready, sent away where it is Crashed or Stopped
	Gone     Gone    // those that gave up before
	Canary   Usage   // what the canary made the engine count
}

// Causes of transitions.
const (
	causeServe    = "serve"         // the first start
	causeRestart  = "restart"       // after a crash
	causeHealthy  = "healthy"       // it answers
	causeShutdown = "shutdown"      // we were told to stop
	causeGaveUp   = "gave up"       // no use in trying again
	causeIdle     = "idle"          // nobody was inside for Config.Idle
	causeAsked    = "asked"         // somebody called Suspend or Wake
	causeRequest  = "request"       // somebody waits
	causeDone     = "done"          // the suspension succeeded
	causeEscalate = "escalated: "   // the suspension failed, as follows; the process is stopped
	causeNoWake   = "wake failed: " // as follows; the process is started afresh
)

// Phase is one stretch of a transition.
type Phase struct {
	Name string
	Took time.Duration
}

// Usage is what the engine counted for a request of ours.
type Usage struct {
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
}
