package gpu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// CheckpointRole is the helper's argument for a run that reads no card but does what
// Requests say. It is a run of its own: a call that hangs in CUDA is ended by killing
// it, and the readings that show what became of the memory go on.
const CheckpointRole = "checkpoint"

// Call is one of the driver's calls about a process, in CUDA's words
// (cuCheckpointProcess... in cuda.h).
type Call string

const (
	CallOpen       Call = "open" // load the driver and see what it has
	CallState      Call = "state"
	CallLock       Call = "lock"
	CallCheckpoint Call = "checkpoint"
	CallRestore    Call = "restore" // which leaves it locked
	CallUnlock     Call = "unlock"
)

// ProcessState is CUDA's state of a process (CUprocessState in cuda.h).
type ProcessState string

const (
	Running      ProcessState = "running"
	Locked       ProcessState = "locked"
	Checkpointed ProcessState = "checkpointed"
	Failed       ProcessState = "failed" // it cannot be used any more
)

// Request is a line to the helper. It gets one Answer, and until then no other is sent.
type Request struct {
	Call Call `json:"call"`
	PID  int  `json:"pid,omitempty"` // 0 with CallOpen alone
	// TimeoutMS bounds CallLock, by the driver itself: 0 would be for ever.
	TimeoutMS uint32 `json:"timeout_ms,omitempty"`
}

// Answer is a line from the helper.
type Answer struct {
	Call  Call         `json:"call"`
	PID   int          `json:"pid,omitempty"`
	CUDA  int          `json:"cuda,omitempty"`  // with CallOpen: the driver's version, 12080 is 12.8
	State ProcessState `json:"state,omitempty"` // with CallState
	Error string       `json:"error,omitempty"` // why it was not done
}

// ParseRequest reads a line to the helper.
func ParseRequest(line []byte) (r Request, err error) {
	if err := parseLine(line, &r); err != nil {
		return Request{}, err
	}
	switch r.Call {
	case CallOpen, CallState, CallLock, CallCheckpoint, CallRestore, CallUnlock:
	default:
		return Request{}, fmt.Errorf("line %s: no such call", excerpt(line))
	}
	if (r.PID > 0) == (r.Call == CallOpen) || (r.TimeoutMS > 0) != (r.Call == CallLock) {
		return Request{}, fmt.Errorf("line %s: a %s is not asked for like this", excerpt(line), r.Call)
	}
	return r, nil
}

// parseAnswer reads the answer to r. One to something else is an error: it would be
// taken for what was asked.
func parseAnswer(line []byte, r Request) (a Answer, err error) {
	if err := parseLine(line, &a); err != nil {
		return Answer{}, err
	}
	if a.Call != r.Call || a.PID != r.PID {
		return Answer{}, fmt.Errorf("line %s: no answer to %s of process %d", excerpt(line), r.Call, r.PID)
	}
	if a.Error == "" && ((a.CUDA > 0) != (r.Call == CallOpen) || (a.State != "") != (r.Call == CallState)) {
		return Answer{}, fmt.Errorf("line %s: half an answer", excerpt(line))
	}
	return a, nil
}

// parseLine reads a line that is one JSON object of to's type and nothing else.
func parseLine(line []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields() // the helper is of the same build, or it is not ours
	if err := d.Decode(to); err != nil {
		return fmt.Errorf("line %s: %w", excerpt(line), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("line %s: something follows the message", excerpt(line))
	}
	return nil
}
