package billing

import (
	"fmt"
	"sort"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// walked are the days of a zone as its clocks showed them, minute after minute: when
// each was first shown, and which it was.
type walked []struct {
	began time.Time
	day   int
}

func walk(from, to time.Time, loc *time.Location) (all walked) {
	for t := from; t.Before(to); t = t.Add(time.Minute) {
		if day := days(t, loc); len(all) == 0 || day > all[len(all)-1].day {
			all = append(all, struct {
				began time.Time
				day   int
			}{t, day})
		}
	}
	return all[1:] // nobody saw the first one begin
}

// at is the last one that had begun.
func (w walked) at(t time.Time) int {
	return sort.Search(len(w), func(i int) bool { return w[i].began.After(t) }) - 1
}

// from is when that day began, or the next that there was.
func (w walked) from(day int) time.Time {
	return w[sort.Search(len(w), func(i int) bool { return w[i].day >= day })].began
}

// strangeYears are years in which clocks and calendars were changed.
var strangeYears = []struct {
	zone string
	year int
}{
	{"Pacific/Apia", 2011}, // without December 30
	{"Pacific/Kiritimati", 1994}, {"America/Sao_Paulo", 2018}, {"Africa/Cairo", 2024}, {"Asia/Beirut", 2024},
	{"Australia/Lord_Howe", 2024}, {"America/New_York", 2024}, {"Asia/Kolkata", 2024}, {"UTC", 2024}, {"Etc/GMT+12", 2024},
	{"America/St_Johns", 2010}, {"Antarctica/Casey", 2010}, {"Asia/Gaza", 2011}, {"Africa/Casablanca", 2023},
}

func TestWindowsOfStrangeYears(t *testing.T) {
	for _, c := range strangeYears {
		t.Run(fmt.Sprint(c.zone, " ", c.year), func(t *testing.T) {
			loc := load(t, c.zone)
			begin := time.Date(c.year, 1, 1, 0, 0, 0, 0, loc)
			shown := walk(begin.AddDate(0, 0, -3), begin.AddDate(1, 3, 0), loc)
			for when := begin; when.Before(begin.AddDate(1, 1, 0)); when = when.Add(17*time.Minute + 1) {
				today := shown[shown.at(when)]
				ends := [spans]time.Time{}
				for s := range ends {
					date := time.Unix(int64(today.day)*86400, 0).UTC()
					ends[s] = shown.from(today.day + lengthOf(Span(s), date))
				}
				for s, w := range WindowsFrom(when, loc) {
					if !w.Start.Equal(today.began) || !w.End.Equal(ends[s]) {
						t.Fatalf("the %v window of %v is %v to %v, want %v to %v", Span(s), when.In(loc),
							w.Start.In(loc), w.End.In(loc), today.began.In(loc), ends[s].In(loc))
					}
				}
				if got := (Calendar{{Location: loc}}).Day(when); got != int64(today.day) {
					t.Fatalf("%v is on the day %s, want %s", when.In(loc), DayText(got), DayText(int64(today.day)))
				}
				if got := (Calendar{{Location: loc}}).Start(int64(today.day)); !got.Equal(today.began) {
					t.Fatalf("the day %s begins at %v, want %v", DayText(int64(today.day)), got.In(loc), today.began.In(loc))
				}
			}
		})
	}
}

// TestAMonthHasOneAllowance sells a month from each day of some years, and uses it
// each day from its first: all of that is in one window.
func TestAMonthHasOneAllowance(t *testing.T) {
	for _, zone := range []string{"UTC", "America/New_York", "America/Sao_Paulo", "Pacific/Apia"} {
		loc := load(t, zone)
		for _, year := range []int{2011, 2018, 2024, 2026} {
			for day := range 365 {
				first := WindowsFrom(time.Date(year, 1, 1+day, 12, 0, 0, 0, loc), loc)[Daily].Start.In(loc)
				until := sameDayNextMonth(first, loc)
				var ws Windows
				windows := 0
				for use := first; use.Before(until); use = use.Add(6 * time.Hour) {
					before := ws
					ws.Add(use, 1, loc)
					if ws[Monthly].Start != before[Monthly].Start {
						windows++
					}
				}
				if windows != 1 || !ws[Monthly].Start.Equal(first) || ws[Monthly].End.Before(until) {
					t.Fatalf("%s: %d allowances from %v until %v; the last is %+v", zone, windows, first, until, ws[Monthly])
				}
			}
		}
	}
}

// sameDayNextMonth is the date that a seller writes, found by counting days.
func sameDayNextMonth(from time.Time, loc *time.Location) time.Time {
	date := time.Date(from.Year(), from.Month(), from.Day(), 0, 0, 0, 0, time.UTC)
	date = date.AddDate(0, 0, lengthOf(Monthly, date))
	return Calendar{{Location: loc}}.Start(date.Unix() / 86400)
}

func TestWindowsMoved(t *testing.T) {
	loc := load(t, "America/New_York")
	now := parse(t, "2026-03-08T12:00:00-04:00")
	used := func(ws Windows, amounts ...USD) Windows {
		for s := range ws {
			ws[s].Used = amounts[s]
		}
		return ws
	}
	today, ahead := WindowsFrom(now, loc), WindowsFrom(now.AddDate(0, 0, 40), loc)
	running := WindowsFrom(now.AddDate(0, 0, -3), loc)
	for _, c := range []struct {
		name     string
		ws, want Windows
	}{
		{"none", Windows{}, Windows{}},
		{"of today", used(today, 1, 2, 3), used(today, 1, 2, 3)},
		{"all ahead", used(ahead, 1, 2, 3), used(today, 1, 2, 3)},
		{"one ahead", used(Windows{ahead[Daily], running[Weekly], running[Monthly]}, 1, 2, 3),
			used(Windows{today[Daily], running[Weekly], running[Monthly]}, 1, 2, 3)},
		{"that have ended", used(WindowsFrom(now.AddDate(-1, 0, 0), loc), 1, 2, 3), used(WindowsFrom(now.AddDate(-1, 0, 0), loc), 1, 2, 3)},
		{"of tomorrow", used(WindowsFrom(now.AddDate(0, 0, 1), loc), 1, 2, 3), used(today, 1, 2, 3)},
	} {
		before := c.ws
		if diff := cmp.Diff(c.want, c.ws.Moved(now, loc)); diff != "" {
			t.Errorf("windows %s (-want +got):\n%s", c.name, diff)
		}
		if c.ws != before {
			t.Errorf("windows %s were changed", c.name)
		}
	}
	edge := used(today, 1, 1, 1)
	if got := edge.Moved(today[Daily].Start, loc); got != edge {
		t.Errorf("windows that begin now were moved: %v", got)
	}
	if got := edge.Moved(today[Daily].Start.Add(-1), loc)[Daily].End; !got.Equal(today[Daily].Start) {
		t.Errorf("windows that begin in a nanosecond end at %v, want %v", got, today[Daily].Start)
	}
}

func TestCountedAt(t *testing.T) {
	now := time.Now() // has a reading
	wall := now.Round(0)
	for _, c := range []struct {
		name    string
		t, now  time.Time
		counted time.Time
	}{
		{"a while ago", wall.Add(-time.Hour), now, wall.Add(-time.Hour)},
		{"now", wall, now, wall},
		{"still to come", wall.Add(time.Hour), now, wall},
		{"both with a reading", now.Add(-time.Hour).UTC(), now, wall.Add(-time.Hour)},
		{"none with a reading", wall.Add(-time.Hour), wall, wall.Add(-time.Hour)},
	} {
		if got := CountedAt(c.t, c.now); !got.Equal(c.counted) || got != got.Round(0) {
			t.Errorf("%s: counted at %v, want %v", c.name, got, c.counted)
		}
	}
}

// TestCalendarsDays: whatever zones follow each other, at whatever moments, each day
// is one stretch of time, and none goes back.
func TestCalendarsDays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func() *time.Location {
			loc, err := time.LoadLocation(zones.Draw(t, "zone"))
			if err != nil {
				t.Fatal(err)
			}
			return loc
		}
		first := draw()
		c := Calendar{{Location: first}}
		when := someTime(t, first)
		begin := when.Add(-5 * 24 * time.Hour)
		for range rapid.IntRange(0, 4).Draw(t, "changes") {
			when = when.Add(time.Duration(rapid.Int64Range(0, int64(50*time.Hour)).Draw(t, "later")))
			c = append(c, Era{when, draw()})
		}
		end := when.Add(5 * 24 * time.Hour)
		last := c.Day(begin)
		for at := begin; at.Before(end); at = at.Add(13 * time.Minute) {
			day := c.Day(at)
			if day < last || day > last+2 {
				t.Fatalf("after the day %s comes %s, at %v", DayText(last), DayText(day), at)
			}
			for d := last + 1; d <= day; d++ { // those that were left out, too
				start := c.Start(d)
				if start.After(at) || c.Day(start) < d || c.Day(start.Add(-1)) >= d {
					t.Fatalf("the day %s begins at %v; there it is %s, and before %s", DayText(d), start, DayText(c.Day(start)), DayText(c.Day(start.Add(-1))))
				}
			}
			last = day
		}
	})
}

func TestDayText(t *testing.T) {
	for day, want := range map[int64]string{0: "1970-01-01", -1: "1969-12-31", 20786: "2026-11-29", 59: "1970-03-01"} {
		if got := DayText(day); got != want {
			t.Errorf("day %d is %s, want %s", day, got, want)
		}
		at, _ := time.Parse(time.DateOnly, want)
		if got := (Calendar{{Location: time.UTC}}).Day(at.Add(time.Hour)); got != day {
			t.Errorf("%s is day %d, want %d", want, got, day)
		}
	}
}
