package sqliteledger

import (
	"math"
	"time"
)

// Days are UTC, counted since 1970; the first and the last are those of the times
// that fit int64 nanoseconds.
const (
	dayLength = int64(24 * time.Hour)
	firstDay  = math.MinInt64/dayLength - 1
	lastDay   = math.MaxInt64 / dayLength
)

// dayOf is the day of a time in nanoseconds.
func dayOf(nanos int64) int64 {
	day := nanos / dayLength
	if nanos%dayLength < 0 {
		day--
	}
	return day
}

// dayStart and dayEnd are the first and the last nanosecond of a day.
func dayStart(day int64) int64 {
	if day <= firstDay {
		return math.MinInt64
	}
	return day * dayLength
}

func dayEnd(day int64) int64 {
	if day >= lastDay {
		return math.MaxInt64
	}
	return (day+1)*dayLength - 1
}

// dayText is a day as YYYY-MM-DD.
func dayText(day int64) string {
	return time.Unix(day*(dayLength/int64(time.Second)), 0).UTC().Format(time.DateOnly)
}
