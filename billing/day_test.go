package billing

import (
	"testing"
	"time"
)

func TestDayStart(t *testing.T) {
	for _, test := range []struct{ zone, day, want string }{
		{"UTC", "2026-11-29", "2026-11-29T00:00:00Z"},
		{"Asia/Shanghai", "2026-11-29", "2026-11-29T00:00:00+08:00"},
		{"America/Sao_Paulo", "2018-11-04", "2018-11-04T01:00:00-02:00"}, // 0:00 was left out
		{"Pacific/Apia", "2011-12-30", "2011-12-31T00:00:00+14:00"},      // the whole day was
		{"Africa/Cairo", "2023-10-27", "2023-10-27T00:00:00+02:00"},      // 0:00 came once, after 23:59 twice
	} {
		loc, err := time.LoadLocation(test.zone)
		if err != nil {
			t.Fatal(err)
		}
		day, err := time.Parse(time.DateOnly, test.day)
		if err != nil {
			t.Fatal(err)
		}
		if got := DayStart(day.Year(), day.Month(), day.Day(), loc).Format(time.RFC3339); got != test.want {
			t.Errorf("%s in %s starts at %s, want %s", test.day, test.zone, got, test.want)
		}
	}
}
