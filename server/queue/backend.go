package queue

import (
	"context"
	"net"
	"time"

	"spotinference/ledger"
)

// Backend is what the API server needs of an engine or a machine. *engine.Engine is one.
type Backend interface {
	// Dial connects to the engine. It does not wait for it to be ready.
	Dial(ctx context.Context) (net.Conn, error)
	// Key is what the engine asks for as Authorization: Bearer.
	Key() string
	Kind() Kind
	// Status is the newest snapshot. It never blocks.
	Status() Status
	// TryAdmit, Admit and Release are those of Queue.
	TryAdmit() bool
	Admit(ctx context.Context) error
	Release(active bool)
}

// Kind is an engine's dialect of flags, environment, health and counters.
type Kind string

const (
	Llama Kind = "llama" // llama.cpp's llama-server
	VLLM  Kind = "vllm"  // vllm serve
)

// Status is a snapshot of an engine. Each is a value of its own, never changed after it
// was published.
type Status struct {
	State       ledger.EngineState
	Since       time.Time // when State was entered
	Admits      bool      // a request that comes now is admitted, or waits until it is: ready, suspended, or on the way between
	PID         int       // of the engine's leader; 0 where there is none
	StartedAt   time.Time // of that process; zero where there is none
	Restarts    int       // how often it was started after a crash
	LastExit    string    // how its last process ended: "exit status 1", "signal killed", "start timeout: ...", "guard lost"; "" if none did
	NextStart   time.Time // when a crashed engine is started again; zero where that is not known
	SuspendedBy string    // the method by which it was suspended; "" where it is not
}
