package sqliteledger

import (
	"context"
	"database/sql/driver"
	_ "embed"
	"encoding/json"
	"fmt"
	"log/slog"
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

// version1 is the schema of the first release.
//
//go:embed testdata/version1.sql
var version1 string

// oldColumns is how many columns records had up to version 2, the first of today's.
const oldColumns = 33

// makeVersion1 makes what the first release left, which had settled that many
// records, the last of them into its journal alone.
func makeVersion1(t *testing.T, dir string, records, inJournal int) {
	t.Helper()
	ctx := context.Background()
	c, err := connect(ctx, filepath.Join(dir, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	exec := func(statement string, args ...driver.Value) {
		t.Helper()
		if _, err := c.exec(ctx, statement, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec("PRAGMA journal_mode = WAL")
	exec("BEGIN; " + version1 + "; PRAGMA user_version = 1; COMMIT")
	exec("BEGIN")
	insert, err := c.prepare(fmt.Sprintf("INSERT INTO records VALUES (?%s)", strings.Repeat(", ?", oldColumns-1)))
	if err != nil {
		t.Fatal(err)
	}
	defer insert.Close()
	var left [2][]*billing.Record
	for i := range records {
		r := oldRecord(i)
		if i >= records-inJournal {
			left[i%2] = append(left[i%2], r)
			continue
		}
		all := make([]driver.NamedValue, len(columns))
		values(all, r)
		for i := range insert.args {
			insert.args[i].Value = all[i].Value
		}
		if err := insert.run(); err != nil {
			t.Fatal(err)
		}
	}
	exec("INSERT INTO users VALUES ('alice', ?, 0), ('bob', 0, 1)", int64(1e15)-int64(records-inJournal)*chargeOfChild)
	exec("INSERT INTO credits VALUES ('alice', 'opening', '', 5, ?)", int64(1e15))
	exec("COMMIT")
	for i := range left {
		name := filepath.Join(dir, fmt.Sprintf("journal-%d", i))
		if err := os.WriteFile(name, journalOf(t, left[i]...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// oldRecord is the i-th that the first release settled: of days that are far apart
// and close together, with numbers that no sum can hold.
func oldRecord(i int) *billing.Record {
	r := childRecord(fmt.Sprintf("%06d", i))
	r.Time = time.Date(2026, 10, 1, 0, 0, i, i, time.UTC).Add(-time.Duration(i%40) * 9 * time.Hour)
	r.Model = fmt.Sprint("model-", i%3)
	switch i {
	case 0:
		r.Time = time.Date(1678, 1, 1, 0, 0, 0, 0, time.UTC)
	case 1:
		r.Time = time.Date(2262, 4, 11, 0, 0, 0, 0, time.UTC)
	case 2, 5:
		r.Time, r.Input, r.Cost = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), 1<<63-1, 1<<62+7
	}
	return r
}

// tables is the schema of a database, and its version.
func tables(t *testing.T, dir string) (schema map[string]string, version int64) {
	t.Helper()
	ctx := context.Background()
	c, err := connect(ctx, filepath.Join(dir, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	row, err := c.exec(ctx, "PRAGMA integrity_check")
	if err != nil || row[0] != "ok" {
		t.Errorf("integrity_check: %v, %v", row, err)
	}
	if row, err = c.exec(ctx, "PRAGMA user_version"); err != nil {
		t.Fatal(err)
	}
	version = row[0].(int64)
	row, err = c.exec(ctx, "SELECT json_group_object(name, sql) FROM sqlite_schema WHERE sql IS NOT NULL")
	if err != nil {
		t.Fatal(err)
	}
	schema = make(map[string]string)
	if err := json.Unmarshal([]byte(row[0].(string)), &schema); err != nil {
		t.Fatal(err)
	}
	return schema, version
}

func TestUpgradeFromVersion1(t *testing.T) {
	dir, fresh := t.TempDir(), t.TempDir()
	makeVersion1(t, dir, 500, 60)
	var log strings.Builder
	l := open(t, dir, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	check(t, l)
	wantSettled(t, l, 500)
	if n := len(ledgertest.List(t, l, billing.RecordFilter{})); n != 500 {
		t.Errorf("%d records, want 500", n)
	}
	u, err := l.User(t.Context(), "bob")
	if want := (billing.Profile{Name: "bob", Source: billing.SourceConfig}); err != nil {
		t.Error(err)
	} else if diff := cmp.Diff(want, u); diff != "" {
		t.Errorf("bob (-want +got):\n%s", diff)
	}
	var saturated billing.UsageRow
	err = l.Usage(t.Context(), billing.RecordFilter{}, nil, func(r *billing.UsageRow) bool { saturated = *r; return true })
	if err != nil || saturated.Requests != 500 || saturated.Input != 1<<63-1 || saturated.Cost != 1<<63-1 {
		t.Errorf("usage %+v, %v", saturated, err)
	}
	if err := l.AddUser(t.Context(), billing.User{Name: "carol", Balance: 5}); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for _, part := range []string{"upgrading", "upgraded", "from_version=1"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("the log does not say %q:\n%s", part, log.String())
		}
	}
	if err := open(t, fresh, Options{}).Close(); err != nil {
		t.Error(err)
	}
	want, wantVersion := tables(t, fresh)
	got, version := tables(t, dir)
	if diff := cmp.Diff(want, got); diff != "" || version != wantVersion {
		t.Errorf("version %d, want %d; tables (-fresh +upgraded):\n%s", version, wantVersion, diff)
	}
	l = open(t, dir, Options{})
	defer l.Close()
	check(t, l)
}

// wantVersion1 checks that nothing of an upgrade is there.
func wantVersion1(t *testing.T, dir string) {
	t.Helper()
	clean := t.TempDir()
	makeVersion1(t, clean, 0, 0)
	want, _ := tables(t, clean)
	got, version := tables(t, dir)
	if diff := cmp.Diff(want, got); diff != "" || version != 1 {
		t.Errorf("version %d, want 1; tables (-want +got):\n%s", version, diff)
	}
}

// TestFailedUpgrade has an upgrade find the disk full.
func TestFailedUpgrade(t *testing.T) {
	dir := t.TempDir()
	makeVersion1(t, dir, 2000, 10)
	w, err := openWriter(t.Context(), filepath.Join(dir, "ledger.db"), false)
	if err != nil {
		t.Fatal(err)
	}
	row, err := w.exec(t.Context(), "PRAGMA page_count")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.exec(t.Context(), fmt.Sprintf("PRAGMA max_page_count = %d", row[0].(int64)+4)); err != nil {
		t.Fatal(err)
	}
	err = migrate(t.Context(), w, time.Now(), slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "version 1 to 2") || !strings.Contains(err.Error(), "full") {
		t.Errorf("error %v, want one that says from where to where, and that the disk is full", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	wantVersion1(t, dir)
	l := open(t, dir, Options{})
	defer l.Close()
	check(t, l)
	wantSettled(t, l, 2000)
}

// upgradeOnce is a child's job.
func upgradeOnce(dir string) error {
	fmt.Println("begin")
	l, err := Open(context.Background(), dir, Options{})
	if err != nil {
		return err
	}
	return l.Close()
}

// TestKilledUpgrade kills an upgrade at any moment.
func TestKilledUpgrade(t *testing.T) {
	interrupted := 0
	for range 5 {
		dir := t.TempDir()
		makeVersion1(t, dir, 2000, 10)
		child, output := startChild(t, dir, "upgrade")
		if !output.Scan() {
			t.Fatalf("the child did nothing: %v", child.Wait())
		}
		time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond) // a real process can't be told when
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		child.Wait()
		if _, version := tables(t, dir); version == 1 {
			interrupted++
			wantVersion1(t, dir)
		}
		l := open(t, dir, Options{})
		check(t, l)
		wantSettled(t, l, 2000)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d of 5 upgrades did not come to their end", interrupted)
}
