package billing

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func load(t testing.TB, zone string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func parse(t testing.TB, text string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

// between is a window of UTC times without years' seconds: "2026-03-08 05:00".
func between(t testing.TB, start, end string) Window {
	t.Helper()
	return Window{Start: parse(t, start+"Z"), End: parse(t, end+"Z")}
}

func TestWindowsFrom(t *testing.T) {
	for _, c := range []struct {
		name, zone, use      string
		start                string
		daily, weekly, month string
	}{
		{"the first instant of a day", "UTC", "2026-03-08T00:00:00Z",
			"2026-03-08T00:00:00", "2026-03-09T00:00:00", "2026-03-15T00:00:00", "2026-04-08T00:00:00"},
		{"the last", "UTC", "2026-03-08T23:59:59.999999999Z",
			"2026-03-08T00:00:00", "2026-03-09T00:00:00", "2026-03-15T00:00:00", "2026-04-08T00:00:00"},
		{"a leap year", "UTC", "2028-02-20T12:00:00Z",
			"2028-02-20T00:00:00", "2028-02-21T00:00:00", "2028-02-27T00:00:00", "2028-03-20T00:00:00"},
		{"the time's own zone does not matter", "UTC", "2026-03-08T01:00:00+08:00",
			"2026-03-07T00:00:00", "2026-03-08T00:00:00", "2026-03-14T00:00:00", "2026-04-07T00:00:00"},
		{"ahead of UTC", "Asia/Shanghai", "2026-03-08T23:59:59.999999999+08:00",
			"2026-03-07T16:00:00", "2026-03-08T16:00:00", "2026-03-14T16:00:00", "2026-04-07T16:00:00"},
		{"ahead of UTC, the next day", "Asia/Shanghai", "2026-03-09T00:00:00+08:00",
			"2026-03-08T16:00:00", "2026-03-09T16:00:00", "2026-03-15T16:00:00", "2026-04-08T16:00:00"},
		{"the day before clocks are put forward", "America/New_York", "2026-03-07T23:59:59.999999999-05:00",
			"2026-03-07T05:00:00", "2026-03-08T05:00:00", "2026-03-14T04:00:00", "2026-04-07T04:00:00"},
		{"a day of 23 hours", "America/New_York", "2026-03-08T00:00:00-05:00",
			"2026-03-08T05:00:00", "2026-03-09T04:00:00", "2026-03-15T04:00:00", "2026-04-08T04:00:00"},
		{"the end of that day", "America/New_York", "2026-03-08T23:59:59.999999999-04:00",
			"2026-03-08T05:00:00", "2026-03-09T04:00:00", "2026-03-15T04:00:00", "2026-04-08T04:00:00"},
		{"the day before clocks are put back", "America/New_York", "2026-10-31T23:59:59.999999999-04:00",
			"2026-10-31T04:00:00", "2026-11-01T04:00:00", "2026-11-07T05:00:00", "2026-11-30T05:00:00"},
		{"a day of 25 hours", "America/New_York", "2026-11-01T01:30:00-04:00",
			"2026-11-01T04:00:00", "2026-11-02T05:00:00", "2026-11-08T05:00:00", "2026-12-01T05:00:00"},
		{"the hour that comes twice", "America/New_York", "2026-11-01T01:30:00-05:00",
			"2026-11-01T04:00:00", "2026-11-02T05:00:00", "2026-11-08T05:00:00", "2026-12-01T05:00:00"},
		{"before a day that begins at 1:00", "America/Santiago", "2026-09-05T23:30:00-04:00",
			"2026-09-05T04:00:00", "2026-09-06T04:00:00", "2026-09-12T03:00:00", "2026-10-05T03:00:00"},
		{"a day that begins at 1:00", "America/Santiago", "2026-09-06T01:00:00-03:00",
			"2026-09-06T04:00:00", "2026-09-07T03:00:00", "2026-09-13T03:00:00", "2026-10-06T03:00:00"},
		{"the hour before midnight comes twice", "America/Santiago", "2026-04-04T23:30:00-04:00",
			"2026-04-04T03:00:00", "2026-04-05T04:00:00", "2026-04-11T04:00:00", "2026-05-04T04:00:00"},
		{"midnight comes twice", "America/Havana", "2026-11-01T00:30:00-05:00",
			"2026-11-01T04:00:00", "2026-11-02T05:00:00", "2026-11-08T05:00:00", "2026-12-01T05:00:00"},
		{"the day after comes first", "Antarctica/Casey", "2010-03-05T01:00:00+11:00",
			"2010-03-04T13:00:00", "2010-03-05T16:00:00", "2010-03-11T16:00:00", "2010-04-04T16:00:00"},
		{"the day after comes first, then the day before", "Antarctica/Casey", "2010-03-04T23:30:00+08:00",
			"2010-03-04T13:00:00", "2010-03-05T16:00:00", "2010-03-11T16:00:00", "2010-04-04T16:00:00"},
		{"the last day of a leap year", "America/New_York", "2040-12-31T12:00:00-05:00",
			"2040-12-31T05:00:00", "2041-01-01T05:00:00", "2041-01-07T05:00:00", "2041-01-31T05:00:00"},
		{"a day that never was", "Pacific/Apia", "2011-12-29T12:00:00-10:00",
			"2011-12-29T10:00:00", "2011-12-30T10:00:00", "2012-01-04T10:00:00", "2012-01-28T10:00:00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := Windows{between(t, c.start, c.daily), between(t, c.start, c.weekly), between(t, c.start, c.month)}
			got := WindowsFrom(parse(t, c.use), load(t, c.zone))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("windows (-want +got):\n%s", diff)
			}
			for s, w := range got {
				if w.Start.Location() != time.UTC || w.End.Location() != time.UTC {
					t.Errorf("%v window: %v to %v, want UTC", Span(s), w.Start, w.End)
				}
			}
		})
	}
}

func TestWindowsAdd(t *testing.T) {
	loc := load(t, "America/New_York")
	var ws Windows
	at := func(text string, amount USD, want ...USD) {
		t.Helper()
		ws.Add(parse(t, text), amount, loc)
		if diff := cmp.Diff(want, []USD{ws[Daily].Used, ws[Weekly].Used, ws[Monthly].Used}); diff != "" {
			t.Errorf("used at %s (-want +got):\n%s", text, diff)
		}
	}
	at("2026-03-07T12:00:00-05:00", 10, 10, 10, 10)
	at("2026-03-07T23:59:59.999999999-05:00", 1, 11, 11, 11)
	at("2026-03-08T00:00:00-05:00", 20, 20, 31, 31)
	at("2026-03-07T23:59:59.999999999-05:00", 100, 20, 131, 131) // late
	at("2026-03-06T23:59:59.999999999-05:00", 1000, 20, 131, 131)
	at("2026-03-08T23:59:59.999999999-04:00", 2, 22, 133, 133)
	at("2026-03-09T00:00:00-04:00", 0, 0, 133, 133)
	at("2026-03-13T23:59:59.999999999-04:00", 3, 3, 136, 136)
	at("2026-03-14T00:00:00-04:00", 4, 4, 4, 140)
	at("2026-04-06T23:59:59.999999999-04:00", 5, 5, 5, 145)
	at("2026-04-07T00:00:00-04:00", 6, 6, 11, 6)
	at("2026-04-07T00:00:00-04:00", 1<<63-1, 1<<63-1, 1<<63-1, 1<<63-1) // no sum wraps around
	want := Windows{
		between(t, "2026-04-07T04:00:00", "2026-04-08T04:00:00"), between(t, "2026-04-06T04:00:00", "2026-04-13T04:00:00"),
		between(t, "2026-04-07T04:00:00", "2026-05-07T04:00:00"),
	}
	for s := range ws {
		ws[s].Used = 0
	}
	if diff := cmp.Diff(want, ws); diff != "" {
		t.Errorf("windows (-want +got):\n%s", diff)
	}
}

func TestWindowsAt(t *testing.T) {
	day := parse(t, "2026-03-08T12:00:00Z")
	var ws Windows
	if got := ws.At(day); got != (Windows{}) {
		t.Errorf("At of none: %+v", got)
	}
	ws.Add(day, 10, time.UTC)
	whole := ws
	want := ws
	for s := Daily; s <= Monthly; s++ {
		if diff := cmp.Diff(want, ws.At(ws[s].End.Add(-1))); diff != "" {
			t.Errorf("before the end of the %v window (-want +got):\n%s", s, diff)
		}
		want[s] = Window{}
		if diff := cmp.Diff(want, ws.At(ws[s].End)); diff != "" {
			t.Errorf("at the end of the %v window (-want +got):\n%s", s, diff)
		}
	}
	if diff := cmp.Diff(whole, ws.At(ws[Daily].Start.Add(-1))); diff != "" {
		t.Errorf("before they begin (-want +got):\n%s", diff)
	}
	if ws != whole {
		t.Errorf("At changed the windows to %+v", ws)
	}
}

func TestSpanString(t *testing.T) {
	for span, want := range map[Span]string{Daily: "daily", Weekly: "weekly", Monthly: "monthly"} {
		if got := span.String(); got != want {
			t.Errorf("%d: %q, want %q", span, got, want)
		}
	}
}

// zones have clocks that are put forward and back at many hours, midnight among
// them, by half an hour and a whole day.
var zones = rapid.SampledFrom([]string{
	"UTC", "Asia/Shanghai", "America/New_York", "America/Santiago", "America/Havana", "Atlantic/Azores", "Africa/Cairo",
	"Asia/Beirut", "Asia/Gaza", "Australia/Lord_Howe", "Asia/Kathmandu", "Antarctica/Casey", "Antarctica/Troll",
	"Pacific/Apia", "Pacific/Kiritimati", "Asia/Magadan", "Africa/Casablanca", "Europe/Dublin", "America/St_Johns",
})

// someTime is any, more often one near a change of clocks.
func someTime(t *rapid.T, loc *time.Location) time.Time {
	when := time.Unix(rapid.Int64Range(631152000, 2524608000).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds"))
	if _, end := when.In(loc).ZoneBounds(); !end.IsZero() && rapid.Bool().Draw(t, "near a change") {
		when = end.Add(time.Duration(rapid.Int64Range(-26*3600, 26*3600).Draw(t, "from it")) * time.Second)
	}
	return when
}

// days is the day that clocks show, counted.
func days(t time.Time, loc *time.Location) int {
	year, month, day := t.In(loc).Date()
	return int(time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Unix() / 86400)
}

// lengthOf is how many days a window has that begins on a day.
func lengthOf(s Span, start time.Time) int {
	if s != Monthly {
		return []int{1, 7}[s]
	}
	of := func(month time.Month) int {
		switch month {
		case time.April, time.June, time.September, time.November:
			return 30
		case time.February:
			if year := start.Year(); year%4 == 0 && (year%100 != 0 || year%400 == 0) {
				return 29
			}
			return 28
		}
		return 31
	}
	return of(start.Month()) - max(start.Day()-of(start.Month()%12+1), 0)
}

func TestWindowsBeginAndEndWithLocalDays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone := zones.Draw(t, "zone")
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		when := someTime(t, loc)
		ws := WindowsFrom(when, loc)
		for s, w := range ws {
			if when.Before(w.Start) || !when.Before(w.End) {
				t.Fatalf("%v is not in the %v window of %v to %v", when, Span(s), w.Start, w.End)
			}
			if w.Used != 0 || w.Start != ws[Daily].Start || w.Start.Nanosecond() != 0 || w.End.Nanosecond() != 0 {
				t.Fatalf("the %v window is %+v", Span(s), w)
			}
			if zone == "Pacific/Apia" || zone == "Pacific/Kiritimati" {
				continue // where a day was left out
			}
			if got, want := days(w.End, loc)-days(w.Start, loc), lengthOf(Span(s), w.Start.In(loc)); got != want {
				t.Fatalf("the %v window has %d days, want %d, of %v to %v", Span(s), got, want, w.Start.In(loc), w.End.In(loc))
			}
			for _, edge := range []time.Time{w.Start, w.End} {
				if days(edge.Add(-1), loc) >= days(edge, loc) {
					t.Fatalf("%v is within a day, of the %v window", edge.In(loc), Span(s))
				}
			}
		}
	})
}

func TestWindowsCountWhatIsSpentInThem(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		loc, err := time.LoadLocation(zones.Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		type use struct {
			when   time.Time
			amount USD
			kept   [spans]bool
		}
		var ws Windows
		var uses []use
		now := someTime(t, loc)
		for range rapid.IntRange(1, 30).Draw(t, "uses") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(60*time.Hour)).Draw(t, "later")))
			u := use{when: now, amount: USD(rapid.Int64Range(0, 1000).Draw(t, "amount"))}
			if rapid.IntRange(0, 3).Draw(t, "late") == 0 {
				u.when = now.Add(-time.Duration(rapid.Int64Range(0, int64(80*time.Hour)).Draw(t, "how late")))
			}
			before := ws
			ws.Add(u.when, u.amount, loc)
			uses = append(uses, u)
			for s, w := range ws {
				if old := before[s]; w.Start != old.Start && w.Start.Before(old.End) {
					t.Fatalf("the %v window of %v to %v overlaps the next, from %v", Span(s), old.Start, old.End, w.Start)
				}
				for i := range uses {
					if w.Start != before[s].Start {
						uses[i].kept[s] = i == len(uses)-1 // what was before is gone
					} else if i == len(uses)-1 {
						uses[i].kept[s] = !u.when.Before(w.Start)
					}
				}
				var sum USD
				for _, u := range uses {
					if u.kept[s] {
						sum += u.amount
						if u.when.Before(w.Start) || !u.when.Before(w.End) {
							t.Fatalf("%v was counted in the %v window of %v to %v", u.when, Span(s), w.Start, w.End)
						}
					}
				}
				if w.Used != sum {
					t.Fatalf("%v is used in the %v window, want %v", w.Used, Span(s), sum)
				}
			}
		}
	})
}
