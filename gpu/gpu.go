// Package gpu reads the cards of this machine: once a second into a newest
// Snapshot that costs a reader one load, and once a minute into sums that the
// ledger keeps. It knows what the driver says; it knows no engine, no request and
// no money, and it links neither NVML nor CUDA: a driver that lacks a symbol
// aborts its caller, and one that hangs cannot be left.
//
// So the readings come from another program: the helper that a release carries
// (package gpu/helper), else nvidia-smi. One that dies is started again, one that
// hangs is killed, and where neither can be had the state says so, with the
// reason. Nothing that a driver does is an error of Run.
//
// It also takes processes off a card and puts them back, through the driver and by
// another run of the helper: see Checkpointer. Whose processes they are it is told.
//
//	cards := gpu.New(gpu.Config{})
//	go cards.Run(ctx, gpu.Hooks{OnMinute: keep})
//	if s := cards.Latest(); s.Fresh(time.Now()) { ... s.Cards ... }
package gpu

import "time"

// Source is where readings come from.
type Source string

const (
	Helper Source = "helper"     // our own program on NVML
	SMI    Source = "nvidia-smi" // the driver's command line, which knows less
	None   Source = "none"       // no reading arrives; State.Reason says why
)

// State says which source is in use. It changes to None as soon as a source ends,
// and away from it with the first reading.
type State struct {
	Source Source
	Reason string // why there is no better source; "" with the helper
}

// Snapshot is the newest that is known. It is never changed after it was given out.
type Snapshot struct {
	State
	At     time.Time // of the newest reading; zero before the first
	Driver string    // version, as the driver spells it; "" where not known
	Cards  []Reading // in the driver's order
	XIDs   map[XID]int64

	replaced chan struct{} // closed when there is a newer one
}

// Fresh tells whether the readings are of now: not of a source that has ended, or
// that is about to be killed for its silence.
func (s Snapshot) Fresh(now time.Time) bool {
	return s.Source != None && now.Sub(s.At) <= patience
}
