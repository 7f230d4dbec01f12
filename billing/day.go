package billing

import "time"

// DayStart is when clocks in loc first show that day: its midnight, or where
// clocks are put forward over that, the first moment after. A day that a place
// has left out starts with the next one. The time is in loc.
func DayStart(year int, month time.Month, day int, loc *time.Location) time.Time {
	return midnight(year, month, day, loc).In(loc)
}
