package sqliteledger

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

const opening billing.USD = 1e15

func openWithAlice(t *testing.T, dir string) *Ledger {
	t.Helper()
	l := open(t, dir, Options{})
	if err := l.Declare(t.Context(), []billing.User{{Name: "alice", Balance: opening}}); err != nil {
		t.Fatal(err)
	}
	return l
}

// limitDatabase makes SQLite find the disk full from that many pages on.
func limitDatabase(t *testing.T, l *Ledger, pages int) {
	t.Helper()
	l.writing.Lock()
	defer l.writing.Unlock()
	if _, err := l.writer.exec(context.Background(), fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
		t.Fatal(err)
	}
}

func wantSettled(t *testing.T, l *Ledger, records int) {
	t.Helper()
	balance, err := l.Balance(t.Context(), "alice")
	if want := opening - billing.USD(records*chargeOfChild); err != nil || balance.Amount != want {
		t.Errorf("balance %s, %v; want %s after %d records", balance.Amount, err, want, records)
	}
}

// TestJournalCannotBeWritten: nothing is charged for a record that the journal
// doesn't take.
func TestJournalCannotBeWritten(t *testing.T) {
	l := openWithAlice(t, t.TempDir())
	defer l.Close()
	mend := breakJournal(t, l)
	err := l.Settle(t.Context(), childRecord("a"), nil)
	if err == nil || !strings.Contains(err.Error(), l.dir) || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("Settle: %v, want an error that names the record and %s", err, l.dir)
	}
	wantSettled(t, l, 0)
	mend()
	if got := ledgertest.List(t, l, billing.RecordFilter{}); len(got) != 0 {
		t.Errorf("%d records, want none", len(got))
	}
	if err := l.Settle(t.Context(), childRecord("a"), nil); err != nil {
		t.Error(err)
	}
	wantSettled(t, l, 1)
	check(t, l)
}

// TestDatabaseFull: while the database takes nothing, records are safe in the
// journal, up to a bound, and go to the database when it takes them again.
func TestDatabaseFull(t *testing.T) {
	dir := t.TempDir()
	l := openWithAlice(t, dir)
	l.mostWaiting = 1000
	limitDatabase(t, l, 1)
	id := func(i int) string { return fmt.Sprintf("%06d", i) }
	for i := range l.mostWaiting {
		if err := l.Settle(t.Context(), childRecord(id(i)), nil); err != nil {
			t.Fatal(err)
		}
	}
	wantSettled(t, l, l.mostWaiting)
	if err := l.Settle(t.Context(), childRecord("one too many"), nil); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("Settle: %v, want an error that says that the database is full", err)
	}
	if err := l.Settle(t.Context(), childRecord(id(0)), nil); err != nil {
		t.Errorf("settling again what is in the journal: %v", err)
	}
	wantSettled(t, l, l.mostWaiting)
	err := l.Records(t.Context(), billing.RecordFilter{}, func(*billing.Record) bool { return false })
	if err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("Records: %v, want an error that says that the database is full", err)
	}

	limitDatabase(t, l, 1<<30)
	if err := l.Settle(t.Context(), childRecord("one too many"), nil); err != nil {
		t.Error(err)
	}
	wantSettled(t, l, l.mostWaiting+1)
	check(t, l)

	limitDatabase(t, l, 1)
	for i := range 100 { // more than fits the pages that are there
		if err := l.Settle(t.Context(), childRecord("late"+id(i)), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("Close: %v, want an error that says that the database is full", err)
	}
	l = open(t, dir, Options{})
	defer l.Close()
	wantSettled(t, l, 1101)
	check(t, l)
}
