//go:build cgo && linux && helper

package main

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>

// The driver's functions, by the shapes that they have in cuda.h. Each returns a
// CUresult, 0 for success.
static int call_init(void *f, unsigned flags) { return ((int (*)(unsigned))f)(flags); }
static int call_version(void *f, int *version) { return ((int (*)(int *))f)(version); }
static int call_name(void *f, int result, const char **name) { return ((int (*)(int, const char **))f)(result, name); }
static int call_process(void *f, int pid, void *args) { return ((int (*)(int, void *))f)(pid, args); }
*/
import "C"

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"unsafe"

	"spotinference/gpu"
)

// cuda is the driver's library. Nothing of it is linked: what it lacks is an answer,
// where a linker would abort.
type cuda struct {
	lib     unsafe.Pointer
	symbols map[string]unsafe.Pointer // that were looked up, and are there
	version int                       // cuDriverGetVersion's
}

// processCalls are the functions that a Request may ask for.
func processCalls() map[gpu.Call]string {
	return map[gpu.Call]string{
		gpu.CallState:      "cuCheckpointProcessGetState",
		gpu.CallLock:       "cuCheckpointProcessLock",
		gpu.CallCheckpoint: "cuCheckpointProcessCheckpoint",
		gpu.CallRestore:    "cuCheckpointProcessRestore",
		gpu.CallUnlock:     "cuCheckpointProcessUnlock",
	}
}

// openCUDA loads the driver and initialises it, which the calls need where the card is
// not kept initialised by somebody else (persistence mode); they need no context. With
// an error there is no more to c than its version, 0 where not even that is known.
func openCUDA() (c *cuda, err error) {
	c = &cuda{symbols: map[string]unsafe.Pointer{}}
	name := C.CString("libcuda.so.1")
	defer C.free(unsafe.Pointer(name))
	if c.lib = C.dlopen(name, C.RTLD_NOW|C.RTLD_LOCAL); c.lib == nil {
		return c, errors.New("load libcuda.so.1: " + C.GoString(C.dlerror()))
	}
	if missing := c.missing("cuInit", "cuDriverGetVersion"); missing != nil {
		return c, missing
	}
	// It may be asked before cuInit, which may fail for want of a card.
	var v C.int
	if err := c.result("cuDriverGetVersion", C.call_version(c.symbols["cuDriverGetVersion"], &v)); err != nil {
		return c, err
	}
	c.version = int(v)
	if missing := c.missing(slices.Sorted(maps.Values(processCalls()))...); missing != nil {
		return c, missing
	}
	return c, c.result("cuInit", C.call_init(c.symbols["cuInit"], 0))
}

// missing looks symbols up, and is an error where one is not there.
func (c *cuda) missing(names ...string) error {
	for _, name := range names {
		if !c.has(name) {
			return errors.New("libcuda.so.1 lacks " + name)
		}
	}
	return nil
}

func (c *cuda) has(name string) bool {
	if c.symbols[name] == nil {
		text := C.CString(name)
		defer C.free(unsafe.Pointer(text))
		if f := C.dlsym(c.lib, text); f != nil {
			c.symbols[name] = f
		}
	}
	return c.symbols[name] != nil
}

// result is what a function answered, by the driver's name for it where it has one.
func (c *cuda) result(function string, r C.int) error {
	if r == 0 {
		return nil
	}
	if c.has("cuGetErrorName") {
		var name *C.char
		if C.call_name(c.symbols["cuGetErrorName"], r, &name) == 0 && name != nil {
			return fmt.Errorf("%s: %s", function, C.GoString(name))
		}
	}
	return fmt.Errorf("%s: error %d", function, r)
}

// arguments is any of CUcheckpoint...Args: each is 64 bytes, of which all that are not
// used must be zero, also those that later versions gave a meaning. Only the lock's
// first word is used, timeoutMs.
type arguments struct {
	timeoutMS uint32
	_         uint32
	_         [7]uint64
}

// states are CUprocessState's values. Two that came later, of a process on its way
// from one to another, are not among what we wait for.
func states() []gpu.ProcessState {
	return []gpu.ProcessState{gpu.Running, gpu.Locked, gpu.Checkpointed, gpu.Failed}
}

// do makes the call of a request about a process.
func (c *cuda) do(r gpu.Request) (gpu.ProcessState, error) {
	function := processCalls()[r.Call]
	f := c.symbols[function]
	if r.Call == gpu.CallState {
		var state C.int
		if err := c.result(function, C.call_process(f, C.int(r.PID), unsafe.Pointer(&state))); err != nil {
			return "", err
		}
		if all := states(); state >= 0 && int(state) < len(all) {
			return all[state], nil
		}
		return "", fmt.Errorf("%s: state %d", function, state)
	}
	args := arguments{timeoutMS: r.TimeoutMS}
	return "", c.result(function, C.call_process(f, C.int(r.PID), unsafe.Pointer(&args)))
}
