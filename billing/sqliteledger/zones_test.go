package sqliteledger

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

// byDay is how many requests Usage has of each day, by the smaller table and by the
// larger one.
func byDay(t *testing.T, l *Ledger, filter billing.RecordFilter) map[string]int64 {
	t.Helper()
	all := make(map[string]int64)
	for _, by := range [][]billing.Dimension{{billing.ByDay}, {billing.ByDay, billing.ByModel}} {
		days := make(map[string]int64)
		err := l.Usage(t.Context(), filter, by, func(row *billing.UsageRow) bool { days[row.Day] += row.Requests; return true })
		if err != nil {
			t.Fatal(err)
		}
		if len(all) > 0 && !cmp.Equal(all, days) {
			t.Errorf("by day %v, by day and model %v", all, days)
		}
		all = days
	}
	return all
}

func settleAt(t *testing.T, l *Ledger, when ...time.Time) {
	t.Helper()
	for _, at := range when {
		r := childRecord(newID())
		r.Time = at
		if err := l.Settle(t.Context(), r, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// zoned is a ledger whose operator chooses one zone after the other, and how many
// requests there are on each day.
type zoned struct {
	*testing.T
	*Ledger
	dir   string
	clock *ledgertest.Clock
	want  map[string]int64
}

// look checks what there is on each day.
func (z *zoned) look(what string) {
	z.Helper()
	check(z.T, z.Ledger)
	if diff := cmp.Diff(z.want, byDay(z.T, z.Ledger, billing.RecordFilter{})); diff != "" {
		z.Errorf("%s: requests by day (-want +got):\n%s", what, diff)
	}
}

func (z *zoned) choose(name string) {
	z.Helper()
	if err := z.Close(); err != nil {
		z.Fatal(err)
	}
	z.Ledger = open(z.T, z.dir, Options{now: z.clock.Now, Location: zone(z.T, name)})
}

// day is that many hours, and half an hour, after the 10th of November began, in UTC.
func day(hours int) time.Time { return time.Date(2026, 11, 10, hours, 30, 0, 0, time.UTC) }

// TestDaysOfAnotherZone: days that were summed up by one zone stay as they were when an
// operator chooses another; from then on they are the other's.
func TestDaysOfAnotherZone(t *testing.T) {
	z := &zoned{T: t, dir: t.TempDir(), clock: ledgertest.NewClock(time.Date(2026, 11, 10, 20, 0, 0, 0, time.UTC))}
	z.Ledger = open(t, z.dir, Options{now: z.clock.Now})
	if err := z.Declare(t.Context(), []billing.User{{Name: "alice", Balance: opening}}); err != nil {
		t.Fatal(err)
	}
	settleAt(t, z.Ledger, day(-24*3), day(-1), day(10), day(19))
	z.want = map[string]int64{"2026-11-07": 1, "2026-11-09": 1, "2026-11-10": 2}
	z.look("UTC")

	z.choose("Asia/Shanghai") // where it is 4:00 of the 11th
	z.look("UTC, opened in Shanghai")
	z.clock.Pass(t, 20*time.Hour)
	settleAt(t, z.Ledger, day(18), day(20), day(39)) // the first of them of before the change
	z.want["2026-11-10"], z.want["2026-11-11"] = 3, 2
	z.look("Shanghai")
	z.choose("Asia/Shanghai")
	z.look("Shanghai again")

	z.choose("America/New_York") // where it is 11:00 of the 11th
	z.clock.Pass(t, 24*time.Hour)
	settleAt(t, z.Ledger, day(41), day(53), day(24+29)) // until 5:00 UTC of the 12th it is the 11th
	z.want["2026-11-11"], z.want["2026-11-12"] = 3, 2
	z.look("New York")

	z.choose("Pacific/Honolulu") // where it is still the 12th, at 6:00
	z.clock.Pass(t, 4*time.Hour)
	settleAt(t, z.Ledger, day(66))
	z.want["2026-11-12"] = 3
	z.choose("Pacific/Kiritimati") // where it is the 13th, at 10:00
	z.clock.Pass(t, time.Hour)
	settleAt(t, z.Ledger, day(68))
	z.want["2026-11-13"] = 1
	z.choose("Pacific/Honolulu") // 11:00 of the 12th once more, which is over
	z.clock.Pass(t, 2*time.Hour)
	settleAt(t, z.Ledger, day(70))
	z.want["2026-11-13"] = 2
	z.look("around the world")
	z.clock.Pass(t, 48*time.Hour)
	settleAt(t, z.Ledger, day(72+10).Add(-time.Hour), day(72+34)) // 23:30 of the 12th, which is over, and 0:30 of the 14th
	z.want["2026-11-13"], z.want["2026-11-14"] = 3, 1
	z.look("Honolulu")
	z.sumBetween()
	z.pruneAll()
	if err := z.Close(); err != nil {
		t.Error(err)
	}
}

// sumBetween sums up between moments, whatever days begin and end there.
func (z *zoned) sumBetween() {
	for first := -80; first < 110; first += 7 {
		for last := first; last < 110; last += 31 {
			f := billing.RecordFilter{From: day(first), To: day(last)}
			sum := int64(0)
			for _, n := range byDay(z.T, z.Ledger, f) {
				sum += n
			}
			if n := len(ledgertest.List(z.T, z.Ledger, f)); int64(n) != sum {
				z.Errorf("usage of %d records between %v and %v, want %d", sum, f.From, f.To, n)
			}
		}
	}
}

// pruneAll deletes one day after the other but for today. A day that two zones have a
// part in goes as a whole.
func (z *zoned) pruneAll() {
	for _, name := range slices.Sorted(maps.Keys(z.want)) {
		due := z.want[name]
		if len(z.want) == 1 {
			due = 0
		}
		if n, err := z.Prune(z.Context(), z.clock.Now()); err != nil || int64(n) != due {
			z.Errorf("Prune: %d, %v; want the %d of %s", n, err, due, name)
		}
		if due > 0 {
			delete(z.want, name)
		}
		z.look("after " + name)
	}
}

// TestZoneChangesWhileRecordsAreAhead: records of a clock that was ahead are of the
// days of the zone that is chosen, though they were there before.
func TestZoneChangesWhileRecordsAreAhead(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 10, 20, 0, 0, 0, time.UTC)
	clock := ledgertest.NewClock(now)
	l := open(t, dir, Options{now: clock.Now})
	if err := l.Declare(t.Context(), []billing.User{{Name: "alice", Balance: opening}}); err != nil {
		t.Fatal(err)
	}
	ahead := now.AddDate(0, 0, 40)
	last := time.Unix(0, 1<<63-1)
	settleAt(t, l, now.Add(-time.Hour), ahead, ahead.Add(-14*time.Hour), last)
	for _, c := range []struct {
		zone string
		want map[string]int64
	}{
		{"UTC", map[string]int64{"2026-11-10": 1, "2026-12-20": 2, "2262-04-11": 1}},
		{"Asia/Shanghai", map[string]int64{"2026-11-10": 1, "2026-12-20": 1, "2026-12-21": 1, "2262-04-12": 1}},
		{"UTC", map[string]int64{"2026-11-10": 1, "2026-12-20": 2, "2262-04-11": 1}},
		{"Pacific/Honolulu", map[string]int64{"2026-11-10": 1, "2026-12-19": 1, "2026-12-20": 1, "2262-04-11": 1}},
	} {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir, Options{now: clock.Now, Location: zone(t, c.zone)})
		check(t, l)
		if diff := cmp.Diff(c.want, byDay(t, l, billing.RecordFilter{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.zone, diff)
		}
		clock.Jump(t, -time.Minute) // and the change before is one that is still to come
	}
	if eras := len(l.days.Calendar); eras > 2 {
		t.Errorf("the calendar has %d zones", eras)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestZoneOfAnEmptyStore: there is nothing that was summed up in another one.
func TestZoneOfAnEmptyStore(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"Asia/Shanghai", "America/New_York", "UTC", "America/New_York"} {
		l := open(t, dir, Options{Location: zone(t, name)})
		if eras := l.days.Calendar; len(eras) != 1 || eras[0].Location.String() != name {
			t.Errorf("the calendar is %v", eras)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestUnknownZone: the system may know less of zones than the one before.
func TestUnknownZone(t *testing.T) {
	dir := t.TempDir()
	l := openWithAlice(t, dir)
	settleAt(t, l, time.Now())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := connect(context.Background(), filepath.Join(dir, databaseName))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.exec(context.Background(), "INSERT INTO calendar VALUES (5, 'Mars/Olympus')"); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), dir, Options{})
	if err == nil {
		t.Fatal("it was opened")
	}
	for _, part := range []string{dir, "Mars/Olympus", "tzdata"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}
