package ledgertest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
)

var zoneTests = map[string]func(*testing.T, Harness){
	"windows roll at midnight in UTC":              func(t *testing.T, h Harness) { windowsRoll(t, h, "UTC") },
	"windows roll at midnight in Asia/Shanghai":    func(t *testing.T, h Harness) { windowsRoll(t, h, "Asia/Shanghai") },
	"windows roll at midnight in America/New_York": func(t *testing.T, h Harness) { windowsRoll(t, h, "America/New_York") },
	"windows are shown by the days of their zone":  windowsOfZone,
	"usage has the days of its zone":               usageOfZones,
	"pruning deletes a day of its zone":            pruneOfZone,
}

// rolls are uses, by zone, and when the windows end that begin with them.
var rolls = map[string][]struct {
	use  string
	ends [3]string // UTC
}{
	"UTC": {
		{"2026-03-08T00:00:00Z", [...]string{"2026-03-09T00:00:00Z", "2026-03-15T00:00:00Z", "2026-04-08T00:00:00Z"}},
		{"2026-03-08T23:59:59.999999999Z", [...]string{"2026-03-09T00:00:00Z", "2026-03-15T00:00:00Z", "2026-04-08T00:00:00Z"}},
		{"2028-02-28T12:00:00Z", [...]string{"2028-02-29T00:00:00Z", "2028-03-06T00:00:00Z", "2028-03-28T00:00:00Z"}},
		{"2028-01-31T12:00:00Z", [...]string{"2028-02-01T00:00:00Z", "2028-02-07T00:00:00Z", "2028-02-29T00:00:00Z"}},
		{"2027-01-29T12:00:00Z", [...]string{"2027-01-30T00:00:00Z", "2027-02-05T00:00:00Z", "2027-02-28T00:00:00Z"}},
	},
	"Asia/Shanghai": {
		{"2026-03-08T23:59:59.999999999+08:00", [...]string{"2026-03-08T16:00:00Z", "2026-03-14T16:00:00Z", "2026-04-07T16:00:00Z"}},
		{"2026-03-09T00:00:00+08:00", [...]string{"2026-03-09T16:00:00Z", "2026-03-15T16:00:00Z", "2026-04-08T16:00:00Z"}},
		{"2026-12-31T12:00:00+08:00", [...]string{"2026-12-31T16:00:00Z", "2027-01-06T16:00:00Z", "2027-01-30T16:00:00Z"}},
	},
	"America/New_York": {
		{"2026-03-07T23:59:59.999999999-05:00", [...]string{"2026-03-08T05:00:00Z", "2026-03-14T04:00:00Z", "2026-04-07T04:00:00Z"}},
		{"2026-03-08T00:00:00-05:00", [...]string{"2026-03-09T04:00:00Z", "2026-03-15T04:00:00Z", "2026-04-08T04:00:00Z"}}, // 23 hours
		{"2026-03-08T23:59:59-04:00", [...]string{"2026-03-09T04:00:00Z", "2026-03-15T04:00:00Z", "2026-04-08T04:00:00Z"}},
		{"2026-10-31T23:59:59-04:00", [...]string{"2026-11-01T04:00:00Z", "2026-11-07T05:00:00Z", "2026-11-30T05:00:00Z"}},
		{"2026-11-01T01:30:00-04:00", [...]string{"2026-11-02T05:00:00Z", "2026-11-08T05:00:00Z", "2026-12-01T05:00:00Z"}}, // 25 hours
		{"2026-11-01T01:30:00-05:00", [...]string{"2026-11-02T05:00:00Z", "2026-11-08T05:00:00Z", "2026-12-01T05:00:00Z"}},
		{"2026-11-01T23:59:59-05:00", [...]string{"2026-11-02T05:00:00Z", "2026-11-08T05:00:00Z", "2026-12-01T05:00:00Z"}},
	},
}

func location(t *testing.T, zone string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func parseTime(t *testing.T, text string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

// windowsRoll looks at windows of a subscription and of a key, a nanosecond before
// and at their ends.
func windowsRoll(t *testing.T, h Harness, zone string) {
	w := h.world(t, location(t, zone))
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Unlimited: true})
	for i, roll := range rolls[zone] {
		use := parseTime(t, roll.use)
		for span := billing.Daily; span <= billing.Monthly; span++ {
			w.clock.Set(t, use)
			end := parseTime(t, roll.ends[span])
			group := fmt.Sprint(i, span)
			k := key("sk-"+group, "alice")
			k.Limits[span] = 100
			addKey(t, l, k)
			settleBoth := func(id string, want billing.USD, end time.Time) {
				t.Helper()
				r := used(id+" use "+group, w.clock.Now(), 10)
				r.Group, r.KeyID = group, k.ID
				settle(t, l, r)
				wantUsed(t, l, group, span, want, end)
				wantKeyUsed(t, l, k, span, want, end)
			}
			settleBoth("first", 10, end)
			w.clock.PassUntil(t, end.Add(-1))
			settleBoth("last", 20, end)
			w.clock.Pass(t, 1)
			wantUsed(t, l, group, span, 0, time.Time{})
			wantKeyUsed(t, l, k, span, 0, time.Time{})
			settleBoth("next", 10, nextEnd(end, span, location(t, zone)))
		}
	}
}

// nextEnd is the end of a window that begins at a midnight, up to the 28th for a month.
func nextEnd(start time.Time, span billing.Span, loc *time.Location) time.Time {
	months, days := 0, [...]int{1, 7, 0}[span]
	if span == billing.Monthly {
		months = 1
	}
	next := start.In(loc).AddDate(0, months, days)
	for span == billing.Monthly && next.Day() < 4 && start.In(loc).Day() > 28 { // it has no such day
		next = next.AddDate(0, 0, -1)
	}
	return next.UTC()
}

// wantKeyUsed is wantUsed for a key.
func wantKeyUsed(t *testing.T, l billing.Ledger, k billing.Key, span billing.Span, used billing.USD, end time.Time) {
	t.Helper()
	refused(t, l, billing.Refusal{
		Reason: billing.ReasonKeyLimit, Span: span, Limit: k.Limits[span], Left: k.Limits[span] - used, Until: end,
	}, req("more than the key's limit", k.Limits[span]+1, unlimited, withKey(k)))
}

func windowsOfZone(t *testing.T, h Harness) {
	if h.OwnTime {
		t.Skip("nobody can set the clock of this store")
	}
	loc := location(t, "America/New_York")
	w := h.world(t, loc)
	l := w.open(t)
	declare(t, l, billing.User{Name: "alice"})
	use := time.Date(2027, 7, 1, 23, 30, 0, 0, loc)
	w.clock.Set(t, use)
	settle(t, l, used("a", use, 10))
	want := billing.WindowsFrom(use, loc)
	for s := range want {
		want[s].Used = 10
	}
	wantSubscription(t, l, "alice", billing.Subscription{Group: "g", Windows: want})
	close1(t, l)
	l = w.open(t)
	defer close1(t, l)
	wantSubscription(t, l, "alice", billing.Subscription{Group: "g", Windows: want})
}

// daysOfZones are first and last instants of days, and what day they are.
var daysOfZones = map[string][][2]string{
	"Asia/Shanghai": {{"2026-03-07T15:59:59.999999999Z", "2026-03-07"}, {"2026-03-07T16:00:00Z", "2026-03-08"}, {"2026-03-08T15:59:59Z", "2026-03-08"}},
	"America/Sao_Paulo": { // clocks are put forward at midnight, and back
		{"2017-10-15T02:59:59.999999999Z", "2017-10-14"}, {"2017-10-15T03:00:00Z", "2017-10-15"}, {"2017-10-16T02:00:00Z", "2017-10-16"},
		{"2018-02-18T01:30:00Z", "2018-02-17"}, {"2018-02-18T02:59:59Z", "2018-02-17"}, {"2018-02-18T03:00:00Z", "2018-02-18"},
	},
	"Pacific/Apia": {{"2011-12-30T09:59:59Z", "2011-12-29"}, {"2011-12-30T10:00:00Z", "2011-12-31"}, {"2011-12-31T10:00:00Z", "2012-01-01"}},
	"Asia/Kolkata": {{"2026-03-07T18:29:59Z", "2026-03-07"}, {"2026-03-07T18:30:00Z", "2026-03-08"}},
	"Etc/GMT+12":   {{"2026-03-08T11:59:59Z", "2026-03-07"}, {"2026-03-08T12:00:00Z", "2026-03-08"}},
}

// usageOfZones sums up by day, all and between instants that are within days.
func usageOfZones(t *testing.T, h Harness) {
	for zone, instants := range daysOfZones {
		l := h.world(t, location(t, zone)).open(t)
		want := map[string]int64{}
		for i, instant := range instants {
			settle(t, l, &billing.Record{ID: fmt.Sprint(i), Time: parseTime(t, instant[0]), User: "alice", Model: "opus"})
			want[instant[1]]++
		}
		for _, by := range [][]billing.Dimension{{billing.ByDay}, {billing.ByDay, billing.ByModel}} {
			got := map[string]int64{}
			for _, row := range usage(t, l, billing.RecordFilter{}, by...) {
				got[row.Day] = row.Requests
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: requests by %v (-want +got):\n%s", zone, by, diff)
			}
		}
		for _, from := range instants {
			for _, to := range instants {
				filter := billing.RecordFilter{From: parseTime(t, from[0]), To: parseTime(t, to[0]).Add(1)}
				rows, between := usage(t, l, filter, billing.ByDay), List(t, l, filter)
				sum := 0
				for _, row := range rows {
					sum += int(row.Requests)
				}
				if sum != len(between) {
					t.Errorf("%s: %d requests from %s to %s, want %d", zone, sum, from[0], to[0], len(between))
				}
			}
		}
		close1(t, l)
	}
}

func pruneOfZone(t *testing.T, h Harness) {
	loc := location(t, "America/New_York")
	l := h.world(t, loc).open(t)
	defer close1(t, l)
	midnight := time.Date(2026, 11, 1, 0, 0, 0, 0, loc) // of a day of 25 hours
	for id, when := range map[string]time.Time{
		"first": midnight, "last": midnight.Add(25*time.Hour - 1), "next": midnight.Add(25 * time.Hour),
	} {
		settle(t, l, &billing.Record{ID: id, Time: when, User: "alice", Model: "opus"})
	}
	if n, err := l.Prune(t.Context(), midnight.Add(25*time.Hour-1)); n != 0 || err != nil {
		t.Errorf("Prune before the day's end: %d, %v; want none", n, err)
	}
	if n, err := l.Prune(t.Context(), midnight.Add(25*time.Hour)); n != 2 || err != nil {
		t.Errorf("Prune at the day's end: %d, %v; want 2", n, err)
	}
	if diff := cmp.Diff([]string{"next"}, ids(List(t, l, billing.RecordFilter{}))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	for _, by := range [][]billing.Dimension{{billing.ByDay}, {billing.ByDay, billing.ByModel}} {
		if rows := usage(t, l, billing.RecordFilter{}, by...); len(rows) != 1 || rows[0].Day != "2026-11-02" || rows[0].Requests != 1 {
			t.Errorf("usage by %v: %+v", by, rows)
		}
	}
}
