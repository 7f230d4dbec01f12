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
	Monthly             // to the same day of the next month, or its last day where it has none

	spans
)

// String is "daily", "weekly" or "monthly".
func (s Span) String() string { return [...]string{"daily", "weekly", "monthly"}[s] }

// end is when a window of the span ends that begins on a day.
func (s Span) end(year int, month time.Month, day int, loc *time.Location) time.Time {
	switch s {
	case Daily:
		return midnight(year, month, day+1, loc)
	case Weekly:
		return midnight(year, month, day+7, loc)
	}
	last := time.Date(year, month+2, 0, 0, 0, 0, 0, time.UTC) // of the next month
	return midnight(year, month+1, min(day, last.Day()), loc)
}

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
func WindowsFrom(t time.Time, loc *time.Location) (ws Windows) {
	year, month, day := dateOf(t, loc)
	today := midnight(year, month, day, loc)
	for s := range ws {
		ws[s] = Window{Start: today, End: Span(s).end(year, month, day, loc)}
	}
	return ws
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

// Moved are ws as a clock that shows now makes of them. A window that begins later
// began when the clock was ahead: it begins today instead, with what was used of it,
// so that it bars nobody for as long as the clock was ahead. It is what comes before
// At, Refuse and Add.
func (ws Windows) Moved(now time.Time, loc *time.Location) Windows {
	var fresh *Windows
	for s := range ws {
		w := &ws[s]
		if !w.Start.After(now) {
			continue
		}
		if fresh == nil {
			f := WindowsFrom(now, loc)
			fresh = &f
		}
		w.Start, w.End = fresh[s].Start, fresh[s].End
	}
	return ws
}

// CountedAt is when a use is counted in windows, by a clock that shows now: as long
// ago as t is, which is a matter of nobody's setting of clocks where t has a monotonic
// reading (as that of time.Now, in the process that read it), and never after now.
func CountedAt(t, now time.Time) time.Time { return now.Add(-max(now.Sub(t), 0)).Round(0) }

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
