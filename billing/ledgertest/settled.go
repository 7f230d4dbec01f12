package ledgertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
)

var settledTests = map[string]func(*testing.T, world){
	"records say when they were settled":                settledSet,
	"what is settled later says so, whatever the clock": settledGrows,
	"settling again changes nothing of when it was":     settledOnce,
	"records are filtered by when they were settled":    settledFilters,
	"nothing is settled before what was exported":       settledSealed,
	"exports that meet hold every record once":          exportsMeet,
}

// inOrder is all records by when they were settled, which no two share.
func inOrder(t *testing.T, l billing.Ledger) []*billing.Record {
	t.Helper()
	records := List(t, l, billing.RecordFilter{})
	slices.SortFunc(records, func(a, b *billing.Record) int { return a.Settled.Compare(b.Settled) })
	for i, r := range records {
		if r.Settled.IsZero() || r.Settled.Location() != time.UTC || i > 0 && r.Settled.Equal(records[i-1].Settled) {
			t.Errorf("record %s was settled at %v", r.ID, r.Settled)
		}
	}
	return records
}

func settledSet(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	before := w.clock.Now().Truncate(time.Millisecond)
	old := &billing.Record{ID: "a", Time: epoch.AddDate(-1, 0, 0), Settled: epoch.AddDate(5, 0, 0)}
	settle(t, l, old)
	if !old.Settled.Equal(epoch.AddDate(5, 0, 0)) {
		t.Error("Settle changed the record")
	}
	settle(t, l, &billing.Record{ID: "b", Time: ahead})
	after := w.clock.Now().Add(time.Second)
	for _, r := range inOrder(t, l) {
		if r.Settled.Before(before) || r.Settled.After(after) {
			t.Errorf("record %s was settled at %v, want %v at the earliest", r.ID, r.Settled, before)
		}
		one, err := l.Record(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, one); diff != "" {
			t.Errorf("Record(%s) (-Records +Record):\n%s", r.ID, diff)
		}
	}
}

// settledGrows settles over jumps of the clock, and over the ends of ledgers.
func settledGrows(t *testing.T, w world) {
	l := w.open(t)
	defer func() { close1(t, l) }()
	want := []string{}
	some := func() {
		for range 3 {
			id := fmt.Sprintf("%03d", len(want))
			want = append(want, id)
			settle(t, l, &billing.Record{ID: id, Time: epoch.Add(-time.Duration(len(want)) * time.Hour)})
		}
	}
	some()
	for _, jump := range jumps {
		for _, d := range []time.Duration{jump, -jump, -jump, jump} {
			w.clock.Jump(t, d)
			some()
			close1(t, l)
			l = w.open(t)
			some()
			w.clock.Pass(t, time.Second)
		}
	}
	if diff := cmp.Diff(want, ids(inOrder(t, l))); diff != "" {
		t.Errorf("in the order of settling (-want +got):\n%s", diff)
	}
	w.clock.Jump(t, 4000*24*time.Hour)
	settle(t, l, &billing.Record{ID: "now", Time: epoch})
	if r, err := l.Record(t.Context(), "now"); err != nil || r.Settled.Before(w.clock.Now().Truncate(time.Millisecond)) {
		t.Errorf("Record: %+v, %v; want one that was settled at %v", r, err, w.clock.Now())
	}
}

func settledOnce(t *testing.T, w world) {
	l := w.open(t)
	defer func() { close1(t, l) }()
	for _, id := range []string{"a", "b"} {
		settle(t, l, &billing.Record{ID: id, Time: epoch})
	}
	first := inOrder(t, l)
	for range 2 {
		settle(t, l, &billing.Record{ID: "a", Time: epoch})
		if diff := cmp.Diff(first, inOrder(t, l)); diff != "" {
			t.Errorf("settled again (-before +after):\n%s", diff)
		}
		close1(t, l)
		l = w.open(t)
	}
}

func settledFilters(t *testing.T, w world) {
	l := w.open(t)
	defer func() { close1(t, l) }()
	for i := range 40 {
		settle(t, l, &billing.Record{
			ID: fmt.Sprintf("%02d", i*17%40), Time: epoch.Add(-time.Duration(i*i%7) * time.Hour),
			User: []string{"alice", "bob"}[i%2], Model: []string{"opus", "haiku", "sonnet"}[i%3],
		})
		if i == 20 {
			close1(t, l)
			l = w.open(t)
		}
	}
	random := source(t)
	all := inOrder(t, l)
	bound := func() time.Time {
		at := all[random.IntN(len(all))].Settled
		return oneOf(random, at, at, at.Add(1), at.Add(-1), time.Time{}, all[0].Settled.AddDate(-1, 0, 0), ahead)
	}
	for range 60 {
		f := billing.RecordFilter{SettledFrom: bound(), SettledTo: bound(), User: oneOf(random, "", "", "alice"), Model: oneOf(random, "", "", "opus")}
		if random.IntN(2) == 0 {
			f.From = epoch.Add(-time.Duration(random.IntN(7)) * time.Hour)
		}
		want := []*billing.Record{}
		for _, r := range all {
			if !(!f.SettledFrom.IsZero() && r.Settled.Before(f.SettledFrom) || !f.SettledTo.IsZero() && !r.Settled.Before(f.SettledTo) ||
				f.User != "" && f.User != r.User || f.Model != "" && f.Model != r.Model || r.Time.Before(f.From)) {
				want = append(want, r)
			}
		}
		slices.SortFunc(want, newestFirst)
		if diff := cmp.Diff(ids(want), ids(List(t, l, f))); diff != "" {
			t.Fatalf("%+v (-want +got):\n%s", f, diff)
		}
		for f.Limit = 1 + random.IntN(9); len(want) > 0; want = want[min(f.Limit, len(want)):] { // in pages
			if diff := cmp.Diff(ids(want[:min(f.Limit, len(want))]), ids(List(t, l, f))); diff != "" {
				t.Fatalf("%+v (-want +got):\n%s", f, diff)
			}
			f.After = want[min(f.Limit, len(want))-1]
		}
	}
}

// settledSealed has the clock go back behind an export.
func settledSealed(t *testing.T, w world) {
	l := w.open(t)
	defer func() { close1(t, l) }()
	settle(t, l, &billing.Record{ID: "a", Time: epoch})
	w.clock.Jump(t, 40*24*time.Hour)
	end := w.clock.Now()
	if diff := cmp.Diff([]string{"a"}, ids(List(t, l, billing.RecordFilter{SettledTo: end}))); diff != "" {
		t.Errorf("exported (-want +got):\n%s", diff)
	}
	w.clock.Jump(t, -40*24*time.Hour)
	settle(t, l, &billing.Record{ID: "b", Time: epoch})
	close1(t, l)
	l = w.open(t)
	settle(t, l, &billing.Record{ID: "c", Time: epoch})
	for _, export := range []struct {
		filter billing.RecordFilter
		want   []string
	}{
		{billing.RecordFilter{SettledTo: end}, []string{"a"}},
		{billing.RecordFilter{SettledFrom: end}, []string{"c", "b"}},
		{billing.RecordFilter{SettledTo: end.AddDate(10, 0, 0)}, []string{"c", "b", "a"}}, // it may hold more, later
	} {
		if diff := cmp.Diff(export.want, ids(List(t, l, export.filter))); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", export.filter, diff)
		}
	}
	w.clock.Jump(t, -40*24*time.Hour) // it was asked for before its end: nothing is promised of it
	settle(t, l, &billing.Record{ID: "d", Time: epoch})
	if r, err := l.Record(t.Context(), "d"); err != nil || !r.Settled.Before(end.AddDate(1, 0, 0)) {
		t.Errorf("Record: %+v, %v; want it settled about %v", r, err, end)
	}
}

// exportsMeet exports what was settled since the last export, while others settle,
// and somebody sets the clock.
func exportsMeet(t *testing.T, w world) {
	const settlers, each, rounds = 6, 100, 6
	random := source(t)
	l := w.open(t)
	var from time.Time
	var count atomic.Int64
	exported := map[string]int{}
	export := func(to time.Time) {
		for _, r := range List(t, l, billing.RecordFilter{SettledFrom: from, SettledTo: to}) {
			exported[r.ID]++
		}
		from = to.Round(0)
	}
	for range rounds {
		var all sync.WaitGroup
		for range settlers {
			all.Go(func() {
				for range each {
					r := &billing.Record{ID: fmt.Sprintf("%06d", count.Add(1)), Time: w.clock.Now()}
					if err := l.Settle(context.Background(), r, nil); err != nil {
						t.Errorf("Settle: %v", err)
						return
					}
				}
			})
		}
		for range 8 {
			time.Sleep(time.Duration(random.IntN(4)) * time.Millisecond) // any moment of the others' work
			if !w.clock.isOwn {
				w.clock.Jump(t, oneOf[time.Duration](random, -1, 1, 0, 0)*oneOf(random, jumps...))
				w.clock.Pass(t, time.Millisecond)
			}
			if to := w.clock.Now(); to.Round(0).After(from) {
				export(to)
			}
		}
		all.Wait()
		close1(t, l)
		l = w.open(t)
	}
	defer close1(t, l)
	export(time.Time{})
	for id := int64(1); id <= count.Load(); id++ {
		if n := exported[fmt.Sprintf("%06d", id)]; n != 1 {
			t.Errorf("record %d of %d was exported %d times", id, count.Load(), n)
		}
	}
}
