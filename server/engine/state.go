package engine

import "time"

// State is where the engine is in its life. A suspended engine will be one more
// state between Ready and Ready: the order to suspend belongs into Run's watch, which
// owns the process.
type State string

const (
	Stopped  State = "stopped"  // not started yet, or for good
	Starting State = "starting" // its process runs or is about to; it does not answer yet
	Ready    State = "ready"    // it answered its health check
	Crashed  State = "crashed"  // it ended by itself and will be started again
)

// Status is a snapshot of the engine. Each is a value of its own, never changed
// after it was published.
type Status struct {
	State     State
	Since     time.Time // when State was entered
	PID       int       // of the engine's leader; 0 where there is none
	StartedAt time.Time // of that process; zero where there is none
	Restarts  int       // how often it was started after the first time
	LastExit  string    // how its last process ended: "exit status 1", "signal killed", "start timeout", "guard lost"; "" if none did
}

// Transition is one change of state, for the record.
type Transition struct {
	From, To State
	At       time.Time
	Cause    string  // "serve", "restart", "healthy", "shutdown", or as Status.LastExit
	PID      int     // of the process that the change is about; 0 where there is none
	Phases   []Phase // what the time since From was spent on, in order
}

// Phase is one stretch of a transition.
type Phase struct {
	Name string
	Took time.Duration
}
