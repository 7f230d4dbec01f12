package redisledger

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
)

// wantIdentity checks that a user's balance is what was credited less what was
// charged.
func wantIdentity(t testing.TB, client redis.UniversalClient, namespace, name string) {
	t.Helper()
	ctx := context.Background()
	prefix := "{" + namespace + "}:"
	user, err := client.HGetAll(ctx, prefix+"user:"+name).Result()
	must(t, err)
	credits, err := client.HGetAll(ctx, prefix+"credits:"+name).Result()
	must(t, err)
	number := func(text string) int64 {
		if text == "" {
			return 0
		}
		n, err := strconv.ParseInt(text, 10, 64)
		must(t, err)
		return n
	}
	want := number(user["opening"]) - number(user["pruned"])
	for _, credit := range credits {
		amount, _, _ := strings.Cut(credit, " ")
		want += number(amount)
	}
	l := New(client, Options{Namespace: namespace})
	defer l.Close()
	must(t, l.Records(ctx, billing.RecordFilter{User: name}, func(r *billing.Record) bool {
		if r.Billing == billing.PaidFromBalance {
			want -= int64(r.Charged)
		}
		return true
	}))
	if balance := number(user["balance"]); balance != want {
		t.Errorf("%s has %d, the records, credits and opening say %d", name, balance, want)
	}
}

// TestIdentity: whatever happens to users, their money can be explained.
func TestIdentity(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	names := []string{"a", "b", "c"}
	midnight := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	var running sync.WaitGroup
	for worker := range 4 {
		l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
		must(t, l.Declare(t.Context(), []billing.User{{Name: "a", Balance: 1000}, {Name: "b", Balance: -70}}))
		running.Go(func() {
			ctx := context.Background()
			for i := range 300 {
				name, id := names[rand.IntN(len(names))], fmt.Sprintf("%d-%d", worker, i)
				switch rand.IntN(12) {
				case 0:
					l.AddUser(ctx, billing.User{Name: name, Balance: billing.USD(rand.IntN(500))})
				case 1:
					l.RemoveUser(ctx, name)
				case 2:
					l.Declare(ctx, []billing.User{{Name: name, Balance: 300, Unlimited: rand.IntN(2) == 0}})
				case 3, 4:
					l.Credit(ctx, name, billing.Credit{ID: fmt.Sprint(rand.IntN(100)), Amount: billing.USD(rand.IntN(2000) - 1000), Time: midnight})
				case 5:
					if _, err := l.Prune(ctx, midnight.AddDate(0, 0, -rand.IntN(5))); err != nil {
						t.Error(err)
					}
				default:
					r := exampleOf(id)
					r.User, r.Charged = name, billing.USD(rand.IntN(1000))
					r.Time = midnight.Add(-time.Duration(rand.Int64N(int64(6 * 24 * time.Hour))))
					l.Settle(ctx, r, nil)
				}
			}
		})
	}
	running.Wait()
	for _, name := range names {
		wantIdentity(t, client, "n", name)
	}
}

func TestPrune(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
	stopLoops(l)
	declareAlice(t, l)
	midnight := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	const old = 2*pageSize + 3
	for i := range old {
		r := exampleOf(fmt.Sprint("old ", i))
		r.Time = midnight.Add(-time.Duration(i+1) * time.Minute)
		if i%2 == 0 {
			r.Billing = billing.PaidByNobody
		}
		must(t, l.Settle(t.Context(), r, nil))
	}
	waiting := exampleOf("waiting")
	waiting.Time = midnight.Add(-1)
	must(t, l.spool.keep(waiting, true))
	settle(t, l, "new")
	prune := func(before time.Time, want int) {
		t.Helper()
		if n, err := l.Prune(t.Context(), before); err != nil || n != want {
			t.Errorf("Prune(%v): %d, %v; want %d", before, n, err, want)
		}
		wantSettled(t, l, old/2+2)
		wantIdentity(t, client, "n", "alice")
	}
	prune(midnight.Add(-1), 0)
	prune(midnight, old+1)
	prune(midnight.Add(24*time.Hour-1), 0)
	for _, key := range []string{"records:", "index:"} {
		if mini.Exists("{n}:" + key + "2026-11-23") {
			t.Errorf("there is still a key %s2026-11-23", key)
		}
	}
	if days, err := mini.Members("{n}:days"); err != nil || len(days) != 1 {
		t.Errorf("days %v, %v; want one", days, err)
	}
	if r, err := l.Record(t.Context(), "new"); err != nil || r.ID != "new" {
		t.Errorf("Record: %+v, %v", r, err)
	}
	prune(midnight.AddDate(0, 0, 1), 1)

	// A day that was pruned takes records, and is pruned again.
	late := exampleOf("late")
	late.Time = midnight.Add(-time.Hour)
	must(t, l.Settle(t.Context(), late, nil))
	if n, err := l.Prune(t.Context(), midnight); err != nil || n != 1 {
		t.Errorf("Prune: %d, %v; want 1", n, err)
	}
	wantIdentity(t, client, "n", "alice")
}

// TestRecordOfAnyDay is found in few round trips.
func TestRecordOfAnyDay(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n"})
	stopLoops(l)
	declareAlice(t, l)
	const days = daysBatch + 5
	for i := range days {
		r := exampleOf(fmt.Sprint(i))
		r.Time = r.Time.AddDate(0, 0, -i)
		must(t, l.Settle(t.Context(), r, nil))
	}
	trips := new(roundTrips)
	client.AddHook(trips)
	for id, want := range map[string]int64{"0": 2, fmt.Sprint(daysBatch - 1): 2, fmt.Sprint(days - 1): 3} {
		if r, err := l.Record(t.Context(), id); err != nil || r.ID != id {
			t.Errorf("Record(%s): %+v, %v", id, r, err)
		}
		trips.want(t, "Record "+id, want)
	}
}
