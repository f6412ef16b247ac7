package budget

import "time"

// CountFrom is where the spend of the day that began at midnight is counted from; false
// where it has no sample yet. Where none lies within an hour before midnight, the day
// starts at its first one: what was spent asleep is not today's.
func CountFrom(led interface {
	SampleBefore(t time.Time) (time.Time, bool, error)
	SampleAfter(t time.Time) (time.Time, bool, error)
}, midnight time.Time) (from time.Time, ok bool, err error) {
	before, ok, err := led.SampleBefore(midnight)
	if err != nil || ok && midnight.Sub(before) <= time.Hour {
		return midnight, ok, err
	}
	return led.SampleAfter(midnight)
}
