package ledgertest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
)

var pruneTests = map[string]func(*testing.T, world){
	"pruning deletes one day, the oldest":    pruneDays,
	"pruning keeps the money":                pruneKeepsMoney,
	"records of a pruned day":                settleAfterPrune,
	"many records are pruned, of many days":  pruneMany,
	"no day is pruned before the clock says": pruneByTheClock,
}

// prune deletes a day. An hour passes before, since stores that are shared have one
// deleted in an hour.
func (w world) prune(t *testing.T, l billing.Ledger, before time.Time, want int) {
	t.Helper()
	w.clock.Pass(t, 2*time.Hour)
	if got, err := l.Prune(t.Context(), before); err != nil || got != want {
		t.Errorf("Prune(%v): %d, %v; want %d", before, got, err, want)
	}
}

func pruneDays(t *testing.T, w world) {
	l := w.open(t)
	midnight := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	for id, when := range map[string]time.Time{
		"ago": midnight.AddDate(-2, 0, 0), "last": midnight.Add(-1), "midnight": midnight, "noon": midnight.Add(12 * time.Hour),
		"next": midnight.Add(24 * time.Hour), "ahead": ahead,
	} {
		settle(t, l, &billing.Record{ID: id, Time: when, User: "alice", Model: "opus", Input: 1})
	}
	left := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, ids(List(t, l, billing.RecordFilter{}))); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
		if n := usage(t, l, billing.RecordFilter{})[0].Requests; n != int64(len(want)) {
			t.Errorf("usage of %d records, want %d", n, len(want))
		}
		wantUsage(t, l, billing.RecordFilter{}, billing.ByDay)
		wantUsage(t, l, billing.RecordFilter{User: "alice", From: midnight.Add(-1)}, billing.ByModel, billing.ByDay)
	}
	left("ahead", "next", "noon", "midnight", "last", "ago")
	w.prune(t, l, midnight.AddDate(-2, 0, 1).Add(-1), 0)
	left("ahead", "next", "noon", "midnight", "last", "ago")
	w.prune(t, l, ahead.AddDate(1, 0, 0), 1) // one day, whatever else has ended
	left("ahead", "next", "noon", "midnight", "last")
	w.prune(t, l, midnight.Add(-1), 0)
	w.prune(t, l, midnight.In(time.FixedZone("elsewhere", -7*3600)), 1)
	left("ahead", "next", "noon", "midnight")
	w.prune(t, l, midnight.Add(24*time.Hour-1), 0)
	left("ahead", "next", "noon", "midnight")
	if r, err := l.Record(t.Context(), "last"); err == nil {
		t.Errorf("Record: %+v, want none", r)
	}
	close1(t, l)
	l = w.open(t)
	defer close1(t, l)
	left("ahead", "next", "noon", "midnight")
	w.prune(t, l, midnight.AddDate(0, 0, 2), 2)
	left("ahead", "next")
	w.prune(t, l, midnight.AddDate(0, 0, 2), 1)
	left("ahead")
	w.prune(t, l, midnight.AddDate(0, 0, 2), 0)
}

func pruneKeepsMoney(t *testing.T, w world) {
	now := w.clock.Now()
	l := w.open(t)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	add(t, l, billing.User{Name: "bob", Balance: 1000})
	k := key("sk-bob", "bob", limits(0, 100))
	addKey(t, l, k)
	subscribe(t, l, "alice", "g", time.Time{})
	a := record("a", 100)
	a.Time = now
	settle(t, l, a)
	settle(t, l, spent("b", k, now, 70))
	settle(t, l, used("c", now, 40))
	credit(t, l, "alice", "c", 5, 905)
	w.clock.Pass(t, 24*time.Hour)
	w.prune(t, l, w.clock.Now(), 3)
	hold(t, l, billing.PaidFromBalance, req("d", 200))
	check := func(held billing.USD) {
		t.Helper()
		wantBalance(t, l, "alice", billing.Balance{Amount: 905, Held: held})
		wantBalance(t, l, "bob", billing.Balance{Amount: 930})
		wantUsed(t, l, "g", billing.Monthly, 40, windows(now, 0)[billing.Monthly].End)
		refused(t, l, billing.Refusal{
			Reason: billing.ReasonKeyLimit, Span: billing.Monthly, Limit: 100, Left: 30, Until: windows(now, 0)[billing.Monthly].End,
		}, &billing.HoldRequest{ID: "e", User: "bob", KeyID: k.ID, Amount: 31, MinAvailable: 31})
		wantCredit(t, l, "alice", billing.Credit{ID: "c", Amount: 5, Time: epoch}, 905, false)
	}
	check(200)
	if keys, err := l.Keys(t.Context(), "bob"); err != nil || len(keys) != 1 || keys[0].LastUsed.Truncate(time.Second) != now.Truncate(time.Second).Round(0) {
		t.Errorf("Keys: %+v, %v; want one last used at %v", keys, err, now)
	}
	l.Release(t.Context(), "d")
	close1(t, l)
	l = w.open(t)
	defer close1(t, l)
	check(0)
}

func settleAfterPrune(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: 1000})
	settle(t, l, record("a", 100))
	w.clock.Pass(t, 24*time.Hour)
	w.prune(t, l, epoch.AddDate(0, 0, 1), 1)
	settle(t, l, record("b", 10)) // came late
	wantBalance(t, l, "alice", billing.Balance{Amount: 890})
	if diff := cmp.Diff([]string{"b"}, ids(List(t, l, billing.RecordFilter{}))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	wantUsage(t, l, billing.RecordFilter{}, billing.ByDay)
	w.prune(t, l, epoch.AddDate(0, 0, 1), 1)
	wantBalance(t, l, "alice", billing.Balance{Amount: 890})
}

func pruneMany(t *testing.T, w world) {
	const n, days = 1080, 8
	l := w.open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: n})
	for i := range n {
		r := record(fmt.Sprint(i), 1)
		r.Time = epoch.AddDate(0, 0, -max(i-1000, 0)%days) // many of one day
		settle(t, l, r)
	}
	w.clock.Pass(t, 24*time.Hour)
	for day := 1 - days; day <= 0; day++ {
		kept := List(t, l, billing.RecordFilter{From: epoch.Truncate(24*time.Hour).AddDate(0, 0, day+1)})
		all := List(t, l, billing.RecordFilter{})
		w.prune(t, l, epoch.AddDate(0, 0, 1), len(all)-len(kept))
		if diff := cmp.Diff(kept, List(t, l, billing.RecordFilter{})); diff != "" {
			t.Fatalf("records (-want +got):\n%s", diff)
		}
		wantUsage(t, l, billing.RecordFilter{}, billing.ByDay)
	}
	w.prune(t, l, epoch.AddDate(0, 0, 1), 0)
	wantBalance(t, l, "alice", billing.Balance{})
}

// pruneByTheClock asks for days that have not ended, by the ledger's own clock.
func pruneByTheClock(t *testing.T, w world) {
	l := w.open(t)
	defer close1(t, l)
	settle(t, l, &billing.Record{ID: "a", Time: w.clock.Now(), User: "alice"})
	w.prune(t, l, ahead, 0)
	w.clock.PassUntil(t, windows(epoch, 0)[billing.Daily].End.Add(-time.Minute))
	w.prune(t, l, ahead, 1)
}
