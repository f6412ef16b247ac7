package report

import (
	"strconv"
	"strings"
	"time"
)

const (
	// WindowHint is the hint of every error of ParseWindow.
	WindowHint = "use a duration such as 24h or 7d"
	// UntilHint is the hint of every error of ParseUntil.
	UntilHint = "use now, a time such as 2026-10-17T11:00:00Z, or a date such as 2026-10-17"
)

// maxDays bounds a window well within what a time.Duration holds.
const maxDays = 36500

// ParseWindow reads the length of a window: a Go duration, whole days ("7d"), or
// days and then a duration ("1d12h"). A day is 24 hours.
func ParseWindow(s string) (time.Duration, error) {
	d, fault := parseSpan(s)
	if fault != "" {
		return 0, badQuestion(WindowHint, "window %q: %s", s, fault)
	}
	return d, nil
}

// parseSpan reads a length of time, or says what is wrong with it.
func parseSpan(s string) (d time.Duration, fault string) {
	days, rest, hasDays := strings.Cut(s, "d")
	if hasDays {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil || n > maxDays || strings.HasPrefix(rest, "+") || strings.HasPrefix(rest, "-") {
			return 0, "not a duration"
		}
		d = time.Duration(n) * day
	} else {
		rest = s
	}
	if rest != "" || !hasDays {
		part, err := time.ParseDuration(rest)
		if err != nil {
			return 0, "not a duration"
		}
		if d += part; d > maxDays*day || part > maxDays*day {
			return 0, "longer than 100 years"
		}
	}
	if d < time.Microsecond {
		return 0, "not a positive duration" // the ledger's clock ticks in microseconds
	}
	return d, ""
}

// spell writes a length as parseSpan reads it.
func spell(d time.Duration) string {
	switch {
	case d >= 2*day && d%day == 0:
		return strconv.FormatInt(int64(d/day), 10) + "d"
	case d%time.Hour == 0:
		return strconv.FormatInt(int64(d/time.Hour), 10) + "h"
	case d%time.Minute == 0:
		return strconv.FormatInt(int64(d/time.Minute), 10) + "m"
	}
	return d.String()
}

// ParseUntil reads the end of a window: "" or "now" for now, else an RFC 3339
// time, or a date, which is its midnight in UTC. explicit tells whether the
// user named an instant: a report that ends now may end a little earlier where
// the data does, one that was asked for up to an instant may not.
func ParseUntil(s string, now time.Time) (t time.Time, explicit bool, err error) {
	if s == "" || s == "now" {
		return now, false, nil
	}
	if t, err = time.Parse(time.RFC3339, s); err != nil {
		if t, err = time.Parse(time.DateOnly, s); err != nil {
			return time.Time{}, false, badQuestion(UntilHint, "until %q: not a time", s)
		}
	}
	if t.After(now) {
		return time.Time{}, false, badQuestion(UntilHint, "until %q: in the future", s)
	}
	return t, true, nil
}
