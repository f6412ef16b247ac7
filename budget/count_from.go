package budget

import "time"

// CountFrom is where the spend of the period that began at a boundary, midnight for a
// day, is counted from; false where it has no sample yet. Where none lies within an hour
// before that, the period starts at its first one: what was spent asleep is not its own.
// A period that began before the ledger did is counted from the boundary: what the
// provider tells of the time before is its own (ledger.Spend.Before).
func CountFrom(led interface {
	SampleBefore(t time.Time) (time.Time, bool, error)
	SampleAfter(t time.Time) (time.Time, bool, error)
}, boundary time.Time) (from time.Time, ok bool, err error) {
	before, ok, err := led.SampleBefore(boundary)
	if err != nil || ok && boundary.Sub(before) <= time.Hour {
		return boundary, ok, err
	}
	after, found, err := led.SampleAfter(boundary)
	if !ok && found {
		after = boundary
	}
	return after, found, err
}
