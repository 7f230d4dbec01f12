package ledgertest

import (
	"fmt"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

var harnessTests = map[string]func(*testing.T, Harness){
	"windows roll at midnight in UTC":              func(t *testing.T, h Harness) { windowsRoll(t, h, "UTC") },
	"windows roll at midnight in Asia/Shanghai":    func(t *testing.T, h Harness) { windowsRoll(t, h, "Asia/Shanghai") },
	"windows roll at midnight in America/New_York": func(t *testing.T, h Harness) { windowsRoll(t, h, "America/New_York") },
	"windows are shown by the days of their zone":  windowsOfZone,
	"holds come back after the end of a process":   holdsExpire,
}

// rolls are uses, by zone, and when the windows end that begin with them.
var rolls = map[string][]struct {
	use  string
	ends [3]string // UTC
}{
	"UTC": {
		{"2026-03-08T00:00:00Z", [...]string{"2026-03-09T00:00:00Z", "2026-03-15T00:00:00Z", "2026-04-07T00:00:00Z"}},
		{"2026-03-08T23:59:59.999999999Z", [...]string{"2026-03-09T00:00:00Z", "2026-03-15T00:00:00Z", "2026-04-07T00:00:00Z"}},
		{"2028-02-28T12:00:00Z", [...]string{"2028-02-29T00:00:00Z", "2028-03-06T00:00:00Z", "2028-03-29T00:00:00Z"}},
	},
	"Asia/Shanghai": {
		{"2026-03-08T23:59:59.999999999+08:00", [...]string{"2026-03-08T16:00:00Z", "2026-03-14T16:00:00Z", "2026-04-06T16:00:00Z"}},
		{"2026-03-09T00:00:00+08:00", [...]string{"2026-03-09T16:00:00Z", "2026-03-15T16:00:00Z", "2026-04-07T16:00:00Z"}},
		{"2026-12-31T12:00:00+08:00", [...]string{"2026-12-31T16:00:00Z", "2027-01-06T16:00:00Z", "2027-01-29T16:00:00Z"}},
	},
	"America/New_York": {
		{"2026-03-07T23:59:59.999999999-05:00", [...]string{"2026-03-08T05:00:00Z", "2026-03-14T04:00:00Z", "2026-04-06T04:00:00Z"}},
		{"2026-03-08T00:00:00-05:00", [...]string{"2026-03-09T04:00:00Z", "2026-03-15T04:00:00Z", "2026-04-07T04:00:00Z"}}, // 23 hours
		{"2026-03-08T23:59:59-04:00", [...]string{"2026-03-09T04:00:00Z", "2026-03-15T04:00:00Z", "2026-04-07T04:00:00Z"}},
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
	l := h.Fresh(t, location(t, zone))(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Unlimited: true})
	for i, roll := range rolls[zone] {
		use := parseTime(t, roll.use)
		for span := billing.Daily; span <= billing.Monthly; span++ {
			end := parseTime(t, roll.ends[span])
			group := fmt.Sprint(i, span)
			r := used("use "+group, use, 10)
			r.Group = group
			settle(t, l, r)
			wantUsed(t, l, group, span, use, 10, end)
			wantUsed(t, l, group, span, end.Add(-1), 10, end)
			wantUsed(t, l, group, span, end, 0, time.Time{})
			r.ID, r.Time = "last "+group, end.Add(-1)
			settle(t, l, r)
			wantUsed(t, l, group, span, end.Add(-1), 20, end)
			r.ID, r.Time = "first "+group, end
			settle(t, l, r)
			wantUsed(t, l, group, span, end, 10, nextEnd(end, span, location(t, zone)))
			if span != billing.Weekly {
				keyRolls(t, l, group, span, use, end)
			}
		}
	}
}

// nextEnd is the end of a window that begins at a midnight.
func nextEnd(start time.Time, span billing.Span, loc *time.Location) time.Time {
	return start.In(loc).AddDate(0, 0, [...]int{1, 7, 30}[span]).UTC()
}

func keyRolls(t *testing.T, l billing.Ledger, name string, span billing.Span, use, end time.Time) {
	t.Helper()
	k := key("sk-"+name, "alice")
	k.Limits[span] = 100
	addKey(t, l, k)
	r := spent("of the key "+name, k, use, 60)
	r.Billing = billing.PaidByNobody
	settle(t, l, r)
	refused(t, l, billing.Refusal{Lack: billing.LackKeyLimit, Span: span, Limit: 100, Left: 40, Until: end},
		claim("before "+name, 41, withKey(k), at(end.Add(-1))))
	hold(t, l, billing.PaidByNobody, claim("at "+name, 100, withKey(k), at(end)))
}

func windowsOfZone(t *testing.T, h Harness) {
	loc := location(t, "America/New_York")
	open := h.Fresh(t, loc)
	l := open(t)
	declare(t, l, billing.User{Name: "alice"})
	use := time.Date(2196, 7, 1, 23, 30, 0, 0, loc)
	settle(t, l, used("a", use, 10))
	want := billing.WindowsFrom(use, loc)
	for s := range want {
		want[s].Used = 10
	}
	wantSubscription(t, l, "alice", billing.Subscription{Group: "g", Windows: want})
	close1(t, l)
	l = open(t)
	defer close1(t, l)
	wantSubscription(t, l, "alice", billing.Subscription{Group: "g", Windows: want})
}

func holdsExpire(t *testing.T, h Harness) {
	if h.Advance == nil {
		t.Skip("nobody can move the clock of this store")
	}
	open := h.Fresh(t, time.UTC)
	l := open(t)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	k := key("sk-alice", "alice", limits(1000, 0))
	addKey(t, l, k)
	terms := subscribed("g", billing.Limits{1000, 0, 0})
	hold(t, l, billing.PaidFromBalance, claim("a", 600, withKey(k)))
	hold(t, l, billing.PaidFromSubscription, claim("b", 300, withKey(k), terms))
	close1(t, l)
	h.Advance(time.Minute)
	l = open(t)
	defer close1(t, l)
	wantBalance(t, l, "alice", billing.Balance{Amount: 1000})
	hold(t, l, billing.PaidFromBalance, claim("c", 1000, withKey(k)))
	hold(t, l, billing.PaidFromSubscription, claim("d", 1000, terms))
}
