package budget

import "time"

// CountFrom is where the spend of the period that began at a boundary, midnight for a
// day, is counted from; false where it has no sample yet. Where none lies within an hour
// before that, the period starts at its first one: what was spent asleep is not its own.
func CountFrom(led interface {
	SampleBefore(t time.Time) (time.Time, bool, error)
	SampleAfter(t time.Time) (time.Time, bool, error)
}, boundary time.Time) (from time.Time, ok bool, err error) {
	before, ok, err := led.SampleBefore(boundary)
	if err != nil || ok && boundary.Sub(before) <= time.Hour {
		return boundary, ok, err
	}
	return led.SampleAfter(boundary)
}
