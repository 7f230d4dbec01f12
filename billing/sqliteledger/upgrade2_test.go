package sqliteledger

import (
	"database/sql/driver"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

// makeVersion2 makes what the second schema's programs left: a month of records of
// alice, the last of them in the journal alone, whose frames had 33 fields. gone was
// removed while requests of theirs were in flight: one was charged since, and one is
// in the journal; back was removed and added again.
func makeVersion2(t *testing.T, dir string, records, inJournal int) {
	t.Helper()
	ctx, log := t.Context(), slog.New(slog.DiscardHandler)
	w, err := openWriter(ctx, filepath.Join(dir, databaseName), false)
	if err != nil {
		t.Fatal(err)
	}
	exec := func(statement string, args ...driver.Value) {
		t.Helper()
		if _, err := w.exec(ctx, statement, args...); err != nil {
			t.Fatal(err)
		}
	}
	for version := range int64(2) {
		if err := upgrade(ctx, w, version+1, time.Now(), log); err != nil {
			t.Fatal(err)
		}
	}
	exec("BEGIN")
	var journal []byte
	for i := range records + 2 {
		r := recordOfVersion2(i)
		if i >= records {
			r.User = "gone"
		}
		if i >= records-inJournal && i != records {
			journal = append(journal, withoutNumber(journalOf(t, r))...)
			continue
		}
		all := make([]driver.NamedValue, len(columns))
		values(all, r)
		old := make([]driver.Value, oldColumns)
		for n := range old {
			old[n] = all[n].Value
		}
		exec(fmt.Sprintf("INSERT INTO records VALUES (?%s)", strings.Repeat(", ?", oldColumns-1)), old...)
	}
	if err := sumUpRecords(ctx, w.conn, "", utcDays, math.MinInt64, log); err != nil {
		t.Fatal(err)
	}
	exec(`INSERT INTO users (name, balance, unlimited, source, removed) VALUES
		('alice', ?1, 0, 'config', 0), ('bob', 5, 1, 'config', 0), ('gone', ?2, 0, 'api', 1), ('back', 7, 0, 'api', 0)`,
		int64(1e15)-int64(records-inJournal)*chargeOfChild, int64(-chargeOfChild))
	exec(`INSERT INTO credits (user, kind, id, time, amount) VALUES ('alice', 'opening', '', 5, 999999999999999), ('alice', 'pruned', '', 5, 1),
		('bob', 'credit', 'a', 5, 5), ('gone', 'added', 'x', 5, 100), ('gone', 'credit', 'a', 5, 10), ('gone', 'closing', 'y', 6, -110),
		('back', 'added', 'x', 5, 100), ('back', 'credit', 'a', 5, 10), ('back', 'closing', 'y', 6, -110), ('back', 'added', 'z', 5, 7)`)
	exec("COMMIT")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "journal-0"), journal, 0o600); err != nil {
		t.Fatal(err)
	}
}

// withoutNumber is a record's frame without its last field, a zero.
func withoutNumber(frame []byte) []byte {
	const header = 8 // the length and the checksum of what follows
	cut := frame[:len(frame)-1]
	binary.LittleEndian.PutUint32(cut, uint32(len(cut)-header))
	binary.LittleEndian.PutUint32(cut[4:], crc32.Checksum(cut[header:], crc32.MakeTable(crc32.Castagnoli)))
	return cut
}

// versionTwo is when the records of makeVersion2 begin; they are 97 minutes apart.
var versionTwo = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)

func recordOfVersion2(i int) *billing.Record {
	r := childRecord(fmt.Sprintf("%06d", i))
	r.Time = versionTwo.Add(time.Duration(i) * 97 * time.Minute)
	r.Model = fmt.Sprint("model-", i%3)
	return r
}

func TestUpgradeFromVersion2(t *testing.T) {
	const records = 450 // to October 31
	dir := t.TempDir()
	makeVersion2(t, dir, records, 40)
	now := time.Date(2026, 11, 1, 20, 0, 0, 0, time.UTC) // the 2nd, in Shanghai
	clock := ledgertest.NewClock(now)
	opts := Options{now: clock.Now, Location: zone(t, "Asia/Shanghai")}
	l := open(t, dir, opts)
	check(t, l)
	wantSettled(t, l, records)
	want := map[string]int64{}
	for i := range records + 2 {
		want[recordOfVersion2(i).Time.Format(time.DateOnly)]++
	}
	for range 2 {
		if diff := cmp.Diff(want, byDay(t, l, billing.RecordFilter{})); diff != "" {
			t.Errorf("requests by day (-want +got):\n%s", diff)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir, opts)
	}
	defer func() { l.Close() }()
	clock.Pass(t, time.Hour)
	settleAt(t, l, clock.Now(), now.Add(-17*time.Hour)) // late, of a day of before
	want["2026-11-02"]++
	want["2026-11-01"]++
	if diff := cmp.Diff(want, byDay(t, l, billing.RecordFilter{})); diff != "" {
		t.Errorf("requests by day, with new ones (-want +got):\n%s", diff)
	}
	check(t, l)

	if u, err := l.User(t.Context(), "bob"); err != nil || u.Balance.Amount != 5 || u.Source != billing.SourceConfig {
		t.Errorf("bob: %+v, %v", u, err)
	}
	for name, want := range map[string]struct {
		number  int64
		balance billing.USD
		isNew   bool // a credit of the id a
	}{"gone": {2, 20, true}, "back": {1, 7, false}} {
		if name == "gone" {
			if err := l.AddUser(t.Context(), billing.User{Name: name, Balance: 20}); err != nil {
				t.Fatal(err)
			}
		}
		payer, err := l.Hold(t.Context(), &billing.HoldRequest{ID: name, User: name})
		if err != nil || payer.UserNumber != want.number {
			t.Errorf("%s: %+v, %v; want the number %d", name, payer, err, want.number)
		}
		if b, err := l.Balance(t.Context(), name); err != nil || b.Amount != want.balance {
			t.Errorf("%s: %+v, %v; want %d", name, b, err, want.balance)
		}
		if _, isNew, err := l.Credit(t.Context(), name, billing.Credit{ID: "a", Amount: 1}); err != nil || isNew != want.isNew {
			t.Errorf("%s: a credit of an id of before: %v, %v; want %v", name, isNew, err, want.isNew)
		}
	}
	check(t, l)
}

// TestSettledOfVersion2: records of before count as settled when they came in, and
// none of them after the upgrade.
func TestSettledOfVersion2(t *testing.T) {
	const records = 450
	dir := t.TempDir()
	makeVersion2(t, dir, records, 0)
	upgraded := versionTwo.Add(300*97*time.Minute + time.Second) // by a clock that is behind the last records
	clock := ledgertest.NewClock(upgraded)
	l := open(t, dir, Options{now: clock.Now})
	defer func() { l.Close() }()
	clock.Pass(t, time.Hour)
	for i := range 20 {
		settleAt(t, l, versionTwo.Add(time.Duration(i)*time.Hour))
	}
	all := ledgertest.List(t, l, billing.RecordFilter{})
	old := 0
	for _, r := range all {
		want := r.Time
		if want.After(upgraded) {
			want = upgraded
		}
		if len(r.ID) == 6 && r.User == "alice" {
			old++
			if !r.Settled.Equal(want) {
				t.Errorf("record %s of %v was settled at %v, want %v", r.ID, r.Time, r.Settled, want)
			}
		} else if r.Settled.Before(upgraded) {
			t.Errorf("record %s was settled at %v, before the upgrade", r.ID, r.Settled)
		}
	}
	if old != records || len(all) != records+20+2 {
		t.Errorf("%d records, %d of them old", len(all), old)
	}
	bounds := []time.Time{
		{}, versionTwo, versionTwo.Add(1), versionTwo.Add(100 * 97 * time.Minute), upgraded.Add(-1), upgraded, upgraded.Add(1),
		clock.Now().Add(-1), clock.Now(), clock.Now().Add(1), clock.Now().Add(10), versionTwo.AddDate(1, 0, 0),
	}
	for _, from := range bounds {
		for _, to := range bounds {
			var want, got []string
			for _, r := range all {
				if (from.IsZero() || !r.Settled.Before(from)) && (to.IsZero() || r.Settled.Before(to)) {
					want = append(want, r.ID)
				}
			}
			for _, r := range ledgertest.List(t, l, billing.RecordFilter{SettledFrom: from, SettledTo: to}) {
				got = append(got, r.ID)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("settled from %v to %v (-want +got):\n%s", from, to, diff)
			}
		}
	}
}

// TestKilledUpgradeFromVersion2 kills an upgrade at any moment.
func TestKilledUpgradeFromVersion2(t *testing.T) {
	const records = 1000
	interrupted := 0
	for range 5 {
		dir := t.TempDir()
		makeVersion2(t, dir, records, 50)
		child, output := startChild(t, dir, "upgrade")
		if !output.Scan() {
			t.Fatalf("the child did nothing: %v", child.Wait())
		}
		time.Sleep(time.Duration(rand.IntN(12000)) * time.Microsecond) // a real process can't be told when
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		child.Wait()
		if _, version := tables(t, dir); version == 2 {
			interrupted++
		}
		l := open(t, dir, Options{})
		check(t, l)
		wantSettled(t, l, records)
		if n := len(ledgertest.List(t, l, billing.RecordFilter{})); n != records+2 {
			t.Errorf("%d records, want %d", n, records+2)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d of 5 upgrades did not come to their end", interrupted)
}
