package sqliteledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

// childSince is what the child's exports begin with, in nanoseconds, and childSet by
// how much its clock is set.
const (
	childSince = "SQLITELEDGER_TEST_SINCE"
	childSet   = "SQLITELEDGER_TEST_SET"
)

func init() {
	jobsOfChildren["users"] = comeAndGoUntilKilled
	jobsOfChildren["exports"] = exportUntilKilled
}

const openingOfCarol = 1_000_000

// comeAndGoUntilKilled adds and removes carol, who has a key and a subscription, while
// requests of hers are in flight. Those that end after she was removed are of a number
// that nobody has. It prints the id of every record that Settle acknowledged.
func comeAndGoUntilKilled(dir string) error {
	ctx := context.Background()
	l, err := Open(ctx, dir, Options{})
	if err != nil {
		return err
	}
	key := billing.Key{ID: "carols", User: "carol", Limits: billing.Limits{billing.Daily: 1e15}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			err := l.AddUser(ctx, billing.User{Name: "carol", Balance: openingOfCarol})
			if err != nil && !errors.Is(err, billing.ErrUserExists) {
				fmt.Fprintln(os.Stderr, err)
				return
			}
			_ = l.AddKey(ctx, key) // she has it, if she was there before
			_ = l.Subscribe(ctx, "carol", "default", time.Time{})
			if _, _, err := l.Credit(ctx, "carol", billing.Credit{ID: "again", Amount: 7}); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return
			}
			time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond) // as long as somebody stays
			if err := l.RemoveUser(ctx, "carol"); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return
			}
		}
	})
	for range settlersOfChild {
		all.Go(func() {
			for {
				r := childRecord(newID())
				r.User, r.KeyID = "carol", "carols"
				req := &billing.HoldRequest{ID: r.ID, User: r.User, KeyID: r.KeyID}
				if rand.IntN(2) == 0 {
					req.Terms = &billing.Terms{Group: r.Group, Declared: true}
				}
				payer, err := l.Hold(ctx, req)
				if err != nil {
					continue // she is gone
				}
				r.Billing, r.UserNumber = payer.Billing, payer.UserNumber
				if rand.IntN(3) == 0 {
					time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond) // an answer takes its time
				}
				if err := l.Settle(ctx, r, nil); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				fmt.Println(r.ID)
			}
		})
	}
	all.Wait()
	return nil
}

// TestKilledWhileUsersComeAndGo: whoever has a name pays what requests of his own
// charged, and nothing else; the sums of the name hold.
func TestKilledWhileUsersComeAndGo(t *testing.T) {
	dir := t.TempDir()
	var acknowledged []string
	numbers := make(map[int64]bool)
	for range 8 {
		acknowledged = append(acknowledged, runJobAndKill(t, dir, "users", 1+rand.IntN(200))...)
		l := open(t, dir, Options{})
		check(t, l)
		recorded := make(map[string]bool)
		own, ofKey, ofSubscription := billing.USD(0), billing.USD(0), billing.USD(0)
		number, isThere := int64(0), true
		payer, err := l.Hold(t.Context(), &billing.HoldRequest{ID: "look", User: "carol"})
		if number = payer.UserNumber; err != nil {
			isThere = false
		}
		l.Release(t.Context(), "look")
		for _, r := range ledgertest.List(t, l, billing.RecordFilter{User: "carol"}) {
			recorded[r.ID] = true
			numbers[r.UserNumber] = true
			switch {
			case r.UserNumber != number:
				continue
			case r.Billing == billing.PaidFromBalance:
				own += r.Charged
			default:
				ofSubscription += r.Cost
			}
			ofKey += r.Spent()
		}
		for _, id := range acknowledged {
			if !recorded[id] {
				t.Fatalf("record %s was acknowledged and is lost", id)
			}
		}
		if isThere {
			balance, err := l.Balance(t.Context(), "carol")
			if left := openingOfCarol - own; err != nil || balance.Held != 0 || balance.Amount != left && balance.Amount != left+7 {
				t.Errorf("carol %d has %+v, %v; want %s", number, balance, err, left)
			}
			s, err := l.Subscription(t.Context(), "carol", "default")
			if err != nil || s.Windows[billing.Monthly].Used != ofSubscription {
				t.Errorf("carol %d has used %v of the subscription, %v; want %s", number, s.Windows, err, ofSubscription)
			}
			if k := l.directory.keys["carols"]; k != nil && k.windows[billing.Daily].Used > ofKey {
				t.Errorf("carol %d has used %v of the key, want %s at most", number, k.windows, ofKey)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d records of %d carols", len(acknowledged), len(numbers))
}

// exportUntilKilled settles, and exports what was settled since the last export, while
// its clock is set time and again. It prints "settled" and the id of what Settle
// acknowledged, and of what it exports "exported" and the id, and last "until" and the
// time in nanoseconds up to which it did.
func exportUntilKilled(dir string) error {
	ctx := context.Background()
	var mu sync.Mutex
	set, err := time.ParseDuration(os.Getenv(childSet))
	if err != nil {
		return err
	}
	nanos, err := strconv.ParseInt(os.Getenv(childSince), 10, 64)
	if err != nil {
		return err
	}
	now := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return time.Now().Add(set)
	}
	l, err := Open(ctx, dir, Options{now: now})
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for range settlersOfChild {
		all.Go(func() {
			for {
				r := childRecord(newID())
				r.Billing = billing.PaidByNobody
				if err := l.Settle(ctx, r, nil); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				fmt.Println("settled", r.ID)
			}
		})
	}
	for since := time.Unix(0, nanos); ; {
		until := now()
		if until.Before(since) {
			until = since
		}
		var ids strings.Builder
		err := l.Records(ctx, billing.RecordFilter{SettledFrom: since, SettledTo: until.Round(0)}, func(r *billing.Record) bool {
			fmt.Fprintln(&ids, "exported", r.ID)
			return true
		})
		if err != nil {
			return err
		}
		since = until.Round(0)
		fmt.Printf("%suntil %d\n", ids.String(), since.UnixNano())
		mu.Lock()
		set += []time.Duration{time.Minute, -time.Minute, 40 * 24 * time.Hour, -40 * 24 * time.Hour, 0, 0}[rand.IntN(6)]
		mu.Unlock()
		time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond) // for the others to settle
	}
}

// TestKilledBetweenExports: exports that meet miss nothing and double nothing, over the
// ends of processes and with clocks that are set.
func TestKilledBetweenExports(t *testing.T) {
	dir := t.TempDir()
	since, exported := int64(0), make(map[string]int)
	var acknowledged []string
	for range 8 {
		t.Setenv(childSince, fmt.Sprint(since))
		t.Setenv(childSet, []string{"0s", "1m", "-1m", "960h", "-960h", "9600h", "-9600h"}[rand.IntN(7)])
		var pending []string
		for _, line := range runJobAndKill(t, dir, "exports", 1+rand.IntN(600)) {
			word, rest, _ := strings.Cut(line, " ")
			switch word {
			case "settled":
				acknowledged = append(acknowledged, rest)
			case "exported":
				pending = append(pending, rest)
			case "until":
				for _, id := range pending {
					exported[id]++
				}
				pending = nil
				var err error
				if since, err = strconv.ParseInt(rest, 10, 64); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	l := open(t, dir, Options{})
	defer l.Close()
	check(t, l)
	for _, r := range ledgertest.List(t, l, billing.RecordFilter{SettledFrom: time.Unix(0, since)}) {
		exported[r.ID]++
	}
	for _, id := range acknowledged {
		if exported[id] == 0 {
			t.Errorf("record %s was exported by nobody", id)
		}
	}
	all := ledgertest.List(t, l, billing.RecordFilter{})
	for _, r := range all {
		if exported[r.ID] != 1 {
			t.Errorf("record %s was exported %d times", r.ID, exported[r.ID])
		}
	}
	t.Logf("%d records", len(all))
}
