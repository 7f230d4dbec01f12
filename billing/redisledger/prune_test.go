package redisledger_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
)

// TestIdentity: whatever happens to users, their money can be explained.
func TestIdentity(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	names := []string{"a", "b", "c"}
	var running sync.WaitGroup
	for worker := range 4 {
		l := open(t, client)
		must(t, l.Declare(t.Context(), []billing.User{{Name: "a", Balance: 1000}, {Name: "b", Balance: -70}}))
		running.Go(func() {
			ctx := context.Background()
			for i := range 300 {
				name, id := names[rand.IntN(len(names))], fmt.Sprintf("%d-%d", worker, i)
				switch rand.IntN(12) {
				case 0:
					_ = l.AddUser(ctx, billing.User{Name: name, Balance: billing.USD(rand.IntN(500))})
				case 1:
					_ = l.RemoveUser(ctx, name)
				case 2:
					_ = l.Declare(ctx, []billing.User{{Name: name, Balance: 300, Unlimited: rand.IntN(2) == 0}})
				case 3, 4:
					_, _, _ = l.Credit(ctx, name, billing.Credit{ID: fmt.Sprint(rand.IntN(100)), Amount: billing.USD(rand.IntN(2000) - 1000), Time: today})
				case 5:
					mini.Del("{n}:pruned") // as if an hour had passed
					if _, err := l.Prune(ctx, today.AddDate(0, 0, -rand.IntN(5))); err != nil {
						t.Error(err)
					}
				default:
					r := exampleOf(id)
					r.User, r.Charged = name, billing.USD(rand.IntN(1000))
					r.UserNumber = int64(rand.IntN(4))
					r.Time = today.Add(-time.Duration(rand.Int64N(int64(6 * 24 * time.Hour))))
					_ = l.Settle(ctx, r, nil)
				}
			}
		})
	}
	running.Wait()
	for _, name := range names {
		wantIdentity(t, client, name)
	}
}

// TestPrune leaves nothing in Redis of a day that it deletes.
func TestPrune(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		midnight := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
		now := midnight.Add(36 * time.Hour)
		var clock atomic.Pointer[time.Time]
		set := func(shows time.Time) { now = shows; clock.Store(&shows); mini.SetTime(shows) }
		set(now)
		outage := outageOf(client)
		l := openWith(t, client, redisledger.Options{Now: func() time.Time { return *clock.Load() }})
		l.declareAlice(t)
		const old = 515 // some pages
		for i := range old {
			r := exampleOf(fmt.Sprint("old ", i))
			r.Time = midnight.Add(-time.Duration(i+1) * time.Minute)
			if i%2 == 0 {
				r.Billing = billing.PaidByNobody
			}
			set(now.Add(time.Minute)) // they are settled on several days
			must(t, l.Settle(t.Context(), r, nil))
		}
		fresh := exampleOf("new")
		fresh.Time = midnight.Add(12 * time.Hour)
		must(t, l.Settle(t.Context(), fresh, nil))
		outage.is.Store(true)
		waiting := exampleOf("waiting")
		waiting.Time = midnight.Add(-1)
		must(t, l.Settle(t.Context(), waiting, nil))
		outage.is.Store(false)
		time.Sleep(time.Second)
		indexed := func() (n int) {
			for _, key := range mini.Keys() {
				if strings.HasPrefix(key, "{n}:settled:day:") {
					members, err := mini.ZMembers(key)
					must(t, err)
					n += len(members)
				}
			}
			return n
		}
		prune := func(before time.Time, want int) {
			t.Helper()
			set(now.Add(time.Hour))
			if n, err := l.Prune(t.Context(), before); err != nil || n != want {
				t.Errorf("Prune(%v): %d, %v; want %d", before, n, err, want)
			}
			l.wantSettled(t, old/2+2)
			wantIdentity(t, client, "alice")
		}
		prune(midnight.Add(-1), 0)
		prune(midnight, old+1)
		if n := indexed(); n != 1 {
			t.Errorf("%d records are in the indexes by when they were settled, want 1", n)
		}
		prune(midnight.Add(24*time.Hour-1), 0)
		for _, key := range []string{"records:", "index:"} {
			if mini.Exists("{n}:" + key + "2026-11-23") {
				t.Errorf("there is still a key %s2026-11-23", key)
			}
		}
		if days, err := mini.Members("{n}:days"); err != nil || len(days) != 1 {
			t.Errorf("days %v, %v; want one", days, err)
		}
		prune(midnight.AddDate(0, 0, 1), 1)
		if n := indexed(); n != 0 {
			t.Errorf("%d records are in the indexes by when they were settled, want none", n)
		}

		// A day that was pruned takes records, and is pruned again.
		late := exampleOf("late")
		late.Time = midnight.Add(-time.Hour)
		must(t, l.Settle(t.Context(), late, nil))
		set(now.Add(time.Hour))
		if n, err := l.Prune(t.Context(), midnight); err != nil || n != 1 {
			t.Errorf("Prune: %d, %v; want 1", n, err)
		}
		wantIdentity(t, client, "alice")
	})
}

// TestManyNodesPruneOneDayAnHour, all together.
func TestManyNodesPruneOneDayAnHour(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		nodes := []*node{open(t, client), open(t, clientOf(t, mini)), open(t, clientOf(t, mini))}
		nodes[0].declareAlice(t)
		now := today
		mini.SetTime(now)
		for day := range 5 {
			r := exampleOf(fmt.Sprint(day))
			r.Time = today.AddDate(0, 0, -day-1)
			must(t, nodes[0].Settle(t.Context(), r, nil))
		}
		for left := 4; left >= 0; left-- {
			pruned := 0
			for i, n := range nodes {
				now = now.Add(19 * time.Minute)
				mini.SetTime(now)
				count, err := n.Prune(t.Context(), today)
				must(t, err)
				if pruned += count; count > 0 && i > 0 {
					t.Errorf("node %d pruned within the hour", i)
				}
			}
			if ids := recordsIn(t, nodes[0], billing.RecordFilter{}); pruned != 1 || len(ids) != left {
				t.Errorf("%d were pruned, %v are left, want %d", pruned, ids, left)
			}
			now = now.Add(10 * time.Minute)
		}
	})
}

// TestPruneWithAWrongClock: a process whose clock is ahead deletes nothing that its
// store's clock would keep; one whose clock is behind deletes less.
func TestPruneWithAWrongClock(t *testing.T) {
	for _, wrong := range []time.Duration{40 * 24 * time.Hour, -40 * 24 * time.Hour} {
		inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
			clock := func() time.Time { return today.Add(wrong) }
			mini.SetTime(today)
			l := openWith(t, client, redisledger.Options{Now: clock})
			l.declareAlice(t)
			for day := range 60 {
				r := exampleOf(fmt.Sprint(day))
				r.Time = today.AddDate(0, 0, -day)
				must(t, l.Settle(t.Context(), r, nil))
			}
			retention := 30 * 24 * time.Hour
			for range 60 {
				if _, err := l.Prune(t.Context(), clock().Add(-retention)); err != nil {
					t.Fatal(err)
				}
				mini.Del("{n}:pruned")
			}
			want := 31
			if wrong < 0 {
				want = 60
			}
			if ids := recordsIn(t, l, billing.RecordFilter{}); len(ids) != want {
				t.Errorf("with the clock %v off, %d days are left, want %d", wrong, len(ids), want)
			}
		})
	}
}

// TestPrunedDayDoesNotComeBack: what an earlier process left in the spool, though Redis
// had it, is not charged again, nor is what Redis is told again because it went back.
func TestPrunedDayDoesNotComeBack(t *testing.T) {
	for _, restarts := range []bool{true, false} {
		inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
			options := redisledger.Options{Spool: t.TempDir()}
			l := openWith(t, client, options)
			l.declareAlice(t)
			mini.SetTime(today.AddDate(0, 1, 0))
			l.settle(t, "a", "b")
			if restarts {
				must(t, l.close())
			}
			other := open(t, clientOf(t, mini))
			if n, err := other.Prune(t.Context(), today.AddDate(0, 0, 1)); n != 2 || err != nil {
				t.Errorf("Prune: %d, %v", n, err)
			}
			if restarts {
				l = openWith(t, client, options)
			} else {
				for _, key := range mini.Keys() {
					if len(key) == len("{n}:settled:")+len(newID()) {
						mini.Del(key) // as of one who was not heard of for a day
					}
				}
			}
			time.Sleep(3 * time.Second)
			l.wantSettled(t, 2)
			if ids := recordsIn(t, l, billing.RecordFilter{}); len(ids) != 0 {
				t.Errorf("the records %v are back", ids)
			}
			wantIdentity(t, client, "alice")
		})
	}
}

// TestRecordOfAnyDay is found in few round trips.
func TestRecordOfAnyDay(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		const atOnce, days = 128, 133
		for i := range days {
			r := exampleOf(fmt.Sprint(i))
			r.Time = r.Time.AddDate(0, 0, -i)
			must(t, l.Settle(t.Context(), r, nil))
		}
		trips := new(roundTrips)
		client.AddHook(pipelineHook(trips.hook))
		for id, want := range map[string]int64{"0": 2, fmt.Sprint(atOnce - 1): 2, fmt.Sprint(days - 1): 3} {
			if r, err := l.Record(t.Context(), id); err != nil || r.ID != id {
				t.Errorf("Record(%s): %+v, %v", id, r, err)
			}
			trips.want(t, "Record "+id, want)
		}
	})
}
