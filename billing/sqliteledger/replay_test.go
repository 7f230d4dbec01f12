package sqliteledger

import (
	"os"
	"path/filepath"
	"testing"

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

func TestEveryFieldOfARecordHasAColumn(t *testing.T) {
	var r billing.Record
	var nanos int64
	if want := len(journal.Fields(&r, &nanos)); len(columns) != want {
		t.Errorf("%d columns for %d fields", len(columns), want)
	}
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
	if err := l.Settle(t.Context(), made("a", "alice")); err != nil {
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
		checkIdentity(t, l)
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
