package sqliteledger

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

func journalOf(t testing.TB, records ...*billing.Record) []byte {
	t.Helper()
	var data []byte
	for _, r := range records {
		var err error
		if data, err = journal.AppendFrame(data, r); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

// TestOpenTakesOverTheJournal opens what a killed process may leave: records
// in both files, some of them in the database already, and an unfinished one.
func TestOpenTakesOverTheJournal(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	if err := l.Declare(t.Context(), []billing.User{{Name: "alice", Balance: 1000}}); err != nil {
		t.Fatal(err)
	}
	made := func(id, user string) *billing.Record {
		r := ledgertest.Example(id)
		r.User, r.Charged = user, 10
		return r
	}
	if err := l.Settle(t.Context(), made("a", "alice"), nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	torn := journalOf(t, made("d", "alice"))
	for name, data := range map[string][]byte{
		"journal-0": journalOf(t, made("a", "alice"), made("b", "alice"), made("b", "alice")),
		"journal-1": append(journalOf(t, made("b", "alice"), made("c", "lost-by-the-database")), torn[:len(torn)-1]...),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time, nothing is left to take over
		l = open(t, dir, Options{})
		var ids []string
		for _, r := range ledgertest.List(t, l, billing.RecordFilter{}) {
			ids = append(ids, r.ID)
		}
		if diff := cmp.Diff([]string{"c", "b", "a"}, ids); len(ids) != 3 {
			t.Errorf("records (-want +got):\n%s", diff)
		}
		for user, want := range map[string]billing.USD{"alice": 980, "lost-by-the-database": -10} {
			if got, err := l.Balance(t.Context(), user); err != nil || got.Amount != want {
				t.Errorf("balance of %s: %s, %v; want %s", user, got.Amount, err, want)
			}
		}
		check(t, l)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"journal-0", "journal-1"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() != 0 {
			t.Errorf("%s: %v, %v; want it empty", name, info, err)
		}
	}
}

// TestReplayInTheOrderOfSettling: windows depend on it, whichever of the journal's
// files is the older one.
func TestReplayInTheOrderOfSettling(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 11, n, 12, 0, 0, 0, time.UTC) }
	for _, swaps := range []int{0, 1} {
		dir := t.TempDir()
		l := openWithAlice(t, dir)
		if err := l.AddKey(t.Context(), billing.Key{ID: "k", User: "alice", Limits: billing.Limits{billing.Monthly: 1}}); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		j, err := journal.Open(dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := journal.Resume([]*journal.Journal{j}); err != nil {
			t.Fatal(err)
		}
		for range swaps {
			j.Swap()
		}
		settled := []*billing.Record{childRecord("a"), childRecord("b"), childRecord("c"), childRecord("d")}
		for i, r := range settled {
			r.Time, r.KeyID = day([]int{10, 3, 11, 4}[i]), "k" // b and d are too late to be counted
			if i == 2 {
				j.Swap()
			}
			if _, err := j.Current.Append(journalOf(t, r)); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir, Options{})
		check(t, l)
		checkWindows(t, l)
		got := l.directory.keys["k"].windows
		want := billing.WindowsFrom(day(10), time.UTC)
		want.Add(day(10), chargeOfChild, time.UTC)
		want.Add(day(11), chargeOfChild, time.UTC)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after %d swaps (-want +got):\n%s", swaps, diff)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPeopleComeAndGoUnderLoad: whether a record counts for a key, a subscription
// or a user who comes and goes, memory and database say the same of it.
func TestPeopleComeAndGoUnderLoad(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	var settlers sync.WaitGroup
	var left atomic.Int64
	left.Store(4)
	if err := l.AddUser(t.Context(), billing.User{Name: "bob", Balance: 1e12}); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		settlers.Go(func() {
			defer left.Add(-1)
			for range 500 {
				r := anyChildRecord(newID())
				r.User, r.KeyID = "bob", "k"
				if err := l.Settle(context.Background(), r, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	ctx := t.Context()
	for i := 0; left.Load() > 0; i++ {
		k := billing.Key{ID: "k", User: "bob", Limits: billing.Limits{billing.Daily: 1e12}}
		errs := []error{l.AddKey(ctx, k), l.Subscribe(ctx, "bob", "default", time.Time{})}
		switch i % 3 {
		case 0:
			errs = append(errs, l.RevokeKey(ctx, "k"), l.Unsubscribe(ctx, "bob", "default"))
		case 1:
			errs = append(errs, l.Unsubscribe(ctx, "bob", "default"), l.RevokeKey(ctx, "k"))
		case 2:
			errs = append(errs, l.RemoveUser(ctx, "bob"), l.AddUser(ctx, billing.User{Name: "bob", Balance: 1e12}))
		}
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
	}
	k := billing.Key{ID: "k", User: "bob", Limits: billing.Limits{billing.Daily: 1e12}}
	if err := errors.Join(l.AddKey(ctx, k), l.Subscribe(ctx, "bob", "default", time.Time{})); err != nil {
		t.Error(err)
	}
	settlers.Wait()
	check(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, Options{})
	defer l.Close()
	check(t, l)
}
