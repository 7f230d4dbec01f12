package ledgertest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sub2api/caddy-sub2api/billing"
)

var usageTests = map[string]func(*testing.T, Open){
	"usage is the sum over records": usageSums,
	"usage of nothing":              usageOfNothing,
	"usage is in order":             usageOrdered,
	"usage has days":                usageDays,
	"usage is exact":                usageExact,
	"usage ends with yield":         usageEnds,
}

var dimensions = []billing.Dimension{
	billing.ByUser, billing.ByKey, billing.ByAccount, billing.ByGroup, billing.ByModel, billing.ByDay,
}

// sum is what Usage gives for records, by days in loc.
func sum(records []*billing.Record, by []billing.Dimension, loc *time.Location) []*billing.UsageRow {
	sums := map[billing.UsageRow]*billing.UsageRow{}
	if len(by) == 0 {
		sums[billing.UsageRow{}] = &billing.UsageRow{}
	}
	for _, r := range records {
		var name billing.UsageRow
		for _, d := range by {
			*name.Name(d) = map[billing.Dimension]string{
				billing.ByUser: r.User, billing.ByKey: r.KeyID, billing.ByAccount: r.Account,
				billing.ByGroup: r.Group, billing.ByModel: r.Model, billing.ByDay: dayText(r.Time, loc),
			}[d]
		}
		row := sums[name]
		if row == nil {
			named := name
			row = &named
			sums[name] = row
		}
		row.Requests++
		row.Input += r.Input
		row.Output += r.Output
		row.CacheWrite5m += r.CacheWrite5m
		row.CacheWrite1h += r.CacheWrite1h
		row.CacheRead += r.CacheRead
		row.Cost += r.Cost
		row.Charged += r.Charged
	}
	return slices.SortedFunc(maps.Values(sums), func(a, b *billing.UsageRow) int {
		for _, d := range by {
			if c := strings.Compare(*a.Name(d), *b.Name(d)); c != 0 {
				return c
			}
		}
		return 0
	})
}

// dayText is the day at a time, which lasts until clocks show the next.
func dayText(when time.Time, loc *time.Location) string {
	return billing.WindowsFrom(when, loc)[billing.Daily].Start.In(loc).Format(time.DateOnly)
}

func usage(t *testing.T, l billing.Ledger, filter billing.RecordFilter, by ...billing.Dimension) []*billing.UsageRow {
	t.Helper()
	rows := []*billing.UsageRow{}
	err := l.Usage(t.Context(), filter, by, func(row *billing.UsageRow) bool {
		rows = append(rows, row)
		return true
	})
	if err != nil {
		t.Fatalf("Usage(%+v, %v): %v", filter, by, err)
	}
	return rows
}

// wantUsage checks Usage by what Records lists.
func wantUsage(t *testing.T, l billing.Ledger, filter billing.RecordFilter, by ...billing.Dimension) {
	t.Helper()
	whole := filter
	whole.After, whole.Limit = nil, 0
	if diff := cmp.Diff(sum(List(t, l, whole), by, time.UTC), usage(t, l, filter, by...), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("Usage(%+v, %v) (-records +usage):\n%s", filter, by, diff)
	}
}

// source is a test's source of randomness, which a failure tells of.
func source(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func oneOf[T any](random *rand.Rand, values ...T) T { return values[random.IntN(len(values))] }

// randomRecord is of one of 40 days, some of them at their very ends.
func randomRecord(random *rand.Rand, id string) *billing.Record {
	r := &billing.Record{
		ID: id, Time: randomTime(random), User: oneOf(random, "alice", "bob", "é\x00"), KeyID: oneOf(random, "", "k1", "k2"),
		Account: oneOf(random, "main", "team"), Group: oneOf(random, "", "g", "h"), Model: oneOf(random, "opus", "haiku", ""),
		Input: random.Int64N(1000), Output: random.Int64N(1000), CacheWrite5m: random.Int64N(1000),
		CacheWrite1h: random.Int64N(1000), CacheRead: random.Int64N(1000), WebSearches: random.Int64N(3),
		Cost: billing.USD(random.Int64N(1e12)), Charged: billing.USD(random.Int64N(1e12)),
		Billing: oneOf(random, billing.PaidFromBalance, billing.PaidFromSubscription, billing.PaidByNobody),
	}
	return r
}

func randomTime(random *rand.Rand) time.Time {
	day := time.Date(2026, 10, 20, 0, 0, 0, 0, time.UTC).AddDate(0, 0, random.IntN(40))
	return day.Add(oneOf(random, 0, 24*time.Hour-1, time.Duration(random.Int64N(int64(24*time.Hour)))))
}

func usageSums(t *testing.T, open Open) {
	random := source(t)
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice"}, billing.User{Name: "bob"}, billing.User{Name: "é\x00"})
	for round := range 3 {
		for i := range 60 {
			settle(t, l, randomRecord(random, fmt.Sprint(round, " ", i)))
		}
		wantUsage(t, l, billing.RecordFilter{}, dimensions...)
		for range 40 {
			filter := billing.RecordFilter{
				User: oneOf(random, "", "", "alice", "é\x00", "carol"), KeyID: oneOf(random, "", "", "k1"),
				Account: oneOf(random, "", "", "main"), Group: oneOf(random, "", "", "g"), Model: oneOf(random, "", "", "opus"),
				Limit: random.IntN(3), After: oneOf(random, nil, record("a", 0)),
			}
			if random.IntN(2) == 0 {
				filter.From = randomTime(random)
			}
			if random.IntN(2) == 0 {
				filter.To = randomTime(random)
			}
			by := slices.Clone(dimensions)
			random.Shuffle(len(by), func(i, j int) { by[i], by[j] = by[j], by[i] })
			wantUsage(t, l, filter, by[:random.IntN(len(by)+1)]...)
		}
	}
}

func usageOfNothing(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	zeros := []*billing.UsageRow{{}}
	if diff := cmp.Diff(zeros, usage(t, l, billing.RecordFilter{})); diff != "" {
		t.Errorf("of an empty store (-want +got):\n%s", diff)
	}
	if rows := usage(t, l, billing.RecordFilter{}, billing.ByUser); len(rows) != 0 {
		t.Errorf("by user of an empty store: %+v", rows)
	}
	settle(t, l, &billing.Record{ID: "a", Time: epoch, User: "alice"})
	if diff := cmp.Diff(zeros, usage(t, l, billing.RecordFilter{User: "bob"})); diff != "" {
		t.Errorf("of nobody's (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(zeros, usage(t, l, billing.RecordFilter{From: epoch.Add(1)})); diff != "" {
		t.Errorf("of no time's (-want +got):\n%s", diff)
	}
	if rows := usage(t, l, billing.RecordFilter{To: epoch}, billing.ByDay, billing.ByUser); len(rows) != 0 {
		t.Errorf("by day and user of no time's: %+v", rows)
	}
	if diff := cmp.Diff([]*billing.UsageRow{{Requests: 1}}, usage(t, l, billing.RecordFilter{})); diff != "" {
		t.Errorf("of one that used nothing (-want +got):\n%s", diff)
	}
}

func usageOrdered(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	for i, names := range [][2]string{{"b", "x"}, {"a", "y"}, {"B", "y"}, {"a", "x"}, {"", "z"}, {"é", ""}, {"ab", "x"}, {"a b", "10"}, {"a b", "9"}} {
		settle(t, l, &billing.Record{ID: fmt.Sprint(i), Time: epoch.AddDate(0, 0, -i%2), User: names[0], Model: names[1]})
	}
	name := func(by ...billing.Dimension) (got []string) {
		for _, row := range usage(t, l, billing.RecordFilter{}, by...) {
			got = append(got, row.User+"|"+row.Model+"|"+row.Day)
		}
		return got
	}
	want := []string{"|z|", "B|y|", "a|x|", "a|y|", "a b|10|", "a b|9|", "ab|x|", "b|x|", "é||"}
	if diff := cmp.Diff(want, name(billing.ByUser, billing.ByModel)); diff != "" {
		t.Errorf("by user and model (-want +got):\n%s", diff)
	}
	want = []string{"é||", "a b|10|", "a b|9|", "a|x|", "ab|x|", "b|x|", "B|y|", "a|y|", "|z|"}
	if diff := cmp.Diff(want, name(billing.ByModel, billing.ByUser)); diff != "" {
		t.Errorf("by model and user (-want +got):\n%s", diff)
	}
	want = []string{"||2026-11-22", "||2026-11-23"}
	if diff := cmp.Diff(want, name(billing.ByDay)); diff != "" {
		t.Errorf("by day (-want +got):\n%s", diff)
	}
}

func usageDays(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	midnight := time.Date(2026, 3, 8, 0, 0, 0, 0, time.UTC)
	for id, when := range map[string]time.Time{
		"before": midnight.Add(-1), "at": midnight, "last": midnight.Add(24*time.Hour - 1), "next": midnight.Add(24 * time.Hour),
		"old": time.Date(1999, 12, 31, 23, 59, 59, 999999999, time.UTC), "far": time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		settle(t, l, &billing.Record{ID: id, Time: when.In(time.FixedZone("elsewhere", -7*3600))})
	}
	want := []*billing.UsageRow{
		{Day: "1999-12-31", Requests: 1}, {Day: "2026-03-07", Requests: 1}, {Day: "2026-03-08", Requests: 2},
		{Day: "2026-03-09", Requests: 1}, {Day: "2100-01-01", Requests: 1},
	}
	if diff := cmp.Diff(want, usage(t, l, billing.RecordFilter{}, billing.ByDay)); diff != "" {
		t.Errorf("by day (-want +got):\n%s", diff)
	}
	got := usage(t, l, billing.RecordFilter{From: midnight.Add(-1), To: midnight.Add(24*time.Hour - 1)}, billing.ByDay)
	if diff := cmp.Diff([]*billing.UsageRow{{Day: "2026-03-07", Requests: 1}, {Day: "2026-03-08", Requests: 1}}, got); diff != "" {
		t.Errorf("between instants (-want +got):\n%s", diff)
	}
}

// usageExact has numbers that a float64 would round.
func usageExact(t *testing.T, open Open) {
	const odd = 1<<53 + 1
	l := open(t)
	defer close1(t, l)
	for _, id := range []string{"a", "b", "c"} {
		settle(t, l, &billing.Record{
			ID: id, Time: epoch, Input: odd, Output: odd, CacheWrite5m: odd, CacheWrite1h: odd, CacheRead: odd, Cost: odd, Charged: odd,
		})
	}
	const all = 3 * odd
	want := []*billing.UsageRow{{
		Requests: 3, Input: all, Output: all, CacheWrite5m: all, CacheWrite1h: all, CacheRead: all, Cost: all, Charged: all,
	}}
	if diff := cmp.Diff(want, usage(t, l, billing.RecordFilter{})); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

func usageEnds(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	for _, id := range []string{"a", "b", "c"} {
		settle(t, l, &billing.Record{ID: id, Time: epoch, User: id})
	}
	var got []string
	err := l.Usage(t.Context(), billing.RecordFilter{}, []billing.Dimension{billing.ByUser}, func(row *billing.UsageRow) bool {
		got = append(got, row.User)
		return len(got) < 2
	})
	if diff := cmp.Diff([]string{"a", "b"}, got); err != nil || diff != "" {
		t.Errorf("Usage: %v; rows until yield returned false (-want +got):\n%s", err, diff)
	}
}
