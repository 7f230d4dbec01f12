package billing

import "time"

// dateOf is the day at t in loc. Where clocks are put back over midnight the day
// before is shown once more; it stays the day after.
func dateOf(t time.Time, loc *time.Location) (year int, month time.Month, day int) {
	year, month, day = t.In(loc).Date()
	if !t.Before(midnight(year, month, day+1, loc)) {
		day++
	}
	return year, month, day
}

// A Calendar numbers the days of a store, from 1970-01-01 = 0. It is made of the
// zones that the store's days were those of, one after the other: what was summed up
// by day stays as it was when an operator chooses another zone. Each day is one
// stretch of time, perhaps an empty one, and later days come later.
type Calendar []Era

// Era is a time in which days are those of one zone.
type Era struct {
	// From is when it begins; that of the first of a Calendar does not matter.
	From     time.Time
	Location *time.Location
}

// Day is the day at t.
func (c Calendar) Day(t time.Time) int64 {
	for i := len(c) - 1; i > 0; i-- {
		if !t.Before(c[i].From) {
			return max(dayNumber(t, c[i].Location), c[:i].last(c[i].From))
		}
	}
	return dayNumber(t, c[0].Location)
}

// last is the last day before an instant.
func (c Calendar) last(before time.Time) int64 { return c.Day(before.Add(-1)) }

// Start is when a day begins: the first instant that is of this day or a later one.
func (c Calendar) Start(day int64) time.Time {
	for i := range c[1:] {
		if next := c[i+1].From; c[:i+1].last(next) >= day {
			return c.startIn(i, day)
		}
	}
	return c.startIn(len(c)-1, day)
}

// startIn is Start for a day that has not begun before that era.
func (c Calendar) startIn(era int, day int64) time.Time {
	year, month, of := time.Unix(day*secondsOfDay, 0).UTC().Date()
	start := midnight(year, month, of, c[era].Location)
	if era > 0 && start.Before(c[era].From) {
		return c[era].From
	}
	return start
}

const secondsOfDay = 24 * 60 * 60

func dayNumber(t time.Time, loc *time.Location) int64 {
	year, month, day := dateOf(t, loc)
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Unix() / secondsOfDay
}

// DayText is a Calendar's day as YYYY-MM-DD.
func DayText(day int64) string { return time.Unix(day*secondsOfDay, 0).UTC().Format(time.DateOnly) }
