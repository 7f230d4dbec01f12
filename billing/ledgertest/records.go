package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
)

var recordTests = map[string]func(*testing.T, Open){
	"records come back as they went in":          roundTrip,
	"records are filtered, newest first":         filters,
	"many records are all listed, in order":      manyRecords,
	"records of many days come in order":         manyDays,
	"yield may call the ledger and keep records": yieldCalls,
	"a record is not kept by reference":          notKept,
	"a record is found by its ID":                findRecord,
	"pages after a record are the whole list":    paging,
}

// List is all records that the filter matches.
func List(t *testing.T, l billing.Ledger, filter billing.RecordFilter) []*billing.Record {
	t.Helper()
	var records []*billing.Record
	err := l.Records(t.Context(), filter, func(r *billing.Record) bool {
		records = append(records, r)
		return true
	})
	if err != nil {
		t.Fatalf("Records(%+v): %v", filter, err)
	}
	return records
}

func ids(records []*billing.Record) []string {
	list := []string{}
	for _, r := range records {
		list = append(list, r.ID)
	}
	return list
}

func roundTrip(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	want := &billing.Record{
		ID: "id-é", Time: epoch, User: "alice", KeyID: "key", Account: "account", Group: "group", Platform: "platform",
		Model: "model", ModelSent: "sent", Session: "session\x00with a zero", Stream: true, Status: 200,
		Input: 1, Output: 2, CacheWrite5m: 3, CacheWrite1h: 4, CacheRead: 5, WebSearches: 6,
		InputCost: 7, OutputCost: 8, CacheWriteCost: 9, CacheReadCost: 10, WebSearchCost: 11,
		Cost: 1<<63 - 1, RateMultiplier: 1_250_000_000, Charged: 13, Billing: billing.PaidFromBalance,
		DurationMS: 14, TTFTMS: 15, Attempts: 16, UpstreamRequestID: "req", Estimated: true, Unpriced: true,
	}
	given := *want
	given.Time = given.Time.In(time.FixedZone("elsewhere", 3600))
	settle(t, l, &given)
	empty := &billing.Record{ID: "empty", Time: epoch.Add(-time.Hour)}
	settle(t, l, empty)
	got := List(t, l, billing.RecordFilter{})
	if diff := cmp.Diff([]*billing.Record{want, empty}, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	for _, r := range got {
		if r.Time.Location() != time.UTC {
			t.Errorf("record %s: time in %v, want UTC", r.ID, r.Time.Location())
		}
	}
}

func filters(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	at := func(minutes int) time.Time { return epoch.Add(time.Duration(minutes) * time.Minute) }
	for i, r := range []billing.Record{
		{ID: "a", User: "alice", KeyID: "k1", Account: "main", Group: "g1", Model: "opus"},
		{ID: "b", User: "bob", KeyID: "k2", Account: "main", Group: "g1", Model: "haiku"},
		{ID: "c", User: "alice", KeyID: "k3", Account: "team", Group: "g2", Model: "opus"},
		{ID: "d", User: "alice", KeyID: "k1", Account: "main", Group: "g2", Model: "haiku"},
	} {
		r.Time, r.Billing = at(i), billing.PaidByNobody
		settle(t, l, &r)
	}
	for _, id := range []string{"y", "z", "x"} { // all of one moment, settled late
		settle(t, l, &billing.Record{ID: id, Time: at(-1), User: "dora", Billing: billing.PaidByNobody})
	}
	for _, c := range []struct {
		name   string
		filter billing.RecordFilter
		want   []string
	}{
		{"all", billing.RecordFilter{}, []string{"d", "c", "b", "a", "z", "y", "x"}},
		{"from is included", billing.RecordFilter{From: at(2)}, []string{"d", "c"}},
		{"to is not", billing.RecordFilter{From: at(1), To: at(3)}, []string{"c", "b"}},
		{"user", billing.RecordFilter{User: "alice"}, []string{"d", "c", "a"}},
		{"user and time", billing.RecordFilter{User: "alice", To: at(3)}, []string{"c", "a"}},
		{"key", billing.RecordFilter{KeyID: "k1"}, []string{"d", "a"}},
		{"account", billing.RecordFilter{Account: "team"}, []string{"c"}},
		{"group", billing.RecordFilter{Group: "g1"}, []string{"b", "a"}},
		{"model", billing.RecordFilter{Model: "haiku"}, []string{"d", "b"}},
		{"all at once", billing.RecordFilter{User: "alice", KeyID: "k1", Account: "main", Group: "g2", Model: "haiku"}, []string{"d"}},
		{"nothing", billing.RecordFilter{User: "alice", KeyID: "k2"}, []string{}},
		{"limit", billing.RecordFilter{Limit: 3}, []string{"d", "c", "b"}},
		{"limit after filter", billing.RecordFilter{Model: "opus", Limit: 1}, []string{"c"}},
		{"limit among equals", billing.RecordFilter{User: "dora", Limit: 2}, []string{"z", "y"}},
	} {
		if diff := cmp.Diff(c.want, ids(List(t, l, c.filter))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	calls := 0
	err := l.Records(t.Context(), billing.RecordFilter{}, func(*billing.Record) bool {
		calls++
		return calls < 2
	})
	if err != nil || calls != 2 {
		t.Errorf("%d calls, error %v; want 2 calls once yield returned false", calls, err)
	}
}

// manyRecords has more records than any store reads at once, in groups of
// one moment.
func manyRecords(t *testing.T, open Open) {
	const n = 2600
	l := open(t)
	defer close1(t, l)
	var settles sync.WaitGroup
	for g := range 10 {
		settles.Go(func() {
			for i := g; i < n; i += 10 {
				r := &billing.Record{ID: fmt.Sprintf("%06d", i), Time: epoch.Add(time.Duration(i/300) * time.Second)}
				if err := l.Settle(context.Background(), r, nil); err != nil {
					t.Errorf("Settle(%s): %v", r.ID, err)
				}
			}
		})
	}
	settles.Wait()
	want := []string{}
	for i := range n {
		want = append(want, fmt.Sprintf("%06d", n-1-i))
	}
	if diff := cmp.Diff(want, ids(List(t, l, billing.RecordFilter{}))); diff != "" {
		t.Errorf("all (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[:2000], ids(List(t, l, billing.RecordFilter{Limit: 2000}))); diff != "" {
		t.Errorf("limit 2000 (-want +got):\n%s", diff)
	}
}

// manyDays has records of days far apart, settled in no order, and bounds at
// midnight and beyond what a time in nanoseconds can be.
func manyDays(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	midnight := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	for id, at := range map[string]time.Time{
		"h-last":      time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC),
		"g-next-year": midnight.AddDate(1, 0, 0),
		"f-midnight":  midnight,
		"e-before":    midnight.Add(-1),
		"d-ago":       midnight.AddDate(0, -3, 0),
		"c-epoch":     time.Unix(0, 0),
		"b-before-it": time.Unix(0, -1),
		"a-first":     time.Date(1678, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		settle(t, l, &billing.Record{ID: id, Time: at})
	}
	for _, c := range []struct {
		name   string
		filter billing.RecordFilter
		want   []string
	}{
		{"all", billing.RecordFilter{},
			[]string{"h-last", "g-next-year", "f-midnight", "e-before", "d-ago", "c-epoch", "b-before-it", "a-first"}},
		{"limit over days", billing.RecordFilter{Limit: 3}, []string{"h-last", "g-next-year", "f-midnight"}},
		{"until midnight", billing.RecordFilter{From: time.Unix(0, 0), To: midnight}, []string{"e-before", "d-ago", "c-epoch"}},
		{"from midnight, elsewhere", billing.RecordFilter{
			From: midnight.In(time.FixedZone("east", 7*3600)), To: midnight.Add(1).In(time.FixedZone("west", -7*3600)),
		}, []string{"f-midnight"}},
		{"beyond the ends", billing.RecordFilter{
			From: time.Date(1, 1, 1, 1, 1, 1, 1, time.UTC), To: time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC), Limit: 2,
		}, []string{"h-last", "g-next-year"}},
		{"an empty span", billing.RecordFilter{From: midnight, To: midnight}, []string{}},
	} {
		if diff := cmp.Diff(c.want, ids(List(t, l, c.filter))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func yieldCalls(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	for _, id := range []string{"a", "b", "c"} {
		settle(t, l, record(id, 1))
	}
	var kept []*billing.Record
	err := l.Records(t.Context(), billing.RecordFilter{}, func(r *billing.Record) bool {
		kept = append(kept, r)
		later := record("after "+r.ID, 1)
		later.Time = r.Time.Add(time.Hour) // newer than what is being listed
		settle(t, l, later)
		declare(t, l, billing.User{Name: "bob"})
		wantBalance(t, l, "alice", billing.Balance{Amount: billing.USD(997 - len(kept))})
		if n := len(List(t, l, billing.RecordFilter{})); n != 3+len(kept) {
			t.Errorf("%d records listed, want %d", n, 3+len(kept))
		}
		return true
	})
	if err != nil {
		t.Fatalf("Records: %v", err)
	}
	want := []*billing.Record{record("c", 1), record("b", 1), record("a", 1)}
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func notKept(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	r := record("a", 300)
	settle(t, l, r)
	if diff := cmp.Diff(record("a", 300), r); diff != "" {
		t.Errorf("Settle changed the record (-want +got):\n%s", diff)
	}
	*r = *record("b", 1)
	wantBalance(t, l, "alice", billing.Balance{Amount: 700})
	if diff := cmp.Diff([]*billing.Record{record("a", 300)}, List(t, l, billing.RecordFilter{})); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func findRecord(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	for i, id := range []string{"a", "b", "any: é}\x00"} {
		r := record(id, 1)
		r.Time = epoch.AddDate(0, 0, -20*i)
		settle(t, l, r)
		got, err := l.Record(t.Context(), id)
		if err != nil {
			t.Errorf("Record(%q): %v", id, err)
			continue
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Errorf("Record(%q) (-want +got):\n%s", id, diff)
		}
		got.Charged = 500 // nobody else's
	}
	for _, id := range []string{"c", "", "A", "a\x00"} {
		if r, err := l.Record(t.Context(), id); !errors.Is(err, billing.ErrUnknownRecord) {
			t.Errorf("Record(%q): %v, %v; want ErrUnknownRecord", id, r, err)
		}
	}
	if r, err := l.Record(t.Context(), "a"); err != nil || r.Charged != 1 {
		t.Errorf("Record: %+v, %v", r, err)
	}
}

// paging has records of few moments, in days apart.
func paging(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	for i := range 60 {
		settle(t, l, &billing.Record{
			ID: fmt.Sprintf("%02d", i*37%60), Time: epoch.AddDate(0, 0, -i%3).Add(time.Duration(i % 4)), Model: []string{"opus", "haiku"}[i%2],
		})
	}
	for _, filter := range []billing.RecordFilter{
		{}, {Model: "opus"}, {From: epoch.AddDate(0, 0, -1)}, {To: epoch.Add(2), Model: "haiku"}, {Model: "none"},
	} {
		whole := List(t, l, filter)
		for _, size := range []int{1, 7, 60, 100} {
			paged, page := []*billing.Record{}, filter
			for page.Limit = size; ; {
				records := List(t, l, page)
				paged = append(paged, records...)
				if len(records) < size || len(paged) > len(whole) {
					break
				}
				page.After = records[size-1]
			}
			if diff := cmp.Diff(ids(whole), ids(paged)); diff != "" {
				t.Errorf("%+v in pages of %d (-whole +pages):\n%s", filter, size, diff)
			}
		}
	}
	whole := List(t, l, billing.RecordFilter{})
	for _, after := range []*billing.Record{ // none of them is there
		{ID: "z", Time: epoch.AddDate(1, 0, 0)}, {ID: "2", Time: epoch}, {ID: "2", Time: epoch.Add(1)}, {Time: epoch.AddDate(-1, 0, 0)},
	} {
		want := []string{}
		for _, r := range whole {
			if r.Time.Before(after.Time) || r.Time.Equal(after.Time) && r.ID < after.ID {
				want = append(want, r.ID)
			}
		}
		if diff := cmp.Diff(want, ids(List(t, l, billing.RecordFilter{After: after}))); diff != "" {
			t.Errorf("after %q at %v (-want +got):\n%s", after.ID, after.Time, diff)
		}
	}
}
