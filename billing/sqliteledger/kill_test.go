package sqliteledger

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

// childDir names the environment variable that makes this test binary a process
// which does a job in that directory, the one that childJob names: without, it
// settles records until it is killed.
const (
	childDir = "SQLITELEDGER_TEST_CHILD"
	childJob = "SQLITELEDGER_TEST_JOB"
)

var jobsOfChildren = map[string]func(dir string) error{
	"":        settleUntilKilled,
	"upgrade": upgradeOnce,
}

const (
	chargeOfChild   = 1001
	settlersOfChild = 8
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := jobsOfChildren[os.Getenv(childJob)](dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// Every check of a history makes a database; the command line can ask for more.
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// settleUntilKilled prints the id of every record that Settle acknowledged.
func settleUntilKilled(dir string) error {
	ctx := context.Background()
	l, err := Open(ctx, dir, Options{})
	if err != nil {
		return err
	}
	if err := l.Declare(ctx, []billing.User{{Name: "alice", Balance: 1e15}, {Name: "bob", Unlimited: true}}); err != nil {
		return err
	}
	limited := billing.Key{ID: "limited", User: "bob", Limits: billing.Limits{billing.Daily: 1e15}}
	if err := l.AddKey(ctx, limited); err != nil && !errors.Is(err, billing.ErrKeyExists) {
		return err
	}
	var settlers sync.WaitGroup
	if rand.IntN(2) == 0 { // the other half leaves all that it settles in the journal
		settlers.Go(func() {
			for {
				if err := errors.Join(l.flush(), l.exclusively(func() error { return nil })); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
			}
		})
	}
	for range settlersOfChild {
		settlers.Go(func() {
			for {
				r := anyChildRecord(newID())
				_, err := l.Hold(ctx, &billing.HoldRequest{ID: r.ID, User: r.User, KeyID: r.KeyID, Amount: 2 * chargeOfChild, Unlimited: r.User == "bob"})
				if err == nil {
					err = l.Settle(ctx, r, nil)
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				fmt.Println(r.ID)
			}
		})
	}
	settlers.Wait()
	return nil
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func childRecord(id string) *billing.Record {
	r := ledgertest.Example(id)
	r.Charged = chargeOfChild
	return r
}

// anyChildRecord is, at random, one of alice, whose balance pays, or of bob, with a
// subscription or a limited key, at a time that may be in another window.
func anyChildRecord(id string) *billing.Record {
	r := childRecord(id)
	r.Time = r.Time.Add(-time.Duration(rand.Int64N(int64(3 * 24 * time.Hour)))) // it makes windows roll
	switch rand.IntN(3) {
	case 0:
		r.User, r.Billing = "bob", billing.PaidFromSubscription
	case 1:
		r.User, r.Billing, r.KeyID = "bob", billing.PaidByNobody, "limited"
	}
	return r
}

// TestKilledAtAnyMoment kills a settling process again and again. Nothing that
// it acknowledged may be lost, and nothing charged or counted twice, even if it
// is settled once more.
func TestKilledAtAnyMoment(t *testing.T) {
	dir := t.TempDir()
	var acknowledged []string
	for range 10 {
		fresh := runAndKill(t, dir, 1+rand.IntN(300))
		fresh = append(fresh, runAndKill(t, dir, 1+rand.IntN(300))...)
		acknowledged = append(acknowledged, fresh...)

		l := open(t, dir, Options{})
		recorded, ofAlice := make(map[string]bool), 0
		for _, r := range ledgertest.List(t, l, billing.RecordFilter{}) {
			if recorded[r.ID] {
				t.Fatalf("record %s is there twice", r.ID)
			}
			recorded[r.ID] = true
			if r.User == "alice" {
				ofAlice++
			}
		}
		for _, id := range acknowledged {
			if !recorded[id] {
				t.Fatalf("record %s was acknowledged and is lost", id)
			}
		}
		check(t, l)
		checkWindows(t, l)
		before, err := l.Balance(t.Context(), "alice")
		if err != nil {
			t.Fatal(err)
		}
		if want := billing.USD(1e15 - ofAlice*chargeOfChild); before.Amount != want {
			t.Fatalf("balance %s after %d records, want %s", before.Amount, ofAlice, want)
		}
		for _, id := range fresh {
			if err := l.Settle(t.Context(), childRecord(id), nil); err != nil {
				t.Fatal(err)
			}
		}
		if after, err := l.Balance(t.Context(), "alice"); err != nil || after != before {
			t.Fatalf("balance %s became %s by settling the same again, error %v", before.Amount, after.Amount, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// runAndKill kills a child after that many acknowledgements and gives them,
// with those that came until it was dead.
func runAndKill(t *testing.T, dir string, after int) []string {
	t.Helper()
	return runJobAndKill(t, dir, "", after)
}

// runJobAndKill is runAndKill of a job, by the lines that it prints.
func runJobAndKill(t *testing.T, dir, job string, after int) []string {
	t.Helper()
	child, output := startChild(t, dir, job)
	var lines []string
	for output.Scan() {
		lines = append(lines, output.Text())
		if len(lines) == after {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	err := child.Wait()
	if len(lines) < after {
		t.Fatalf("the child ended by itself: %v", err)
	}
	return lines[:len(lines)-1] // it may have been killed in the middle of the last
}

func startChild(t *testing.T, dir, job string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir, childJob+"="+job)
	child.Stderr = os.Stderr
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	return child, bufio.NewScanner(stdout)
}

func TestDirectoryHeldByAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	child, output := startChild(t, dir, "")
	if !output.Scan() {
		t.Fatalf("the child settled nothing: %v", child.Wait())
	}
	_, err := Open(t.Context(), dir, Options{LockWait: 50 * time.Millisecond})
	wantHeld(t, err, dir)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for output.Scan() { // until it is dead
	}
	if err := child.Wait(); err == nil || !strings.Contains(err.Error(), "kill") {
		t.Fatalf("child: %v", err)
	}
	if err := open(t, dir, Options{}).Close(); err != nil {
		t.Error(err)
	}
}
