package sqliteledger

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

// usersOfChild are those whom a killed process declared.
var usersOfChild = []billing.User{{Name: "alice", Balance: 1e15}, {Name: "bob", Unlimited: true}}

// TestKilledAndStartedWhileLocked: whatever is killed, started and ended while
// another program has the database, all that was acknowledged is there in the end,
// charged and counted once, and the balance was right all along.
func TestKilledAndStartedWhileLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var acknowledged []string
	for round := range 2 {
		acknowledged = append(acknowledged, runAndKill(t, dir, 200)...)
		unlock := lockDatabase(t, dir, []string{exclusive, reserved}[round])
		var balance billing.USD
		for start := range 2 {
			log := newLines()
			l := open(t, dir, Options{Logger: slog.New(log)})
			if err := l.Declare(t.Context(), usersOfChild); err != nil {
				t.Fatal(err)
			}
			before, err := l.Balance(t.Context(), "alice")
			if err != nil || start > 0 && before.Amount != balance {
				t.Errorf("start %d: balance %s, %v; want %s", start, before.Amount, err, balance)
			}
			for range 50 {
				id := newID()
				wantHold(t, l, id, nil)
				mustSettle(t, l, id)
				mustSettle(t, l, id)
				acknowledged = append(acknowledged, id)
			}
			mustSettle(t, l, acknowledged[0]) // of a process before
			after, err := l.Balance(t.Context(), "alice")
			if balance = after.Amount; err != nil || balance != before.Amount-50*chargeOfChild {
				t.Errorf("start %d: balance %s after 50 records, %v; before it was %s", start, balance, err, before.Amount)
			}
			wantLocked(t, "Usage", reads(t.Context(), l)["Usage"](), dir)
			wantLocked(t, "AddUser", l.AddUser(t.Context(), billing.User{Name: "carol"}), dir)
			began := time.Now()
			wantLocked(t, "Close", l.Close(), dir)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("Close took %s", took)
			}
		}
		unlock()
		l := open(t, dir, Options{})
		wantRecorded(t, l, acknowledged)
		check(t, l)
		checkWindows(t, l)
		if after, err := l.Balance(t.Context(), "alice"); err != nil || after.Amount != balance {
			t.Errorf("balance %s, %v; while it was locked it was %s", after.Amount, err, balance)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// wantRecorded wants these records, each once.
func wantRecorded(t *testing.T, l *Ledger, ids []string) {
	t.Helper()
	recorded := make(map[string]int)
	for _, r := range ledgertest.List(t, l, billing.RecordFilter{}) {
		recorded[r.ID]++
	}
	for _, id := range ids {
		if recorded[id] != 1 {
			t.Fatalf("record %s is there %d times", id, recorded[id])
		}
	}
}

// TestKilledWhileLocked kills a process that had begun before the lock came.
func TestKilledWhileLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	child, output := startChild(t, dir, "")
	var acknowledged []string
	unlock := func() {}
	for len(acknowledged) < 3000 && output.Scan() { // more than a pipe holds
		acknowledged = append(acknowledged, output.Text())
		if len(acknowledged) == 100 {
			unlock = lockDatabase(t, dir, exclusive)
		}
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for output.Scan() {
	}
	child.Wait()
	l := open(t, dir, Options{})
	id := newID()
	wantHold(t, l, id, nil)
	mustSettle(t, l, id)
	acknowledged = append(acknowledged, id)
	wantLocked(t, "Close", l.Close(), dir)
	unlock()
	l = open(t, dir, Options{})
	defer l.Close()
	wantRecorded(t, l, acknowledged)
	check(t, l)
}

// TestDeclaringToALockedDatabase: a config's users are known at once, and the
// database, which learns of them later, has the same of them.
func TestDeclaringToALockedDatabase(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		steps [][]billing.User // each is a config; carol was added with 5 before
		want  map[string]billing.Balance
	}{
		{"as they are", [][]billing.User{{{Name: "alice", Balance: opening}}}, map[string]billing.Balance{"alice": {Amount: opening}}},
		{"another opening balance", [][]billing.User{{{Name: "alice", Balance: 7}}}, map[string]billing.Balance{"alice": {Amount: opening}}},
		{"a new one", [][]billing.User{{{Name: "dave", Balance: 7}}}, map[string]billing.Balance{"dave": {Amount: 7}}},
		{
			"a new one again and again",
			[][]billing.User{{{Name: "dave", Balance: 7}}, {{Name: "dave", Balance: 8}}, {{Name: "dave", Balance: 7}, {Name: "dave", Balance: 9}}},
			map[string]billing.Balance{"dave": {Amount: 7}},
		},
		{
			"without a limit, and then with one",
			[][]billing.User{{{Name: "dave", Unlimited: true}}, {{Name: "dave", Balance: 7}}},
			map[string]billing.Balance{"dave": {Amount: 7}},
		},
		{
			"with a limit, and then without",
			[][]billing.User{{{Name: "dave", Balance: 7}}, {{Name: "dave", Balance: 7, Unlimited: true}}},
			map[string]billing.Balance{"dave": {Amount: 7}},
		},
		{"one who was added", [][]billing.User{{{Name: "carol", Balance: 7}}}, map[string]billing.Balance{"carol": {Amount: 5}}},
		{"one who was removed", [][]billing.User{{{Name: "gone", Balance: 7}}}, map[string]billing.Balance{"gone": {Amount: 7}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			l := openWithAlice(t, dir)
			if err := errors.Join(
				l.AddUser(t.Context(), billing.User{Name: "carol", Balance: 5, Concurrency: 3}),
				l.Declare(t.Context(), []billing.User{{Name: "gone", Balance: 3}}),
				l.AddUser(t.Context(), billing.User{Name: "gone", Balance: 5}), l.RemoveUser(t.Context(), "gone"),
			); err != nil {
				t.Fatal(err)
			}
			l.writer.await(time.Millisecond)
			unlock := lockDatabase(t, dir, exclusive)
			for _, users := range test.steps {
				if err := l.Declare(t.Context(), users); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Declare(t.Context(), []billing.User{{Name: "erin", Balance: 1 << 62}}); err == nil || errors.Is(err, billing.ErrUnwritable) {
				t.Errorf("an opening balance out of range: %v", err)
			}
			for range 2 { // in memory, and in the database
				for name, want := range test.want {
					if got, err := l.Balance(t.Context(), name); got != want || err != nil {
						t.Errorf("%s has %+v, %v; want %+v", name, got, err, want)
					}
				}
				unlock()
				check(t, l)
			}
			if len(l.unwritten) > 0 {
				t.Errorf("%d users wait to be declared", len(l.unwritten))
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestDeclaredUsersAreWrittenByThemselves: no record has to come.
func TestDeclaredUsersAreWrittenByThemselves(t *testing.T) {
	inLockedBubble(t, exclusive, func(t *testing.T, l *Ledger, _ *lines, unlock func()) {
		if err := l.Declare(t.Context(), []billing.User{{Name: "dave", Balance: 7}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		unlock()
		time.Sleep(2 * time.Second)
		l.writing.Lock()
		defer l.writing.Unlock()
		if row, err := l.writer.exec(t.Context(), "SELECT balance FROM users WHERE name = 'dave'"); err != nil || row[0] != int64(7) {
			t.Errorf("the database has %v of dave, %v", row, err)
		}
	})
}

// TestOpenOfADatabaseThatCannotBeRead ends soon, says why, and does no harm.
func TestOpenOfADatabaseThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, before, sql string }{
		{"kept to itself", "", "PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; COMMIT"},
		{"without a WAL, being read", "PRAGMA journal_mode = DELETE", reading},
		{"without a WAL, being written", "PRAGMA journal_mode = DELETE", reserved},
		{"without a WAL, to itself", "PRAGMA journal_mode = DELETE", exclusive},
		{"of an earlier version", "PRAGMA user_version = 1", exclusive},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			l := openWithAlice(t, dir)
			mustSettle(t, l, "a")
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			lockDatabase(t, dir, test.before)()
			unlock := lockDatabase(t, dir, test.sql)
			began := time.Now()
			_, err := Open(t.Context(), dir, Options{})
			wantLocked(t, "Open", err, dir)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("Open took %s", took)
			}
			unlock()
			lockDatabase(t, dir, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion))()
			l = open(t, dir, Options{})
			defer l.Close()
			wantSettled(t, l, 1)
			check(t, l)
		})
	}
}

// TestSecondProcessIsNoLockOfTheDatabase: it is told what holds the directory.
func TestSecondProcessIsNoLockOfTheDatabase(t *testing.T) {
	dir := t.TempDir()
	child, output := startChild(t, dir, "")
	defer child.Wait()
	defer child.Process.Kill()
	if !output.Scan() {
		t.Fatal("the child settled nothing")
	}
	lockDatabase(t, dir, exclusive)
	_, err := Open(t.Context(), dir, Options{LockWait: 50 * time.Millisecond})
	wantHeld(t, err, dir)
	if strings.Contains(err.Error(), "another program has locked") {
		t.Errorf("error %v", err)
	}
}
