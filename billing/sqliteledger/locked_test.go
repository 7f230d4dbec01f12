package sqliteledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

// lockSQL names the environment variable with what the child that locks a database
// executes.
const lockSQL = "SQLITELEDGER_TEST_SQL"

func init() { jobsOfChildren["lock"] = lockUntilUnlocked }

// What another program may have done to the database.
const (
	exclusive = "BEGIN EXCLUSIVE"
	reserved  = "BEGIN IMMEDIATE"
	reading   = "BEGIN; SELECT count(*) FROM sqlite_schema"
)

// lockUntilTold is a child's job: it is another program, and lets go of the database
// at the end of its input.
func lockUntilUnlocked(dir string) error {
	c, err := connect(context.Background(), filepath.Join(dir, databaseName))
	if err != nil {
		return err
	}
	if _, err := c.exec(context.Background(), os.Getenv(lockSQL)); err != nil {
		return err
	}
	fmt.Println("locked")
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, c.Close())
}

// lockDatabase has another program execute SQL on the database of dir, and keep what
// that locks until the function is called.
func lockDatabase(t *testing.T, dir, sql string) (unlock func()) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir, childJob+"=lock", lockSQL+"="+sql)
	child.Stderr = os.Stderr
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	unlock = func() {
		stdin.Close()
		child.Wait()
	}
	t.Cleanup(unlock)
	if output := bufio.NewScanner(stdout); !output.Scan() {
		t.Fatalf("%s could not be executed: %v", sql, child.Wait())
	}
	return unlock
}

// inLockedBubble opens a ledger with alice, and with bob, who was added, in a bubble.
// Nobody waits for the lock there: SQLite does so by the bubble's clock, which stands
// still while others wait for who waits.
func inLockedBubble(t *testing.T, sql string, test func(t *testing.T, l *Ledger, log *lines, unlock func())) {
	dir := t.TempDir()
	openWithAlice(t, dir).Close()
	synctest.Test(t, func(t *testing.T) {
		log := newLines()
		l := openWithAlice(t, dir)
		l.log, l.health.log = slog.New(log), slog.New(log)
		l.writer.first, l.writer.again = 0, 0
		l.writer.await(0)
		ctx := t.Context()
		err := errors.Join(l.AddUser(ctx, billing.User{Name: "bob"}), l.AddKey(ctx, billing.Key{ID: "k", User: "bob"}),
			l.Subscribe(ctx, "bob", "g", time.Time{}))
		if err != nil {
			t.Fatal(err)
		}
		test(t, l, log, lockDatabase(t, dir, sql))
		check(t, l)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

func mustSettle(t *testing.T, l *Ledger, id string) {
	t.Helper()
	if err := l.Settle(t.Context(), childRecord(id), nil); err != nil {
		t.Fatal(err)
	}
}

// wantLocked checks that an error names the lock, once, and the file.
func wantLocked(t *testing.T, what string, err error, dir string) {
	t.Helper()
	if !errors.Is(err, billing.ErrUnwritable) {
		t.Errorf("%s: %v, want ErrUnwritable", what, err)
		return
	}
	text := err.Error()
	if want := "another program has locked " + filepath.Join(dir, databaseName); strings.Count(text, want) != 1 || strings.Contains(text, "full or broken") {
		t.Errorf("%s: %q, want %q in it, once", what, text, want)
	}
	if strings.Count(text, billing.ErrUnwritable.Error()) != 1 {
		t.Errorf("%s: %q repeats itself", what, text)
	}
}

// changes are all that an operator may do, each by name.
func changes(ctx context.Context, l *Ledger) map[string]func() error {
	yes := true
	return map[string]func() error{
		"Credit":      func() error { _, _, err := l.Credit(ctx, "alice", billing.Credit{ID: "c", Amount: 1}); return err },
		"AddUser":     func() error { return l.AddUser(ctx, billing.User{Name: "carol"}) },
		"ChangeUser":  func() error { return l.ChangeUser(ctx, "bob", billing.UserChange{Disabled: &yes}) },
		"AddKey":      func() error { return l.AddKey(ctx, billing.Key{ID: "k2", User: "bob", Digest: [32]byte{2}}) },
		"Subscribe":   func() error { return l.Subscribe(ctx, "bob", "h", time.Time{}) },
		"RevokeKey":   func() error { return l.RevokeKey(ctx, "k") },
		"Unsubscribe": func() error { return l.Unsubscribe(ctx, "bob", "g") },
		"RemoveUser":  func() error { return l.RemoveUser(ctx, "bob") },
	}
}

// reads are all that needs what was settled in the database.
func reads(ctx context.Context, l *Ledger) map[string]func() error {
	return map[string]func() error{
		"Records": func() error {
			return l.Records(ctx, billing.RecordFilter{}, func(*billing.Record) bool { return true })
		},
		"Record": func() error { _, err := l.Record(ctx, "r0"); return err },
		"Usage": func() error {
			return l.Usage(ctx, billing.RecordFilter{}, nil, func(*billing.UsageRow) bool { return true })
		},
		"Prune": func() error { _, err := l.Prune(ctx, time.Now().AddDate(-1, 0, 0)); return err },
	}
}

// TestAnHourOfALockedDatabase: requests go on, operators are told why their changes
// don't, and afterwards all is well.
func TestAnHourOfALockedDatabase(t *testing.T) {
	for _, sql := range []string{exclusive, reserved} {
		t.Run(sql, func(t *testing.T) {
			t.Parallel()
			inLockedBubble(t, sql, func(t *testing.T, l *Ledger, log *lines, unlock func()) {
				began, n := time.Now(), 0
				for ; time.Since(began) < time.Hour; n++ {
					id := fmt.Sprint("r", n)
					wantHold(t, l, id, nil)
					mustSettle(t, l, id)
					time.Sleep(time.Second)
				}
				wantSettled(t, l, n)
				for what, do := range reads(t.Context(), l) {
					wantLocked(t, what, do(), l.dir)
				}
				for what, do := range changes(t.Context(), l) {
					asked := time.Now()
					wantLocked(t, what, do(), l.dir)
					if took := time.Since(asked); took > 3*time.Second {
						t.Errorf("%s took %s", what, took)
					}
				}
				log.wantOnce(t, "takes no records")
				if n := log.count("can't be written to"); n > 0 {
					t.Errorf("the log says that no request is let through, %d times", n)
				}

				unlock()
				time.Sleep(2 * time.Second) // it is tried again
				log.wantOnce(t, "takes records again")
				if got := ledgertest.List(t, l, billing.RecordFilter{}); len(got) != n {
					t.Errorf("%d records, want %d", len(got), n)
				}
				for what, do := range reads(t.Context(), l) {
					if err := do(); err != nil {
						t.Errorf("%s: %v", what, err)
					}
				}
			})
		})
	}
}

// TestChangesWhileNothingWaits: the lock shows in the change itself.
func TestChangesWhileNothingWaits(t *testing.T) {
	inLockedBubble(t, exclusive, func(t *testing.T, l *Ledger, _ *lines, unlock func()) {
		for what, do := range changes(t.Context(), l) {
			wantLocked(t, what, do(), l.dir)
		}
		if err := reads(t.Context(), l)["Records"](); err != nil {
			t.Errorf("reading, with nothing to be written before: %v", err)
		}
		unlock()
		for what, do := range changes(t.Context(), l) {
			if what == "RemoveUser" { // or the others have nobody left
				continue
			}
			if err := do(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// TestAMinuteAtTwoThousandASecond is what the bounds are made for.
func TestAMinuteAtTwoThousandASecond(t *testing.T) {
	t.Parallel()
	const perSecond = 2000
	dir := t.TempDir()
	openWithAlice(t, dir).Close()
	unlock := lockDatabase(t, dir, exclusive)
	synctest.Test(t, func(t *testing.T) {
		l := open(t, dir, Options{})
		l.writer.first, l.writer.again = 0, 0
		l.writer.await(0)
		for second := range 60 {
			for i := range perSecond {
				id := fmt.Sprintf("%08d", second*perSecond+i)
				wantHold(t, l, id, nil)
				mustSettle(t, l, id)
			}
			time.Sleep(time.Second)
		}
		wantSettled(t, l, 60*perSecond)
		wantLocked(t, "Close", l.Close(), dir)
	})
	unlock()
	shards, err := openShards(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer shards.Close()
	count := 0
	for _, shard := range shards {
		for _, f := range []*journal.File{shard.Current, shard.Other} {
			records, end, err := f.Read(0, f.Size(), math.MaxInt)
			if err != nil || end != f.Size() {
				t.Errorf("read to %d of %d, %v", end, f.Size(), err)
			}
			count += len(records)
		}
	}
	if count != 60*perSecond {
		t.Errorf("the journal has %d records, want %d", count, 60*perSecond)
	}
}

// TestOthersGoBetweenTwoTransactions: after a long lock there is much to write, and a
// change needs not wait for all of it.
func TestOthersGoBetweenTwoTransactions(t *testing.T) {
	t.Parallel()
	l := openWithAlice(t, t.TempDir())
	defer l.Close() // when writing is free again
	records := make([]*settled, 2*batchSize+1)
	for i := range records {
		records[i] = &settled{Record: *childRecord("the same")} // most is quickly written
	}
	pauses := 0
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.write(records, func() { pauses++ }); err != nil || pauses != 2 {
		t.Errorf("%d pauses, %v; want 2", pauses, err)
	}
}

// TestMoreThanMayWaitForALockedDatabase: what is beyond the bounds is refused, and
// says why.
func TestMoreThanMayWaitForALockedDatabase(t *testing.T) {
	inLockedBubble(t, reserved, func(t *testing.T, l *Ledger, log *lines, unlock func()) {
		l.mostWaiting, l.mostLocked = 1000, 3000
		settle := func(from, to int) {
			for i := from; i < to; i++ {
				mustSettle(t, l, fmt.Sprintf("%06d", i))
			}
		}
		settle(0, 2000) // past what makes a Settle write to the database itself
		wantHold(t, l, "a", nil)
		settle(2000, 2001)
		_, err := l.Hold(t.Context(), aliceRequest("b"))
		wantLocked(t, "Hold", err, l.dir)
		settle(2001, 3000) // those in flight
		wantLocked(t, "Settle", l.Settle(t.Context(), childRecord("one too many"), nil), l.dir)
		log.wantOnce(t, "can't be written to")
		log.wantOnce(t, "end the program that has locked")

		unlock()
		time.Sleep(flushEvery + time.Second)
		wantHold(t, l, "b", nil)
		log.wantOnce(t, "can be written to again")
		wantSettled(t, l, 3000)
	})
}

// TestALongReader takes nothing from anybody.
func TestALongReader(t *testing.T) {
	inLockedBubble(t, reading, func(t *testing.T, l *Ledger, _ *lines, _ func()) {
		for i := range 100 {
			mustSettle(t, l, fmt.Sprint("r", i))
			time.Sleep(time.Second)
		}
		for what, do := range reads(t.Context(), l) {
			if err := do(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, credited, err := l.Credit(t.Context(), "alice", billing.Credit{ID: "c", Amount: 0}); err != nil || !credited {
			t.Errorf("credited %v, %v", credited, err)
		}
	})
}

// TestNobodyWaitsForAChangeThatWaits: a change which comes between two records waits
// for the database without them.
func TestNobodyWaitsForAChangeThatWaits(t *testing.T) {
	t.Parallel()
	l := openWithAlice(t, t.TempDir())
	defer l.Close()
	if err := l.AddKey(t.Context(), billing.Key{ID: "k", User: "alice"}); err != nil {
		t.Fatal(err)
	}
	lockDatabase(t, l.dir, exclusive)
	revoked := make(chan error)
	go func() { revoked <- l.RevokeKey(context.Background(), "k") }()
	for i := 0; ; i++ {
		asked := time.Now()
		wantHold(t, l, fmt.Sprint(i), nil)
		if took := time.Since(asked); took > time.Second {
			t.Errorf("Hold took %s", took)
		}
		select {
		case err := <-revoked:
			wantLocked(t, "RevokeKey", err, l.dir)
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestPruneIsOvertakenByALock: what it has deleted by then is gone, and nothing by
// half.
func TestPruneIsOvertakenByALock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openWithAlice(t, dir)
	defer l.Close()
	before := time.Now()
	old := before.AddDate(0, 0, -3)
	for i := range 3 * pruneStep {
		r := childRecord(fmt.Sprintf("%06d", i))
		r.Time = old
		if err := l.Settle(t.Context(), r, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.flush(); err != nil {
		t.Fatal(err)
	}
	if deleted, more, err := l.pruneStep(t.Context(), l.days.dayOf(old.UnixNano())); deleted != pruneStep || !more || err != nil {
		t.Fatalf("%d deleted, more %v, %v", deleted, more, err)
	}
	unlock := lockDatabase(t, dir, reserved)
	deleted, err := l.Prune(t.Context(), before)
	wantLocked(t, "Prune", err, dir)
	if deleted != 0 {
		t.Errorf("%d deleted", deleted)
	}
	unlock()
	if deleted, err := l.Prune(t.Context(), before); deleted != 2*pruneStep || err != nil {
		t.Errorf("%d deleted, %v", deleted, err)
	}
	wantSettled(t, l, 3*pruneStep)
}
