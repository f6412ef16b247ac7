package budget

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"spotinference/ledger"
)

// Period is what a limit is for: a span between two boundaries of a time zone.
type Period string

const (
	Hour  Period = "hour"
	Day   Period = "day"
	Month Period = "month"
)

// Bounds returns the start of the period that t lies in, and of the next one.
func (p Period) Bounds(t time.Time, loc *time.Location) (from, to time.Time) {
	y, m, d := t.In(loc).Date()
	switch p {
	case Hour:
		// By the zone's offset of now: some are not whole hours. Where a zone's clocks
		// change by half an hour, two hours overlap.
		_, offset := t.In(loc).Zone()
		shift := time.Duration(offset) * time.Second
		from = t.Add(shift).Truncate(time.Hour).Add(-shift).In(loc)
		return from, from.Add(time.Hour)
	case Month:
		return startOfDay(y, m, 1, loc), startOfDay(y, m+1, 1, loc)
	}
	return startOfDay(y, m, d, loc), startOfDay(y, m, d+1, loc)
}

// Starts are when the periods of limits begin that t lies in, and t's day in loc, in
// order, each once.
func Starts(limits []Limit, t time.Time, loc *time.Location) []time.Time {
	starts := []time.Time{DayStart(t, loc)}
	for _, l := range limits {
		from, _ := l.Per.Bounds(t, loc)
		starts = append(starts, from)
	}
	slices.SortFunc(starts, time.Time.Compare)
	return slices.CompactFunc(starts, time.Time.Equal)
}

// DayStart is the start of t's day in loc: where that day's budget begins.
func DayStart(t time.Time, loc *time.Location) time.Time {
	from, _ := Day.Bounds(t, loc)
	return from
}

// NextDay is the start of the day after t's in loc.
func NextDay(t time.Time, loc *time.Location) time.Time {
	_, next := Day.Bounds(t, loc)
	return next
}

// startOfDay is the first instant of a day: one o'clock where the zone's clocks go
// forward at midnight. So a day has 23, 24 or 25 hours.
func startOfDay(y int, m time.Month, d int, loc *time.Location) time.Time {
	t := time.Date(y, m, d, 0, 0, 0, 0, loc)
	// A midnight that does not exist comes out as an hour of the day before.
	if noon := time.Date(y, m, d, 12, 0, 0, 0, loc); t.Day() != noon.Day() {
		t = t.Add(time.Hour)
	}
	return t
}

// Limit is the most to spend in a period.
type Limit struct {
	Per    Period
	Amount ledger.Nanos
}

// ParseLimits reads limits as people write them: "40" is 40 a day, "40/day,900/month"
// has one for each.
func ParseLimits(text string) (limits []Limit, err error) {
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		amount, per, named := strings.Cut(part, "/")
		l := Limit{Per: Day}
		if named {
			l.Per = Period(per)
		}
		if l.Amount, err = ledger.ParseNanos(amount); err != nil {
			return nil, fmt.Errorf("%q: not an amount of money", part)
		}
		limits = append(limits, l)
		if err := checkLimits(limits); err != nil {
			return nil, fmt.Errorf("%q: %w", part, err)
		}
	}
	return limits, nil
}

func checkLimits(limits []Limit) error {
	seen := map[Period]bool{}
	for _, l := range limits {
		switch {
		case l.Per != Hour && l.Per != Day && l.Per != Month:
			return fmt.Errorf("per %q is not known", string(l.Per))
		case seen[l.Per]:
			return fmt.Errorf("there is one per %s already", l.Per)
		case l.Amount <= 0:
			return errors.New("must be more than nothing")
		}
		seen[l.Per] = true
	}
	return nil
}

// LimitsText writes limits as ParseLimits reads them, the same limits always in the same
// way; "" where there are none.
func LimitsText(limits []Limit) string {
	var parts []string
	for _, per := range []Period{Hour, Day, Month} {
		for _, l := range limits {
			if l.Per == per {
				parts = append(parts, l.Amount.String()+"/"+string(per))
			}
		}
	}
	return strings.Join(parts, ",")
}
