//go:build !torture

package main

import (
	"time"
)

// clock is the wall clock, which is handed down to all that asks for the time of day.
func clock() time.Time { return time.Now() }
