package billing

import (
	"sort"
	"time"
)

// Span is one of the spans of time over which spending is limited. They are in
// the order of Windows.
type Span int

const (
	Daily   Span = iota // 1 day
	Weekly              // 7 days
	Monthly             // 30 days

	spans
)

// String is "daily", "weekly" or "monthly".
func (s Span) String() string { return [...]string{"daily", "weekly", "monthly"}[s] }

// days is how long a window of the span is.
func (s Span) days() int { return [...]int{1, 7, 30}[s] }

// Limits are the most that may be spent in a window of each Span; 0 = no limit.
type Limits [spans]USD

// Window is a span of time in which spending is counted: Start <= t < End. The
// zero value has not begun.
type Window struct {
	Start, End time.Time
	Used       USD
}

// Windows are those in which something is spent, by Span. They begin with the
// first use, at the midnight before it, and when they have ended with the next
// use.
type Windows [spans]Window

// WindowsFrom are the windows that begin with a use at t, with nothing used. Days
// begin at midnight in loc, whatever their length in hours. Times are in UTC and
// whole seconds.
func WindowsFrom(t time.Time, loc *time.Location) Windows {
	year, month, day := t.In(loc).Date()
	tomorrow := midnight(year, month, day+1, loc)
	if !t.Before(tomorrow) { // it was midnight before the clock was put back
		day++
		tomorrow = midnight(year, month, day+1, loc)
	}
	today := midnight(year, month, day, loc)
	return Windows{
		Daily:   {Start: today, End: tomorrow},
		Weekly:  {Start: today, End: midnight(year, month, day+Weekly.days(), loc)},
		Monthly: {Start: today, End: midnight(year, month, day+Monthly.days(), loc)},
	}
}

// midnight is when clocks in loc first show that day: at 0:00 or, where they are
// put forward over it, at once after that. time.Date would give an hour of the day
// before, and Time.ZoneBounds is wrong on the last day of a leap year.
func midnight(year int, month time.Month, day int, loc *time.Location) time.Time {
	shown := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	offset := func(t time.Time) time.Duration {
		_, seconds := t.In(loc).Zone()
		return time.Duration(seconds) * time.Second
	}
	before, after := offset(shown.Add(-24*time.Hour)), offset(shown.Add(24*time.Hour))
	first, last := shown.Add(-before), shown.Add(-after)
	switch {
	case offset(first) == before:
		return first
	case offset(last) == after:
		return last
	}
	passed := sort.Search(int(first.Sub(last)/time.Second), func(seconds int) bool {
		return offset(last.Add(time.Duration(seconds)*time.Second)) == after
	})
	return last.Add(time.Duration(passed) * time.Second)
}

// Add counts what was spent at t. A window that has ended by then makes room for a
// new one; what belongs to one that has made room already is not counted.
func (ws *Windows) Add(t time.Time, amount USD, loc *time.Location) {
	var fresh *Windows
	for s := range ws {
		w := &ws[s]
		if !t.Before(w.End) {
			if fresh == nil {
				f := WindowsFrom(t, loc)
				fresh = &f
			}
			*w = fresh[s]
		}
		if !t.Before(w.Start) {
			w.Used = w.Used.Plus(amount)
		}
	}
}

// At is ws as it stands at t: windows that have ended are zero.
func (ws Windows) At(t time.Time) Windows {
	for s := range ws {
		if !t.Before(ws[s].End) {
			ws[s] = Window{}
		}
	}
	return ws
}
